// Server-sent events on a raw response: exact bytes, back-pressure, and an end for readers that do not read.

import type { FastifyReply } from 'fastify'
import type { ServerResponse } from 'node:http'
import type { ErrorBody } from '../errors.js'

export interface SlowReaderPolicy {
  /** Bytes that may wait to be sent before the stream pauses. */
  readonly maxBufferedBytes: number
  /** How long a stream pauses before it is cut, ms. */
  readonly patienceMs: number
}

export class SlowReaderError extends Error {}

export class SseStream {
  readonly #raw: ServerResponse
  readonly #policy: SlowReaderPolicy

  /** Takes the reply out of fastify's hands and sends the head. */
  constructor(reply: FastifyReply, policy: SlowReaderPolicy) {
    this.#raw = reply.raw
    this.#policy = policy
    reply.hijack()
    this.#raw.writeHead(200, {
      ...(reply.getHeaders() as Record<string, string>),
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      'x-accel-buffering': 'no',
    })
  }

  /** Writes one event; waits while the client is behind. @throws SlowReaderError when it stays behind. */
  async send(payload: object): Promise<void> {
    if (this.#raw.destroyed) return
    this.#raw.write(`data: ${JSON.stringify(payload)}\n\n`)
    if (this.#raw.writableLength > this.#policy.maxBufferedBytes) await this.#drained()
  }

  #drained(): Promise<void> {
    const raw = this.#raw
    return new Promise((resolve, reject) => {
      const settle = (done: () => void) => () => {
        clearTimeout(timer)
        raw.off('drain', onDrain)
        raw.off('close', onClose)
        done()
      }
      const onDrain = settle(resolve)
      const onClose = settle(resolve)
      const timer = setTimeout(settle(() => reject(new SlowReaderError('The client does not read its stream.'))), this.#policy.patienceMs)
      raw.once('drain', onDrain)
      raw.once('close', onClose)
    })
  }

  /** A complete answer. */
  done(): void {
    if (!this.#raw.destroyed) this.#raw.end('data: [DONE]\n\n')
  }

  /** The answer broke off: the error is the last event, and no [DONE] follows. */
  fail(error: ErrorBody): void {
    if (!this.#raw.destroyed) this.#raw.end(`data: ${JSON.stringify(error)}\n\n`)
  }

  cut(): void {
    this.#raw.destroy()
  }
}
