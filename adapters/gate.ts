// A door that opens once or fails once; many may wait at it, each with a deadline and a signal of its own.

import { EngineError } from '../engine/errors.js'

export class Gate {
  readonly #result: Promise<void>
  #open!: () => void
  #fail!: (error: unknown) => void

  constructor() {
    this.#result = new Promise((resolve, reject) => {
      this.#open = resolve
      this.#fail = reject
    })
    this.#result.catch(() => {})   // an error that nobody waits for is nobody's
  }

  open(): void {
    this.#open()
  }

  fail(error: unknown): void {
    this.#fail(error)
  }

  /** True: open; false: timeoutMs passed. @throws what fail() said, or EngineError ABORTED */
  wait(timeoutMs: number, signal?: AbortSignal): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const finish = (settle: () => void) => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
        settle()
      }
      const onAbort = () => finish(() => reject(new EngineError('ABORTED', 'The request was aborted')))
      const timer = setTimeout(() => finish(() => resolve(false)), Math.max(0, timeoutMs))
      if (signal?.aborted) return onAbort()
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#result.then(() => finish(() => resolve(true)), (error) => finish(() => reject(error)))
    })
  }
}
