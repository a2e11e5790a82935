// Engine events as chat completions: one JSON body, or chunks in OpenAI's order (role, content, finish, usage).

import type { GenerateEvent, TokenLogprob } from '../../engine/api.js'
import type { PromptEvent } from '../generation.js'
import { chatLogprobs, promptLogprobs } from './logprobs.js'
import { Usage, type UsageBody } from './usage.js'

/** What the answer needs of the request. */
export interface ChatAnswer {
  readonly id: string
  /** Unix seconds. */
  readonly created: number
  readonly model: string
  readonly fingerprint: string
  readonly n: number
  readonly logprobs: boolean
  readonly tokenIds: boolean
  readonly includeUsage: boolean
  readonly continuousUsage: boolean
  /** Put before the first delta: the last assistant message, with vLLM's `echo`. */
  readonly prefix: string
}

type Started = Extract<GenerateEvent, { type: 'started' }>
type Delta = Extract<GenerateEvent, { type: 'delta' }>
type Finished = Extract<GenerateEvent, { type: 'finished' }>

interface ChunkChoice {
  readonly index: number
  readonly delta: { readonly role?: 'assistant'; readonly content?: string; readonly refusal?: null }
  readonly logprobs: object | null
  readonly finish_reason: string | null
  readonly stop_reason?: string | number | null
  readonly token_ids?: readonly number[]
}

export interface ChatChunk {
  readonly id: string
  readonly object: 'chat.completion.chunk'
  readonly created: number
  readonly model: string
  readonly system_fingerprint: string
  readonly choices: readonly ChunkChoice[]
  readonly usage?: UsageBody | null
  readonly prompt_token_ids?: readonly number[]
}

/** The chunks of a streamed answer. The first arrives once the engine has admitted the request. */
export async function* chatChunks(answer: ChatAnswer, events: AsyncIterable<PromptEvent>): AsyncGenerator<ChatChunk> {
  const usage = new Usage()
  for await (const { event } of events) {
    usage.add(event)
    for (const choice of choicesOf(answer, event)) yield chunk(answer, [choice], usage, promptIds(answer, event, choice))
  }
  if (answer.includeUsage) yield { ...chunk(answer, [], usage), usage: usage.body }
}

function choicesOf(answer: ChatAnswer, event: GenerateEvent): ChunkChoice[] {
  if (event.type === 'started') return Array.from({ length: answer.n }, (_, index) => openingChoices(answer, index)).flat()
  if (event.type === 'delta') return isSilent(answer, event) ? [] : [deltaChoice(answer, event)]
  const finish = { index: event.index, delta: {}, logprobs: null, finish_reason: event.reason, stop_reason: event.stopReason }
  return event.text === '' ? [finish] : [textChoice(event.index, event.text), finish]
}

function openingChoices(answer: ChatAnswer, index: number): ChunkChoice[] {
  const role: ChunkChoice = { index, delta: { role: 'assistant', content: '', refusal: null }, logprobs: null, finish_reason: null }
  return answer.prefix === '' ? [role] : [role, textChoice(index, answer.prefix)]
}

function textChoice(index: number, content: string): ChunkChoice {
  return { index, delta: { content }, logprobs: null, finish_reason: null }
}

/** Nothing to tell: the text is held back and nobody asked for the tokens. */
function isSilent(answer: ChatAnswer, delta: Delta): boolean {
  return delta.text === '' && !(answer.logprobs && delta.logprobs?.length) && !(answer.tokenIds && delta.tokenIds.length)
}

function deltaChoice(answer: ChatAnswer, { index, text, tokenIds, logprobs }: Delta): ChunkChoice {
  return {
    ...textChoice(index, text),
    logprobs: answer.logprobs && logprobs ? chatLogprobs(logprobs) : null,
    ...(answer.tokenIds && { token_ids: tokenIds }),
  }
}

function promptIds(answer: ChatAnswer, event: GenerateEvent, choice: ChunkChoice): { prompt_token_ids?: readonly number[] } {
  return answer.tokenIds && event.type === 'started' && choice.index === 0 ? { prompt_token_ids: event.promptTokenIds } : {}
}

function chunk(answer: ChatAnswer, choices: readonly ChunkChoice[], usage: Usage, extra: object = {}): ChatChunk {
  return {
    id: answer.id,
    object: 'chat.completion.chunk',
    created: answer.created,
    model: answer.model,
    system_fingerprint: answer.fingerprint,
    choices,
    ...(answer.includeUsage && { usage: answer.continuousUsage ? usage.body : null }),
    ...extra,
  }
}

/** The whole answer as one body. */
export async function chatCompletion(answer: ChatAnswer, events: AsyncIterable<PromptEvent>): Promise<object> {
  const usage = new Usage()
  const choices = Array.from({ length: answer.n }, (_, index) => new ChatChoice(answer, index))
  let started: Started | undefined
  for await (const { event } of events) {
    usage.add(event)
    if (event.type === 'started') started = event
    else choices[event.index]!.add(event)
  }
  return {
    id: answer.id,
    object: 'chat.completion',
    created: answer.created,
    model: answer.model,
    system_fingerprint: answer.fingerprint,
    choices: choices.map((choice) => choice.body),
    usage: usage.body,
    ...(answer.tokenIds && { prompt_token_ids: started?.promptTokenIds }),
    ...(started?.promptLogprobs && { prompt_logprobs: promptLogprobs(started.promptLogprobs) }),
  }
}

class ChatChoice {
  readonly #answer: ChatAnswer
  readonly #index: number
  readonly #logprobs: TokenLogprob[] = []
  readonly #tokenIds: number[] = []
  #text: string
  #finished: Finished | undefined

  constructor(answer: ChatAnswer, index: number) {
    this.#answer = answer
    this.#index = index
    this.#text = answer.prefix
  }

  add(event: Delta | Finished): void {
    this.#text += event.text
    if (event.type === 'finished') this.#finished = event
    else {
      this.#tokenIds.push(...event.tokenIds)
      this.#logprobs.push(...(event.logprobs ?? []))
    }
  }

  get body(): object {
    return {
      index: this.#index,
      message: { role: 'assistant', content: this.#text, refusal: null },
      logprobs: this.#answer.logprobs ? chatLogprobs(this.#logprobs) : null,
      finish_reason: this.#finished?.reason ?? null,
      stop_reason: this.#finished?.stopReason ?? null,
      ...(this.#answer.tokenIds && { token_ids: this.#tokenIds }),
    }
  }
}
