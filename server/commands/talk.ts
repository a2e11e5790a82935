// Where `lorikeet chat` gets its answers: a server that runs, or an engine started for the purpose.

import type { ChatMessage, Engine, SamplingParams } from '../../engine/api.js'
import { newId } from '../request-scope.js'
import { UsageError } from '../settings.js'

export interface TalkOptions {
  readonly sampling: Pick<SamplingParams, 'temperature' | 'seed'>
  readonly maxTokens?: number
}

export interface Talk {
  readonly model: string
  /** The answer's text as it is written. Aborting the signal ends it without an error. */
  answer(messages: readonly ChatMessage[], signal: AbortSignal): AsyncIterable<string>
  close(): Promise<void>
}

export class EngineTalk implements Talk {
  readonly #engine: Engine
  readonly #options: TalkOptions

  constructor(engine: Engine, options: TalkOptions) {
    this.#engine = engine
    this.#options = options
  }

  get model(): string {
    return this.#engine.info.name
  }

  async *answer(messages: readonly ChatMessage[], signal: AbortSignal): AsyncGenerator<string> {
    try {
      for await (const event of this.#engine.generate({ id: newId('chat'), prompt: { messages }, ...this.#options }, signal)) {
        if (event.type !== 'started' && event.text !== '') yield event.text
      }
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }

  close(): Promise<void> {
    return this.#engine.close()
  }
}

export interface ServerAddress {
  readonly url: string
  readonly apiKey: string | undefined
  /** Empty = the first that the server lists. */
  readonly model: string
}

export class ServerTalk implements Talk {
  readonly model: string
  readonly #address: ServerAddress
  readonly #options: TalkOptions

  private constructor(address: ServerAddress, model: string, options: TalkOptions) {
    this.#address = address
    this.model = model
    this.#options = options
  }

  /** @throws UsageError when nothing useful answers there. */
  static async connect(address: ServerAddress, options: TalkOptions): Promise<ServerTalk> {
    if (address.model !== '') return new ServerTalk(address, address.model, options)
    const response = await request(address, '/v1/models')
    const list = (await response.json()) as { data: Array<{ id: string }> }
    const [first] = list.data
    if (first === undefined) throw new UsageError(`${address.url} lists no model`)
    return new ServerTalk(address, first.id, options)
  }

  async *answer(messages: readonly ChatMessage[], signal: AbortSignal): AsyncGenerator<string> {
    const { sampling, maxTokens } = this.#options
    const body = { model: this.model, messages, stream: true, ...sampling, ...(maxTokens !== undefined && { max_tokens: maxTokens }) }
    try {
      const response = await request(this.#address, '/v1/chat/completions', body, signal)
      for await (const data of events(response)) yield contentOf(data)
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }

  async close(): Promise<void> {}
}

/** @throws UsageError when the server cannot be reached or refuses. */
async function request({ url, apiKey }: ServerAddress, path: string, body?: object, signal?: AbortSignal): Promise<Response> {
  const response = await fetch(new URL(path, url), {
    headers: { ...(body && { 'content-type': 'application/json' }), ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }) },
    ...(body && { method: 'POST', body: JSON.stringify(body) }),
    ...(signal && { signal }),
  }).catch((error: Error) => {
    if (signal?.aborted === true) throw error
    throw new UsageError(`${url} does not answer: ${(error.cause as Error | undefined)?.message ?? error.message}`)
  })
  if (response.ok) return response
  const text = await response.text()
  throw new UsageError(`${url} answered ${response.status}: ${messageOf(text)}`)
}

function messageOf(text: string): string {
  try {
    return (JSON.parse(text) as { error: { message: string } }).error.message
  } catch {
    return text.slice(0, 200)
  }
}

/** The data of each server-sent event up to [DONE]. */
async function* events(response: Response): AsyncGenerator<string> {
  let rest = ''
  for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      if (line === 'data: [DONE]') return
      if (line.startsWith('data: ')) yield line.slice('data: '.length)
    }
  }
}

function contentOf(data: string): string {
  const chunk = JSON.parse(data) as { error?: { message: string }; choices?: Array<{ delta: { content?: string } }> }
  if (chunk.error !== undefined) throw new UsageError(chunk.error.message)
  return chunk.choices?.[0]?.delta.content ?? ''
}
