// Id -> bytes of a vocabulary, for incremental decoding and log-probabilities. One buffer instead of 262,144 strings.

export const TOKEN_NORMAL = 1
export const TOKEN_CONTROL = 3
export const TOKEN_BYTE = 6

/** Entries of the published Gemma 3 vocabularies; smaller ones are not Gemma's. */
export const GEMMA_VOCAB_SIZE = 262_144

const WORD_MARK = '\u2581'

export class TokenTable {
  readonly size: number
  /** Bytes of the longest token: a text of n bytes has at least n / longestToken tokens. */
  readonly longestToken: number
  readonly #bytes: Buffer
  readonly #offsets: Uint32Array
  readonly #kinds: Uint8Array

  /** Token i is bytes[offsets[i], offsets[i + 1]) of kind kinds[i]; a byte token's bytes are the one byte it stands for. */
  constructor(bytes: Uint8Array, offsets: Uint32Array, kinds: Uint8Array) {
    this.size = kinds.length
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#offsets = offsets
    this.#kinds = kinds
    let longest = 1
    for (let id = 0; id < kinds.length; id++) longest = Math.max(longest, offsets[id + 1]! - offsets[id]!)
    this.longestToken = longest
  }

  /** From the spelling in a tokenizer.json: U+2581 for a space, <0x0A> for a byte. Absent ids decode to nothing. */
  static fromSpellings(spellings: readonly (string | undefined)[], controlIds: ReadonlySet<number>): TokenTable {
    const kinds = new Uint8Array(spellings.length)
    const offsets = new Uint32Array(spellings.length + 1)
    const parts = spellings.map((spelling = '', id) => {
      const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(spelling)
      kinds[id] = byte !== null ? TOKEN_BYTE : controlIds.has(id) ? TOKEN_CONTROL : TOKEN_NORMAL
      const part = byte !== null ? Buffer.from([parseInt(byte[1]!, 16)]) : Buffer.from(spelling.replaceAll(WORD_MARK, ' '))
      offsets[id + 1] = offsets[id]! + part.length
      return part
    })
    return new TokenTable(Buffer.concat(parts), offsets, kinds)
  }

  has(id: number): boolean {
    return id >= 0 && id < this.size
  }

  isByte(id: number): boolean {
    return this.#kinds[id] === TOKEN_BYTE
  }

  isControl(id: number): boolean {
    return this.#kinds[id] === TOKEN_CONTROL
  }

  bytes(id: number): Uint8Array {
    return this.has(id) ? this.#bytes.subarray(this.#offsets[id], this.#offsets[id + 1]) : new Uint8Array(0)
  }

  /** Text of one token; U+FFFD where its bytes are no whole characters. */
  text(id: number): string {
    return this.has(id) ? this.#bytes.toString('utf8', this.#offsets[id], this.#offsets[id + 1]) : ''
  }
}
