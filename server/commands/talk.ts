// Where `lorikeet chat` gets its answers: a server that runs, or an engine started for the purpose.

import type { ChatMessage, Engine, SamplingParams } from '../../engine/api.js'
import { newId } from '../request-scope.js'
import { UsageError } from '../settings.js'
import { ServerClient, sentEvents } from './server-client.js'

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
  readonly #server: ServerClient
  readonly #options: TalkOptions

  private constructor(server: ServerClient, model: string, options: TalkOptions) {
    this.#server = server
    this.model = model
    this.#options = options
  }

  /** @throws UsageError when nothing useful answers there. */
  static async connect(address: ServerAddress, options: TalkOptions): Promise<ServerTalk> {
    const server = new ServerClient(address.url, address.apiKey)
    if (address.model !== '') return new ServerTalk(server, address.model, options)
    const { data: [first] } = await server.json<{ data: Array<{ id: string }> }>('GET', '/v1/models')
    if (first === undefined) throw new UsageError(`${address.url} lists no model`)
    return new ServerTalk(server, first.id, options)
  }

  async *answer(messages: readonly ChatMessage[], signal: AbortSignal): AsyncGenerator<string> {
    const { sampling, maxTokens } = this.#options
    const body = { model: this.model, messages, stream: true, ...sampling, ...(maxTokens !== undefined && { max_tokens: maxTokens }) }
    try {
      const response = await this.#server.send('POST', '/v1/chat/completions', body, signal)
      for await (const data of sentEvents(response)) yield contentOf(data)
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }

  async close(): Promise<void> {}
}

function contentOf(data: string): string {
  const chunk = JSON.parse(data) as { error?: { message: string }; choices?: Array<{ delta: { content?: string } }> }
  if (chunk.error !== undefined) throw new UsageError(chunk.error.message)
  return chunk.choices?.[0]?.delta.content ?? ''
}
