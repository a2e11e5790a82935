// One WebSocket: many chats by id, cancel, ping, back-pressure. The protocol is in websocket-protocol.ts.

import type { FastifyBaseLogger } from 'fastify'
import type { ServerContext } from '../context.js'
import { ApiError, fromValidation, toApiError, type ValidationIssue } from '../errors.js'
import type { ApiKey } from '../keys.js'
import { chatChunks } from '../openai/chat-response.js'
import { parseJson } from '../openai/json.js'
import { LIMITS } from '../openai/limits.js'
import type { ChatCompletionBody } from '../openai/schemas.js'
import { SlowReaderError } from '../openai/sse.js'
import type { RequestScope } from '../request-scope.js'
import { openChat } from './chat.js'
import type { ClientMessage, ServerMessage } from './websocket-protocol.js'

/** The part of a `ws` socket that is used. */
export interface RawSocket {
  readonly bufferedAmount: number
  readonly readyState: number
  send(text: string): void
  ping(): void
  close(code: number, reason: string): void
  terminate(): void
  on(event: 'message', listener: (data: Buffer, isBinary: boolean) => void): void
  on(event: 'pong' | 'close', listener: () => void): void
  on(event: 'error', listener: (error: Error) => void): void
}

export interface BodyCheck {
  (body: unknown): boolean
  errors: ValidationIssue[] | null
}

export interface SocketCaller {
  readonly key: ApiKey | null
  readonly check: BodyCheck
  readonly log: FastifyBaseLogger
}

const OPEN = 1
const MAX_MISSED_PINGS = 2
const BACKLOG_POLL_MS = 20

export class ChatSocket {
  readonly #context: ServerContext
  readonly #socket: RawSocket
  readonly #caller: SocketCaller
  readonly #chats = new Map<string, RequestScope>()
  readonly #timer: NodeJS.Timeout
  #missedPings = 0
  #closeWhenIdle: number | undefined

  constructor(context: ServerContext, socket: RawSocket, caller: SocketCaller) {
    this.#context = context
    this.#socket = socket
    this.#caller = caller
    this.#timer = setInterval(() => this.#ping(), context.config.wsPing)
    socket.on('message', (data, isBinary) => this.#receive(data, isBinary))
    socket.on('pong', () => (this.#missedPings = 0))
    socket.on('error', (error) => caller.log.debug({ err: error }, 'socket failed'))
    socket.on('close', () => this.#closed())
  }

  get keyId(): string | undefined {
    return this.#caller.key?.id
  }

  close(code: number): void {
    this.#socket.close(code, '')
  }

  closeWhenIdle(code: number): void {
    this.#closeWhenIdle = code
    if (this.#chats.size === 0) this.close(code)
  }

  #closed(): void {
    clearInterval(this.#timer)
    for (const scope of this.#chats.values()) scope.abort('client_left')
  }

  #ping(): void {
    if (this.#missedPings >= MAX_MISSED_PINGS) return this.#socket.terminate()
    this.#missedPings++
    this.#socket.ping()
  }

  #send(message: ServerMessage): void {
    if (this.#socket.readyState === OPEN) this.#socket.send(JSON.stringify(message))
  }

  #fail(id: string | null, error: unknown): void {
    const told = toApiError(error)
    if (told.status >= 500) this.#caller.log.error({ err: error, code: told.code }, 'request failed')
    this.#send({ type: 'error', id, error: told.body.error })
  }

  #receive(data: Buffer, isBinary: boolean): void {
    let id: string | null = null
    try {
      if (isBinary) throw new ApiError(400, 'invalid_message', 'Send JSON in text frames.')
      const message = toMessage(parseJson(data))
      if (message.type === 'ping') return this.#send({ type: 'pong' })
      id = toId(message.id)
      if (message.type === 'cancel') return this.#cancel(id)
      this.#start(id, message)
    } catch (error) {
      this.#fail(id, error)
    }
  }

  #cancel(id: string): void {
    const scope = this.#chats.get(id)
    if (scope === undefined) throw new ApiError(404, 'unknown_id', 'No chat with this id is in flight on this socket.', { param: 'id' })
    scope.abort('cancelled')
  }

  /** @throws ApiError, EngineError when the chat cannot start. */
  #start(id: string, message: ClientMessage): void {
    if (message.type !== undefined && message.type !== 'request') {
      throw new ApiError(400, 'invalid_value', "'type' must be 'request', 'cancel' or 'ping'.", { param: 'type' })
    }
    if (this.#chats.has(id)) throw new ApiError(409, 'id_in_use', 'A chat with this id is in flight on this socket.', { param: 'id' })
    if (this.#chats.size >= LIMITS.wsRequestsPerSocket) {
      throw new ApiError(429, 'too_many_requests', `A socket carries at most ${LIMITS.wsRequestsPerSocket} chats at once.`)
    }
    const { type: _type, id: _id, ...fields } = message
    const { check, key } = this.#caller
    if (!check(fields)) throw fromValidation(check.errors ?? [])
    const body = { ...(fields as ChatCompletionBody), stream: true }
    const { scope, answer, events } = openChat(this.#context, body, key, body.adapter_miss ?? undefined)
    this.#chats.set(id, scope)
    void this.#run(id, scope, chatChunks(answer, events))
  }

  async #run(id: string, scope: RequestScope, chunks: ReturnType<typeof chatChunks>): Promise<void> {
    try {
      for await (const chunk of chunks) {
        this.#send({ type: 'chunk', id, chunk })
        if (this.#socket.bufferedAmount > this.#context.config.slowReader.maxBufferedBytes) await this.#drained(scope)
      }
      this.#end(id, { type: 'done', id })
    } catch (error) {
      if (error instanceof SlowReaderError) this.#cut()
      this.#chats.delete(id)
      this.#fail(id, error)
    } finally {
      this.#chats.delete(id)
      if (this.#closeWhenIdle !== undefined && this.#chats.size === 0) this.close(this.#closeWhenIdle)
    }
  }

  /** The id is free before the client can hear that it is. */
  #end(id: string, message: ServerMessage): void {
    this.#chats.delete(id)
    this.#send(message)
  }

  #cut(): void {
    this.#context.metrics.slowReaders.inc()
    this.#socket.terminate()
  }

  /** `ws` has no drain event: looks again until the backlog is gone. @throws SlowReaderError. */
  async #drained(scope: RequestScope): Promise<void> {
    const { maxBufferedBytes, patienceMs } = this.#context.config.slowReader
    const deadline = performance.now() + patienceMs
    while (this.#socket.bufferedAmount > maxBufferedBytes && !scope.signal.aborted) {
      if (performance.now() > deadline) {
        scope.abort('slow_reader')
        throw new SlowReaderError('The client does not read its socket.')
      }
      await new Promise((resolve) => setTimeout(resolve, BACKLOG_POLL_MS))
    }
  }
}

function toMessage(value: unknown): ClientMessage {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  throw new ApiError(400, 'invalid_message', 'A message is one JSON object.')
}

function toId(id: unknown): string {
  if (typeof id === 'string' && id.length >= 1 && id.length <= LIMITS.wsIdChars) return id
  throw new ApiError(400, 'invalid_type', `'id' must be a string of 1 to ${LIMITS.wsIdChars} characters.`, { param: 'id' })
}
