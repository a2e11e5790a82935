// Events between the engine and one reader. Pushing never blocks; the owner is told when the reader falls behind and catches up.

import type { GenerateEvent } from './api.js'

/** Undelivered tokens at which a request is paused, and at which it goes on. */
const HIGH_WATER_TOKENS = 256
const LOW_WATER_TOKENS = 64

export interface EventQueueOwner {
  /** The first next(): the request enters the engine. */
  onStart(): void
  onFull(): void
  onDrained(): void
  /** One event has reached the reader. */
  onDelivered?(): void
  /** No further event will be pushed. */
  onEnd?(): void
  /** The reader left before the end. */
  onLeave(): void
}

export class EventQueue<T extends { readonly type: string } = GenerateEvent> implements AsyncIterableIterator<T> {
  readonly #owner: EventQueueOwner
  readonly #events: T[] = []
  #nTokens = 0
  #isFull = false
  #started = false
  #ended = false
  #error: Error | undefined
  #wake: (() => void) | undefined

  constructor(owner: EventQueueOwner) {
    this.#owner = owner
  }

  push(event: T): void {
    if (this.#ended) return
    this.#events.push(event)
    this.#nTokens += weight(event)
    if (!this.#isFull && this.#nTokens >= HIGH_WATER_TOKENS) {
      this.#isFull = true
      this.#owner.onFull()
    }
    this.#wake?.()
  }

  /** No more events; those pushed before are still delivered. */
  end(): void {
    if (!this.#ended) this.#owner.onEnd?.()
    this.#ended = true
    this.#wake?.()
  }

  /** Ends with an error, after the events pushed before. */
  fail(error: Error): void {
    if (this.#ended) return
    this.#error = error
    this.end()
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async next(): Promise<IteratorResult<T>> {
    if (!this.#started) {
      this.#started = true
      this.#owner.onStart()
    }
    while (this.#events.length === 0 && !this.#ended) {
      await new Promise<void>((resolve) => { this.#wake = resolve })
    }
    const event = this.#events.shift()
    if (event !== undefined) return { done: false, value: this.#delivered(event) }
    const error = this.#error
    this.#error = undefined
    if (error !== undefined) throw error
    return { done: true, value: undefined }
  }

  async return(): Promise<IteratorResult<T>> {
    const left = !this.#ended
    this.#started = true
    this.#events.length = 0
    this.#error = undefined
    this.end()
    if (left) this.#owner.onLeave()
    return { done: true, value: undefined }
  }

  #delivered(event: T): T {
    this.#nTokens -= weight(event)
    this.#owner.onDelivered?.()
    if (this.#isFull && this.#nTokens <= LOW_WATER_TOKENS) {
      this.#isFull = false
      this.#owner.onDrained()
    }
    return event
  }
}

function weight(event: { readonly type: string; readonly tokenIds?: readonly number[] }): number {
  return event.type === 'delta' ? Math.max(1, event.tokenIds?.length ?? 0) : 0
}
