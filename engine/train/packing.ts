// Samples -> rows of at most maxLength tokens, best fit decreasing: the longest first (equal lengths in the order given), each into the
// row with the least free space that is enough, first come first served among equals; else into a new row. O(n + maxLength).

export interface PackedRows {
  /** Sample indices, row after row. */
  readonly samples: Int32Array
  /** [R+1]: row r is samples[starts[r], starts[r + 1]). */
  readonly starts: Int32Array
}

/** Samples per chunk of TRL's packing, and the chunk's tail rows stay as they are. */
const TRL_CHUNK = 1000

/** A sample longer than maxLength counts as maxLength. Rows come in the order in which they were opened. */
export function packBestFit(lengths: ArrayLike<number>, maxLength: number): PackedRows {
  return flatten([packChunk(lengths, 0, lengths.length, maxLength, 0)], lengths.length)
}

/**
 * As TRL 0.21 packs: by chunks, and by a search tree that never again finds a row with free space of at most 2^k - maxLength, where
 * 2^k is the next power of two.
 */
export function packAsTrl(lengths: ArrayLike<number>, maxLength: number, chunk = TRL_CHUNK): PackedRows {
  const unseen = 2 ** Math.ceil(Math.log2(maxLength)) - maxLength
  const chunks = []
  for (let from = 0; from < lengths.length; from += chunk) {
    chunks.push(packChunk(lengths, from, Math.min(lengths.length, from + chunk), maxLength, unseen))
  }
  return flatten(chunks, lengths.length)
}

/** Every sample is a row of its own. */
export function oneRowEach(nSamples: number): PackedRows {
  return { samples: Int32Array.from({ length: nSamples }, (_, i) => i), starts: Int32Array.from({ length: nSamples + 1 }, (_, i) => i) }
}

interface Chunk {
  /** In the order of placing. */
  readonly samples: Int32Array
  readonly rowOf: Int32Array
  readonly nRows: number
}

function packChunk(lengths: ArrayLike<number>, from: number, to: number, maxLength: number, unseen: number): Chunk {
  const samples = longestFirst(lengths, from, to, maxLength)
  const rowOf = new Int32Array(to - from)
  const spaces = new FreeSpaces(maxLength, to - from)
  let nRows = 0
  samples.forEach((sample, i) => {
    const n = Math.min(lengths[sample]!, maxLength)
    const space = spaces.leastFrom(Math.max(n, unseen + 1))
    const row = space === -1 ? nRows++ : spaces.take(space)
    const left = (space === -1 ? maxLength : space) - n
    if (left > 0) spaces.put(left, row)
    rowOf[i] = row
  })
  return { samples, rowOf, nRows }
}

/** Counting sort by falling length, stable. */
function longestFirst(lengths: ArrayLike<number>, from: number, to: number, maxLength: number): Int32Array {
  const at = new Int32Array(maxLength + 2)
  const key = (i: number) => maxLength - Math.min(lengths[i]!, maxLength)
  for (let i = from; i < to; i++) at[key(i) + 1]!++
  for (let k = 0; k <= maxLength; k++) at[k + 1]! += at[k]!
  const order = new Int32Array(to - from)
  for (let i = from; i < to; i++) order[at[key(i)]!++] = i
  return order
}

/** Rows by free space: a queue for each size, and a tree of bits that says which are not empty. */
class FreeSpaces {
  readonly #first: Int32Array
  readonly #last: Int32Array
  readonly #next: Int32Array
  /** Level 0 has a bit a size; each level above has a bit for every word below that is not zero. */
  readonly #levels: Uint32Array[] = []

  constructor(maxSpace: number, maxRows: number) {
    this.#first = new Int32Array(maxSpace + 1).fill(-1)
    this.#last = new Int32Array(maxSpace + 1).fill(-1)
    this.#next = new Int32Array(maxRows).fill(-1)
    for (let nBits = maxSpace + 1; nBits > 1 || this.#levels.length === 0; nBits = this.#levels.at(-1)!.length) {
      this.#levels.push(new Uint32Array(Math.ceil(nBits / 32)))
    }
  }

  put(space: number, row: number): void {
    const last = this.#last[space]!
    if (last === -1) this.#first[space] = row
    else this.#next[last] = row
    this.#last[space] = row
    this.#next[row] = -1
    for (let level = 0, at = space; level < this.#levels.length; level++, at >>>= 5) this.#levels[level]![at >>> 5]! |= 1 << (at & 31)
  }

  take(space: number): number {
    const row = this.#first[space]!
    this.#first[space] = this.#next[row]!
    if (this.#first[space] !== -1) return row
    this.#last[space] = -1
    for (let level = 0, at = space; level < this.#levels.length; level++, at >>>= 5) {
      if ((this.#levels[level]![at >>> 5]! &= ~(1 << (at & 31))) !== 0) break
    }
    return row
  }

  /** The least size of at least `space` that has a row, -1 where there is none. */
  leastFrom(space: number): number {
    let at = space
    for (let level = 0; level < this.#levels.length; level++) {
      const words = this.#levels[level]!
      const word = at >>> 5 < words.length ? words[at >>> 5]! & (-1 << (at & 31)) : 0
      if (word !== 0) return this.#descend(level, (at >>> 5 << 5) + lowestBit(word))
      at = (at >>> 5) + 1
    }
    return -1
  }

  #descend(level: number, at: number): number {
    for (let below = level - 1; below >= 0; below--) at = (at << 5) + lowestBit(this.#levels[below]![at]!)
    return at
  }
}

function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word)
}

function flatten(chunks: readonly Chunk[], nSamples: number): PackedRows {
  const starts = new Int32Array(chunks.reduce((n, { nRows }) => n + nRows, 0) + 1)
  let firstRow = 0
  for (const { rowOf, nRows } of chunks) {
    for (const row of rowOf) starts[firstRow + row + 1]!++
    firstRow += nRows
  }
  for (let row = 1; row < starts.length; row++) starts[row]! += starts[row - 1]!
  const samples = new Int32Array(nSamples)
  const at = starts.slice()
  firstRow = 0
  for (const { samples: placed, rowOf, nRows } of chunks) {
    placed.forEach((sample, i) => { samples[at[firstRow + rowOf[i]!]!++] = sample })
    firstRow += nRows
  }
  return { samples, starts }
}
