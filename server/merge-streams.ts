// Several async streams as one, in the order in which their items arrive.

export type StreamSource<T> = (signal: AbortSignal) => AsyncIterable<T>

/**
 * Each stream runs at most one item ahead of the reader. The first error, or a reader that leaves, aborts the signal that every
 * source was given.
 */
export async function* mergeStreams<T>(sources: ReadonlyArray<StreamSource<T>>, signal: AbortSignal): AsyncGenerator<T> {
  if (sources.length === 1) return yield* sources[0]!(signal)
  const cancel = new AbortController()
  const meeting = new Meeting<T>(sources.length)
  const all = AbortSignal.any([signal, cancel.signal])
  for (const source of sources) void meeting.pump(source(all))
  try {
    for (let item = await meeting.take(); item !== undefined; item = await meeting.take()) yield item.value
  } finally {
    cancel.abort()
    meeting.close()
  }
}

/** Where the sources wait until the reader has taken their item. */
class Meeting<T> {
  readonly #items: Array<{ readonly value: T; readonly taken: () => void }> = []
  #open: number
  #error: { readonly cause: unknown } | undefined
  #closed = false
  #wake = () => {}

  constructor(open: number) {
    this.#open = open
  }

  async pump(source: AsyncIterable<T>): Promise<void> {
    try {
      for await (const value of source) {
        if (this.#closed) return
        await new Promise<void>((taken) => {
          this.#items.push({ value, taken })
          this.#wake()
        })
      }
    } catch (cause) {
      this.#error ??= { cause }
    } finally {
      this.#open--
      this.#wake()
    }
  }

  /** Undefined once every source has ended. */
  async take(): Promise<{ readonly value: T } | undefined> {
    for (;;) {
      const item = this.#items.shift()
      if (item !== undefined) {
        item.taken()
        return item
      }
      if (this.#error !== undefined) throw this.#error.cause
      if (this.#open === 0) return undefined
      await new Promise<void>((wake) => (this.#wake = wake))
    }
  }

  close(): void {
    this.#closed = true
    for (const item of this.#items) item.taken()
  }
}
