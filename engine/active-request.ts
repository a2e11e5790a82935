// One request inside the engine: its choices, the events its reader gets, its clock. Knows nothing of steps and blocks.

import type { GenerateRequest, RequestTimings, TokenLogprob } from './api.js'
import { type Choice, type Ending, tokenLogprob } from './choice.js'
import type { EngineError } from './errors.js'
import { EventQueue, type EventQueueOwner } from './event-queue.js'
import type { Sequence } from './sequence.js'
import type { RawLogprob, RowResult } from './step-plan.js'
import type { TokenTable } from './token-table.js'

export class ActiveRequest {
  readonly request: GenerateRequest
  readonly events: EventQueue
  readonly arrivedAt = performance.now()
  promptIds: Int32Array = new Int32Array(0)
  choices: readonly Choice[] = []
  /** No further event will come. */
  done = false
  onRelease: () => void = () => {}
  readonly #table: TokenTable | null
  readonly #promptLogprobs: (TokenLogprob | null)[] = [null]
  #started = false
  #admittedAt = 0
  readonly #firstTokenAt: number[] = []

  constructor(request: GenerateRequest, table: TokenTable | null, owner: EventQueueOwner) {
    this.request = request
    this.#table = table
    this.events = new EventQueue(owner)
  }

  get sequences(): readonly Sequence[] {
    return this.choices.map((choice) => choice.sequence)
  }

  /** Its first tokens are in a plan. */
  admitted(): void {
    if (this.#admittedAt === 0) this.#admittedAt = performance.now()
    if (this.request.promptLogprobs === undefined) this.#start()
  }

  /** Log-probabilities of the prompt come chunk by chunk, and again from the start after a preemption. */
  addPrompt(result: RowResult): void {
    if (this.request.promptLogprobs === undefined || this.#started) return
    const first = Math.max(result.row.from + 1, this.request.promptLogprobsFrom ?? 1)
    result.prompt.forEach((raw: RawLogprob, i) => { this.#promptLogprobs[first + i] = tokenLogprob(raw, this.#table) })
    if (result.row.to >= this.promptIds.length - 1) this.#start()
  }

  /** A new token of one choice. Returns true where it is the last. */
  addToken(choice: Choice, tokenId: number, logprob: RawLogprob | null): boolean {
    this.#firstTokenAt[choice.sequence.index] ??= performance.now()
    const { text, ending } = choice.accept(tokenId)
    this.events.push({
      type: 'delta', index: choice.sequence.index, text, tokenIds: [tokenId],
      ...(logprob === null ? {} : { logprobs: [tokenLogprob(logprob, this.#table)] }),
    })
    if (ending !== null) this.finish(choice, ending)
    return ending !== null
  }

  /** The last event of a choice; after the last choice, the end. */
  finish(choice: Choice, ending: Ending): void {
    if (choice.finished) return
    choice.finished = true
    this.#start()
    const { text, ending: { reason, stopReason } } = choice.flush(ending)
    const { index, outputIds } = choice.sequence
    this.events.push({
      type: 'finished', index, text, reason, stopReason, completionTokens: outputIds.length, timings: this.#timings(choice.sequence),
    })
    if (this.choices.every((other) => other.finished)) this.#end()
  }

  fail(error: EngineError): void {
    if (this.done) return
    this.done = true
    this.events.fail(error)
  }

  #end(): void {
    this.done = true
    this.events.end()
  }

  #start(): void {
    if (this.#started) return
    this.#started = true
    this.events.push({
      type: 'started',
      promptTokenIds: [...this.promptIds],
      cachedTokens: this.choices[0]?.sequence.cachedTokens ?? 0,
      ...(this.request.promptLogprobs === undefined ? {} : { promptLogprobs: Array.from(this.promptIds, (_, i) => this.#promptLogprobs[i] ?? null) }),
    })
  }

  #timings(sequence: Sequence): RequestTimings {
    const now = performance.now()
    const admittedAt = this.#admittedAt || now
    const firstTokenAt = this.#firstTokenAt[sequence.index] ?? now
    return {
      queuedMs: admittedAt - this.arrivedAt,
      prefillMs: firstTokenAt - admittedAt,
      decodeMs: now - firstTokenAt,
      ttftMs: firstTokenAt - this.arrivedAt,
      preemptions: sequence.preemptions,
    }
  }
}
