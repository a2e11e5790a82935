// A checked row -> token ids and which of them are targets, by the serving tokenizer and chat template. Text never becomes a control
// token; the one exception is a <bos> at the start and an <eos> at the end of plain text, which are not doubled.

import type { ChatMessage } from '../api.js'
import type { ChatTemplate, TemplatePart } from '../chat-template.js'
import { EngineError } from '../errors.js'
import type { Tokenizer } from '../tokenizer.js'
import { RowFault } from './data-error.js'
import type { TrainMessage, TrainRow } from './row-format.js'
import type { LossOn } from './types.js'

export interface Sample {
  readonly tokenIds: readonly number[]
  /** Half-open spans of positions whose token is a target, per loss kind; null where the format has no such turns. Position 0 never is. */
  readonly targets: Readonly<Record<LossOn, readonly Span[] | null>>
}

export type Span = readonly [from: number, to: number]

const BOS = '<bos>'
const EOS = '<eos>'
/** Answers of a conversation repeat each other's prefixes; texts shorter than this are worth remembering between samples too. */
const SHORT_TEXT = 32
const MAX_REMEMBERED = 1024

export class SampleEncoder {
  readonly #tokenizer: Tokenizer
  readonly #template: ChatTemplate
  readonly #short = new Map<string, readonly number[]>()

  constructor(tokenizer: Tokenizer, template: ChatTemplate) {
    this.#tokenizer = tokenizer
    this.#template = template
  }

  /** Ids of <start_of_turn> and <end_of_turn>. @throws EngineError INVALID_REQUEST where the vocabulary has none */
  turnTokenIds(): number[] {
    return ['<start_of_turn>', '<end_of_turn>'].map((spelling) => {
      const id = this.#tokenizer.controlId(spelling)
      if (id !== undefined) return id
      throw new EngineError('INVALID_REQUEST', `train_turn_tokens: the vocabulary has no ${spelling}`, { param: 'train_turn_tokens' })
    })
  }

  /** @throws RowFault refused_by_template */
  encode(row: TrainRow): Promise<Sample> {
    return row.type === 'chat' ? this.#chat(row.messages) : this.#plain(row)
  }

  async #chat(messages: readonly TrainMessage[]): Promise<Sample> {
    const memo = new Map<string, readonly number[]>()
    const upTo = async (n: number, withHeader: boolean) => this.#parts(this.#render(messages.slice(0, n), withHeader), memo)
    const tokenIds = await upTo(messages.length, false)
    const answers: { readonly span: Span; readonly weight: 0 | 1 }[] = []
    for (const [i, { role, weight }] of messages.entries()) {
      if (role !== 'assistant') continue
      const from = commonPrefix(await upTo(i, true), tokenIds)
      const to = i === messages.length - 1 ? tokenIds.length : commonPrefix(await upTo(i + 1, false), tokenIds)
      answers.push({ span: [from, to], weight })
    }
    const wanted = answers.filter(({ weight }) => weight === 1).map(({ span }) => span)
    const last = answers.at(-1)!
    return {
      tokenIds,
      targets: {
        all: without([1, tokenIds.length], answers.filter(({ weight }) => weight === 0).map(({ span }) => span)),
        completion: last.weight === 1 ? [last.span] : [],
        assistant: wanted,
      },
    }
  }

  async #plain({ prompt, completion, isText }: Extract<TrainRow, { type: 'plain' }>): Promise<Sample> {
    const whole = prompt + completion
    const nHead = whole.startsWith(BOS) ? BOS.length : 0
    const nTail = whole.endsWith(EOS) ? EOS.length : 0
    const body = whole.slice(nHead, Math.max(nHead, whole.length - nTail))
    const eosId = this.#tokenizer.controlId(EOS)
    if (eosId === undefined) throw new RowFault('refused_by_template', `the vocabulary has no ${EOS}`)
    const { bosId } = this.#tokenizer
    const tokenIds = [bosId, ...await this.#text(body), eosId]
    // Where prompt and completion grow together in one token, that token is the completion's.
    const before = isText ? [bosId] : [bosId, ...await this.#text(prompt.slice(nHead))]
    const from = Math.max(1, commonPrefix(before, tokenIds))
    return {
      tokenIds,
      targets: { all: [[1, tokenIds.length]], completion: isText ? null : [[from, tokenIds.length]], assistant: null },
    }
  }

  #render(messages: readonly ChatMessage[], addGenerationPrompt: boolean): TemplatePart[] {
    try {
      return this.#template(messages.map(({ role, content }) => ({ role, content })), addGenerationPrompt)
    } catch (error) {
      throw new RowFault('refused_by_template', (error as Error).message)
    }
  }

  async #parts(parts: readonly TemplatePart[], memo: Map<string, readonly number[]>): Promise<number[]> {
    const ids: number[] = []
    for (const part of parts) {
      if ('control' in part) ids.push(this.#control(part.control))
      else for (const id of await this.#remembered(part.text, memo)) ids.push(id)
    }
    const { bosId } = this.#tokenizer
    return ids[0] === bosId ? ids : [bosId, ...ids]
  }

  async #remembered(text: string, memo: Map<string, readonly number[]>): Promise<readonly number[]> {
    const known = memo.get(text) ?? this.#short.get(text)
    if (known !== undefined) return known
    const ids = await this.#text(text)
    memo.set(text, ids)
    if (text.length <= SHORT_TEXT && this.#short.size < MAX_REMEMBERED) this.#short.set(text, ids)
    return ids
  }

  async #text(text: string): Promise<readonly number[]> {
    return text === '' ? [] : Array.from(await this.#tokenizer.encode(text))
  }

  #control(spelling: string): number {
    const id = this.#tokenizer.controlId(spelling)
    if (id !== undefined) return id
    throw new RowFault('refused_by_template', `the vocabulary has no ${spelling}`)
  }
}

function commonPrefix(a: readonly number[], b: readonly number[]): number {
  let n = 0
  while (n < a.length && n < b.length && a[n] === b[n]) n++
  return n
}

/** A span less others that lie in it, in order. */
function without([from, to]: Span, holes: readonly Span[]): Span[] {
  const spans: Span[] = []
  let at = from
  for (const [start, end] of holes) {
    if (start > at) spans.push([at, start])
    at = Math.max(at, end)
  }
  if (to > at) spans.push([at, to])
  return spans
}
