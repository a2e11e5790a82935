// How much may be in flight at once. Everything admitted goes straight to the engine, whose scheduler is the one queue.

import { EngineError } from '../../engine/errors.js'
import type { Backend } from '../backend.js'

export interface GateOptions {
  /** Sequences that the engine runs at once. */
  readonly maxConcurrent: number
  /** Sequences that may wait beyond those. */
  readonly maxQueue: number
}

export class Gate {
  readonly #capacity: number
  readonly #backend: Backend
  #taken = 0

  constructor({ maxConcurrent, maxQueue }: GateOptions, backend: Backend) {
    this.#capacity = maxConcurrent + maxQueue
    this.#backend = backend
  }

  get inFlight(): number {
    return this.#taken
  }

  /** Takes seats for the choices of one request; call the result once to leave. @throws EngineError QUEUE_FULL. */
  enter(seats: number): () => void {
    if (this.#taken + seats > this.#capacity) {
      this.#backend.queueFullSince ??= performance.now()
      throw new EngineError(
        'QUEUE_FULL', `The server already has ${this.#taken} sequences in flight, of ${this.#capacity} at most.`, { retryAfterMs: 1_000 },
      )
    }
    this.#taken += seats
    return () => {
      this.#taken -= seats
      this.#backend.queueFullSince = undefined
    }
  }
}
