// One choice on its way to the reader: its sequence, its text so far, and what ends it.

import type { FinishReason, TokenLogprob } from './api.js'
import { Detokenizer } from './detokenizer.js'
import type { Sequence } from './sequence.js'
import type { RawLogprob } from './step-plan.js'
import { StopStrings } from './stop-strings.js'
import type { TokenTable } from './token-table.js'

export interface ChoiceOptions {
  readonly table: TokenTable | null
  readonly stop: readonly string[]
  readonly includeStop: boolean
  readonly skipSpecialTokens: boolean
  readonly minTokens: number
  /** Stop ids that the request named: reported as the stop reason, unlike the model's own. */
  readonly namedStopIds: ReadonlySet<number>
}

export interface Ending {
  readonly reason: FinishReason
  readonly stopReason: string | number | null
}

export class Choice {
  readonly sequence: Sequence
  readonly #options: ChoiceOptions
  readonly #detokenizer: Detokenizer | null
  readonly #stops: StopStrings
  #nSeen = 0
  finished = false

  constructor(sequence: Sequence, options: ChoiceOptions) {
    this.sequence = sequence
    this.#options = options
    this.#detokenizer = options.table && new Detokenizer(options.table, options)
    this.#stops = new StopStrings(options.stop, { include: options.includeStop })
  }

  /** Takes in the tokens that an engine before this one has shown. Not null: they hold the end already. */
  resume(): Ending | null {
    for (const tokenId of this.sequence.outputIds) {
      const { ending } = this.accept(tokenId)
      if (ending !== null) return ending
    }
    return null
  }

  /** Text that a new output token makes safe to show, and the end of the choice where this token is it. */
  accept(tokenId: number): { text: string; ending: Ending | null } {
    this.#nSeen++
    const stopsHere = this.sequence.stopIds.has(tokenId) && this.#nSeen > this.#options.minTokens
    const text = stopsHere && !this.#options.includeStop ? '' : this.#text(tokenId)
    if (this.#stops.stopped !== null) return { text, ending: { reason: 'stop', stopReason: this.#stops.stopped } }
    if (stopsHere) return { text, ending: { reason: 'stop', stopReason: this.#options.namedStopIds.has(tokenId) ? tokenId : null } }
    if (this.#nSeen >= this.sequence.maxTokens) return { text, ending: { reason: 'length', stopReason: null } }
    return { text, ending: null }
  }

  /** The text held back so far, for the last event; a stop string may still come to light in it. */
  flush(ending: Ending): { text: string; ending: Ending } {
    if (this.#stops.stopped !== null) return { text: '', ending }
    const text = this.#stops.push(this.#detokenizer?.flush() ?? '')
    if (this.#stops.stopped !== null) return { text, ending: { reason: 'stop', stopReason: this.#stops.stopped } }
    return { text: text + this.#stops.flush(), ending }
  }

  #text(tokenId: number): string {
    const text = this.#detokenizer?.push(tokenId) ?? ''
    if (this.#nSeen > this.#options.minTokens) return this.#stops.push(text)
    return this.#stops.flush() + text
  }
}

/** A token's log-probability and its alternatives with their bytes and text. */
export function tokenLogprob(raw: RawLogprob, table: TokenTable | null): TokenLogprob {
  const token = (tokenId: number, logprob: number) => ({
    tokenId, logprob, text: table?.text(tokenId) ?? '', bytes: [...(table?.bytes(tokenId) ?? [])],
  })
  return { ...token(raw.tokenId, raw.logprob), top: Array.from(raw.topIds, (id, i) => token(id, raw.topLogprobs[i]!)) }
}
