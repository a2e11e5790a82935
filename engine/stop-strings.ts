// Stop strings over a stream of text: what may be part of one is held back until it is certain, however the text is cut into tokens.

export class StopStrings {
  /** The string that ended the text. */
  stopped: string | null = null
  readonly #stops: readonly string[]
  readonly #include: boolean
  readonly #longest: number
  #held = ''

  constructor(stops: readonly string[], options: { readonly include: boolean }) {
    this.#stops = stops
    this.#include = options.include
    this.#longest = Math.max(0, ...stops.map((stop) => stop.length))
  }

  /** The text that may be shown; nothing after a stop. Of several stop strings the one complete first wins, then the longest. */
  push(text: string): string {
    if (this.stopped !== null) return ''
    const buffer = this.#held + text
    const stop = this.#firstStop(buffer)
    if (stop === undefined) return this.#release(buffer)
    this.stopped = stop.text
    this.#held = ''
    return buffer.slice(0, this.#include ? stop.end : stop.end - stop.text.length)
  }

  /** The rest, once no more text comes. */
  flush(): string {
    const held = this.#held
    this.#held = ''
    return held
  }

  #firstStop(buffer: string): { text: string; end: number } | undefined {
    let first: { text: string; end: number } | undefined
    for (const text of this.#stops) {
      const at = buffer.indexOf(text)
      if (at < 0) continue
      const end = at + text.length
      if (first === undefined || end < first.end || (end === first.end && text.length > first.text.length)) first = { text, end }
    }
    return first
  }

  /** Holds back the longest end of the text with which a stop string begins. */
  #release(buffer: string): string {
    let nHeld = Math.min(this.#longest - 1, buffer.length)
    while (nHeld > 0 && !this.#stops.some((stop) => stop.startsWith(buffer.slice(buffer.length - nHeld)))) nHeld--
    nHeld = Math.max(0, nHeld)
    this.#held = buffer.slice(buffer.length - nHeld)
    return buffer.slice(0, buffer.length - nHeld)
  }
}
