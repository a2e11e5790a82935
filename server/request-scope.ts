// The life of one HTTP or WebSocket generation: its id (always ours), its abort signal and why it was aborted.

import { randomUUID } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import { ApiError } from './errors.js'

export type AbortReason = 'client_left' | 'timeout' | 'draining' | 'slow_reader' | 'key_revoked' | 'cancelled'

/** "chatcmpl-..." and the like; never taken from a client. */
export const newId = (prefix: string): string => `${prefix}-${randomUUID().replaceAll('-', '')}`

export class RequestScope {
  readonly id: string
  readonly startedAt = performance.now()
  readonly #controller = new AbortController()
  readonly #timer: NodeJS.Timeout
  readonly #onClose: () => void
  #reason: AbortReason | undefined

  constructor(id: string, timeoutMs: number, onClose: () => void) {
    this.id = id
    this.#onClose = onClose
    this.#timer = setTimeout(() => this.abort('timeout'), timeoutMs)
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  get reason(): AbortReason | undefined {
    return this.#reason
  }

  abort(reason: AbortReason): void {
    this.#reason ??= reason
    this.#controller.abort(this.error)
  }

  /** Aborts when the connection closes before the answer is complete. */
  watch(response: ServerResponse): this {
    response.once('close', () => {
      if (!response.writableFinished) this.abort('client_left')
    })
    return this
  }

  /** What an aborted request answers, where somebody is left to read it. */
  get error(): ApiError {
    return new ApiError(...(ABORT_ERRORS[this.#reason ?? 'cancelled']))
  }

  /** Over, however it ended: whatever still runs for it stops. */
  close(): void {
    clearTimeout(this.#timer)
    this.#controller.abort()
    this.#onClose()
  }
}

const ABORT_ERRORS: Readonly<Record<AbortReason, [status: number, code: string, message: string]>> = {
  client_left: [499, 'request_aborted', 'The client closed the connection.'],
  timeout: [504, 'request_timeout', 'The request took longer than this server allows.'],
  draining: [503, 'shutting_down', 'The server is shutting down.'],
  slow_reader: [499, 'slow_reader', 'The client read too slowly.'],
  key_revoked: [401, 'invalid_api_key', 'The API key was revoked.'],
  cancelled: [499, 'request_cancelled', 'The request was cancelled.'],
}
