// Engine events as legacy completions: one JSON body, or chunks. Choice `prompt * n + i` is the i-th of its prompt.

import type { GenerateEvent, TokenLogprob } from '../../engine/api.js'
import type { PromptEvent } from '../generation.js'
import { LegacyLogprobsWriter, promptLogprobs, type LegacyLogprobs } from './logprobs.js'
import { Usage, type UsageBody } from './usage.js'

export interface CompletionAnswer {
  readonly id: string
  /** Unix seconds. */
  readonly created: number
  readonly model: string
  readonly fingerprint: string
  readonly n: number
  /** One entry a prompt: its text where `echo` was asked for, else null. */
  readonly echo: ReadonlyArray<EchoedPrompt | null>
  readonly logprobs: boolean
  readonly promptLogprobs: boolean
  readonly tokenIds: boolean
  readonly includeUsage: boolean
  readonly continuousUsage: boolean
}

export interface EchoedPrompt {
  readonly text: string
  /** The prompt's first token, which has no log-probability. A <bos> that the server put in front is named, not shown. */
  readonly firstToken: FirstToken
}

export interface FirstToken {
  readonly name: string
  readonly shown: string
}

interface CompletionChoice {
  readonly index: number
  readonly text: string
  readonly logprobs: LegacyLogprobs | null
  readonly finish_reason: string | null
  readonly stop_reason?: string | number | null
  readonly prompt_logprobs?: object
  readonly token_ids?: readonly number[]
  readonly prompt_token_ids?: readonly number[]
}

export interface CompletionChunk {
  readonly id: string
  readonly object: 'text_completion'
  readonly created: number
  readonly model: string
  readonly system_fingerprint: string
  readonly choices: readonly CompletionChoice[]
  readonly usage?: UsageBody | null
}

type Started = Extract<GenerateEvent, { type: 'started' }>
type Rest = Exclude<GenerateEvent, Started>

/** The chunks of a streamed answer. The first arrives once the engine has admitted the request. */
export async function* completionChunks(answer: CompletionAnswer, events: AsyncIterable<PromptEvent>): AsyncGenerator<CompletionChunk> {
  const usage = new Usage()
  const choices = openChoices(answer)
  for await (const { prompt, event } of events) {
    usage.add(event, prompt)
    for (const piece of piecesOf(answer, choices, prompt, event)) yield chunk(answer, [piece], usage)
  }
  if (answer.includeUsage) yield { ...chunk(answer, [], usage), usage: usage.body }
}

function piecesOf(answer: CompletionAnswer, choices: readonly Choice[], prompt: number, event: GenerateEvent): CompletionChoice[] {
  if (event.type !== 'started') return choices[prompt * answer.n + event.index]!.piece(event)
  const own = choices.slice(prompt * answer.n, (prompt + 1) * answer.n)
  return own.flatMap((choice) => choice.opening(event))
}

/** The whole answer as one body. */
export async function completion(answer: CompletionAnswer, events: AsyncIterable<PromptEvent>): Promise<object> {
  const usage = new Usage()
  const choices = openChoices(answer)
  const bodies = choices.map((choice) => new CollectedChoice(choice.index))
  for await (const { prompt, event } of events) {
    usage.add(event, prompt)
    for (const piece of piecesOf(answer, choices, prompt, event)) bodies[piece.index]!.add(piece)
  }
  return { ...chunk(answer, [], usage), choices: bodies.map(({ body }) => body), usage: usage.body }
}

function openChoices(answer: CompletionAnswer): Choice[] {
  return answer.echo.flatMap((echo, prompt) => Array.from({ length: answer.n }, (_, i) => new Choice(answer, prompt * answer.n + i, echo)))
}

/** Turns one choice's events into pieces; keeps the text offsets of its log-probabilities. */
class Choice {
  readonly index: number
  readonly #answer: CompletionAnswer
  readonly #echo: EchoedPrompt | null
  readonly #logprobs = new LegacyLogprobsWriter()

  constructor(answer: CompletionAnswer, index: number, echo: EchoedPrompt | null) {
    this.#answer = answer
    this.index = index
    this.#echo = echo
  }

  /** The echoed prompt and its extras; nothing at all where none of it was asked for. */
  opening(event: Started): CompletionChoice[] {
    const { promptLogprobs: scored } = event
    if (this.#echo === null && !this.#answer.promptLogprobs && !this.#answer.tokenIds) return []
    return [{
      index: this.index,
      text: this.#echo?.text ?? '',
      logprobs: this.#echo !== null && scored !== undefined ? this.#writeLogprobs(scored, this.#echo.firstToken) : null,
      finish_reason: null,
      ...(this.#answer.promptLogprobs && scored && { prompt_logprobs: promptLogprobs(scored) }),
      ...(this.#answer.tokenIds && { prompt_token_ids: event.promptTokenIds, token_ids: [] }),
    }]
  }

  piece(event: Rest): CompletionChoice[] {
    const { index } = this
    if (event.type === 'finished') {
      return [{ index, text: event.text, logprobs: null, finish_reason: event.reason, stop_reason: event.stopReason }]
    }
    const logprobs = event.logprobs?.length ? this.#writeLogprobs(event.logprobs) : null
    const tokenIds = this.#answer.tokenIds && event.tokenIds.length > 0
    if (event.text === '' && logprobs === null && !tokenIds) return []
    return [{ index, text: event.text, logprobs, finish_reason: null, ...(tokenIds && { token_ids: event.tokenIds }) }]
  }

  #writeLogprobs(tokens: ReadonlyArray<TokenLogprob | null>, firstToken?: FirstToken): LegacyLogprobs | null {
    return this.#answer.logprobs ? this.#logprobs.write(tokens, firstToken) : null
  }
}

/** Pieces of one choice joined. */
class CollectedChoice {
  readonly #tokenIds: number[] = []
  #body: CompletionChoice

  constructor(index: number) {
    this.#body = { index, text: '', logprobs: null, finish_reason: null, stop_reason: null }
  }

  add(piece: CompletionChoice): void {
    const { text, logprobs } = this.#body
    this.#body = { ...this.#body, ...piece, text: text + piece.text, logprobs: joinLogprobs(logprobs, piece.logprobs) }
    if (piece.token_ids !== undefined) this.#tokenIds.push(...piece.token_ids)
  }

  get body(): CompletionChoice {
    return this.#body.token_ids === undefined ? this.#body : { ...this.#body, token_ids: this.#tokenIds }
  }
}

function joinLogprobs(a: LegacyLogprobs | null, b: LegacyLogprobs | null): LegacyLogprobs | null {
  if (a === null || b === null) return a ?? b
  a.tokens.push(...b.tokens)
  a.token_logprobs.push(...b.token_logprobs)
  a.top_logprobs.push(...b.top_logprobs)
  a.text_offset.push(...b.text_offset)
  return a
}

function chunk(answer: CompletionAnswer, choices: readonly CompletionChoice[], usage: Usage): CompletionChunk {
  return {
    id: answer.id,
    object: 'text_completion',
    created: answer.created,
    model: answer.model,
    system_fingerprint: answer.fingerprint,
    choices,
    ...(answer.includeUsage && { usage: answer.continuousUsage ? usage.body : null }),
  }
}
