// Ids -> text, a token at a time, never taking back what was shown. Equal to what the tokenizers library decodes at once.

import type { TokenTable } from './token-table.js'

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * A run of byte tokens is decoded as a whole: valid UTF-8 or one U+FFFD a byte. Its text is therefore known only when the run ends.
 * Skipped control tokens do not end a run.
 */
export class Detokenizer {
  readonly #table: TokenTable
  readonly #skipControl: boolean
  #run: number[] = []

  constructor(table: TokenTable, options: { readonly skipSpecialTokens: boolean }) {
    this.#table = table
    this.#skipControl = options.skipSpecialTokens
  }

  /** The text that this token makes certain. */
  push(id: number): string {
    if (this.#table.isByte(id)) {
      this.#run.push(this.#table.bytes(id)[0]!)
      return ''
    }
    if (!this.#table.has(id) || (this.#skipControl && this.#table.isControl(id))) return ''
    return this.flush() + this.#table.text(id)
  }

  /** The text still held back, once no more tokens come. */
  flush(): string {
    if (this.#run.length === 0) return ''
    const bytes = Uint8Array.from(this.#run)
    this.#run = []
    try {
      return utf8.decode(bytes)
    } catch {
      return '\ufffd'.repeat(bytes.length)
    }
  }
}

export function detokenize(table: TokenTable, ids: Iterable<number>, skipSpecialTokens: boolean): string {
  const detokenizer = new Detokenizer(table, { skipSpecialTokens })
  let text = ''
  for (const id of ids) text += detokenizer.push(id)
  return text + detokenizer.flush()
}
