// Rows of samples -> micro-batches as native code takes them: documents one after another, labels shifted.

import type { NativeMicroBatch } from '../native.js'
import type { PackedRows } from './packing.js'
import type { TokenStore } from './token-store.js'

export interface BatchOptions {
  /** trl-0.21-eager: a row is one document, its boundary labels are targets, and its divisor counts unshifted labels. */
  readonly isTrl: boolean
  /** Every token is a target: with isTrl the first one of each document too. */
  readonly onAll: boolean
}

export interface MicroBatch {
  readonly tokenIds: Int32Array
  readonly documentStarts: Int32Array
  readonly targets: Int32Array
  readonly nTargets: number
  /** What the losses of the window are divided by, in token-mean. */
  readonly divisor: number
}

export class BatchReader {
  readonly rows: PackedRows
  readonly #store: TokenStore
  readonly #samples: Int32Array
  readonly #options: BatchOptions

  /** `rows` index `samples`, which are numbers of the store. */
  constructor(store: TokenStore, samples: Int32Array, rows: PackedRows, options: BatchOptions) {
    this.rows = rows
    this.#store = store
    this.#samples = samples
    this.#options = options
  }

  get nRows(): number {
    return this.rows.starts.length - 1
  }

  /** Tokens of the longest row. */
  longestRow(): number {
    const lengths = Array.from({ length: this.nRows }, (_, row) => this.#samplesOf(row).reduce((n, i) => n + this.#store.length(i), 0))
    return lengths.reduce((a, b) => Math.max(a, b), 0)
  }

  async read(rows: Int32Array): Promise<MicroBatch> {
    const documents: Int32Array[][] = []
    for (const row of rows) {
      documents.push(await Promise.all(Array.from(this.#samplesOf(row), (sample) => this.#store.read(sample))))
    }
    return buildMicroBatch(documents, this.#options)
  }

  #samplesOf(row: number): Int32Array {
    return this.rows.samples.subarray(this.rows.starts[row], this.rows.starts[row + 1]).map((i) => this.#samples[i]!)
  }
}

/** Rows of documents; a token is its id where it is a target, ~id where not. */
export function buildMicroBatch(rows: ReadonlyArray<readonly Int32Array[]>, { isTrl, onAll }: BatchOptions): MicroBatch {
  const documents = isTrl ? rows.map(concatenate) : rows.flat()
  const marked = concatenate(documents)
  const tokenIds = marked.map((id) => (id < 0 ? ~id : id))
  const targets = new Int32Array(marked.length).fill(-1)
  const documentStarts = new Int32Array(documents.length + 1)
  let divisor = 0
  documents.forEach((document, d) => {
    const start = documentStarts[d]!
    documentStarts[d + 1] = start + document.length
    if (isTrl && onAll) divisor += document.length
    for (let i = 1; i < document.length; i++) {
      if (document[i]! < 0 && !(isTrl && onAll)) continue
      targets[start + i - 1] = tokenIds[start + i]!
      if (!(isTrl && onAll)) divisor++
    }
  })
  return { tokenIds, documentStarts, targets, nTargets: targets.reduce((n, id) => n + (id < 0 ? 0 : 1), 0), divisor }
}

/** `tokenCounter`: tokens of the run before this micro-batch. */
export function toNative({ tokenIds, documentStarts, targets }: MicroBatch, tokenCounter: number): NativeMicroBatch {
  return { tokenIds, documentStarts, targets, tokenCounter: BigInt(tokenCounter) }
}

function concatenate(parts: readonly Int32Array[]): Int32Array {
  const whole = new Int32Array(parts.reduce((n, part) => n + part.length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}
