// Data files -> tokenised samples in a temporary file, by the rules of the configuration, and a report of what was found.

import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { EngineError } from '../errors.js'
import { type DataRecord, RowFault } from './data-error.js'
import { listDataFiles, readDataFile } from './data-files.js'
import { MAX_RECORD_BYTES } from './jsonl.js'
import { randomPermutation } from './permutation.js'
import { readRow } from './row-format.js'
import type { Sample, SampleEncoder, Span } from './sample-encoder.js'
import { TokenStore } from './token-store.js'
import type { RefusedRow, TrainConfig, TrainRequest } from './types.js'

/** Rows encoded side by side. Between two batches the event loop turns: requests are served meanwhile. */
const BATCH_ROWS = 64
const BATCH_CHARACTERS = 32 << 10
const MAX_REPORTED = 1000
const MAX_IN_MESSAGE = 10

export interface Dataset {
  readonly store: TokenStore
  /** Numbers of samples in the store. */
  readonly train: Int32Array
  readonly validation: Int32Array
  /** Of every token, target and the split: a run is resumed on the same data only. */
  readonly hash: string
  readonly counts: DataCounts
}

export interface DataCounts {
  tokens: number
  targetTokens: number
  truncated: number
  dropped: number
  nRefused: number
  readonly refused: RefusedRow[]
}

export interface DatasetOptions {
  readonly encoder: SampleEncoder
  readonly vocabSize: number
  /** Rows read so far. */
  readonly onProgress?: (rows: number) => void
}

/**
 * Reads all files once. The store is the caller's to close.
 * @throws EngineError DATA_INVALID naming file, line and reason of the first bad rows; DISK_FULL; ABORTED
 */
export async function prepareDataset(request: TrainRequest, options: DatasetOptions, signal?: AbortSignal): Promise<Dataset> {
  const files = await listDataFiles(request.trainFiles)
  const validationFiles = await listDataFiles(request.validationFiles ?? [])
  const store = await TokenStore.create(join(request.outputDir, 'samples.tmp'))
  try {
    const reader = new DatasetReader(store, request.config, options, signal)
    for (const file of files) await reader.read(file)
    const nTrain = store.size
    for (const file of validationFiles) await reader.read(file)
    await store.flush()
    reader.finish(nTrain)
    const { train, validation } = split(nTrain, store.size, request.config)
    return { store, train, validation, hash: `${store.digest()}-${nTrain}-${validation.length}`, counts: reader.counts }
  } catch (error) {
    await store.close()
    throw error
  }
}

/** Samples of validation files, and a share of the others drawn by the seed; at least one is left to train on. */
function split(nTrain: number, nAll: number, { validationSplit, seed }: TrainConfig): { train: Int32Array; validation: Int32Array } {
  const nHeldOut = validationSplit === 0 ? 0 : Math.min(nTrain - 1, Math.max(1, Math.round(validationSplit * nTrain)))
  const heldOut = randomPermutation(nTrain, seed).subarray(0, nHeldOut).sort()
  const isHeldOut = new Uint8Array(nTrain)
  for (const sample of heldOut) isHeldOut[sample] = 1
  const train = Int32Array.from({ length: nTrain }, (_, i) => i).filter((sample) => isHeldOut[sample] === 0)
  return { train, validation: Int32Array.from([...heldOut, ...Array.from({ length: nAll - nTrain }, (_, i) => nTrain + i)]) }
}

/** What becomes of one sample. */
export type Fit = { readonly kept: number; readonly targets: readonly Span[]; readonly truncated: boolean } | 'dropped'

/** @throws RowFault no_such_loss, too_long */
export function fitSample({ tokenIds, targets }: Sample, config: Pick<TrainConfig, 'lossOn' | 'maxLength' | 'truncation'>): Fit {
  const { lossOn, maxLength, truncation } = config
  const spans = targets[lossOn]
  if (spans === null) throw new RowFault('no_such_loss', lossOn)
  const n = tokenIds.length
  if (n > maxLength && truncation === 'error') throw new RowFault('too_long', `${n} tokens, max_length ${maxLength}`)
  if (n > maxLength && truncation === 'drop') return 'dropped'
  const kept = Math.min(n, maxLength)
  const left = spans.filter(([from]) => from < kept).map(([from, to]) => [from, Math.min(to, kept)] as const)
  return left.length === 0 ? 'dropped' : { kept, targets: left, truncated: n > maxLength }
}

class DatasetReader {
  readonly counts: DataCounts = { tokens: 0, targetTokens: 0, truncated: 0, dropped: 0, nRefused: 0, refused: [] }
  readonly #store: TokenStore
  readonly #config: TrainConfig
  readonly #options: DatasetOptions
  readonly #signal: AbortSignal | undefined
  #nRows = 0

  constructor(store: TokenStore, config: TrainConfig, options: DatasetOptions, signal: AbortSignal | undefined) {
    this.#store = store
    this.#config = config
    this.#options = options
    this.#signal = signal
  }

  async read(file: string): Promise<void> {
    let batch: DataRecord[] = []
    let nCharacters = 0
    for await (const record of readDataFile(file)) {
      batch.push(record)
      nCharacters += sizeOf(record.row)
      if (batch.length < BATCH_ROWS && nCharacters < BATCH_CHARACTERS) continue
      await this.#take(file, batch)
      batch = []
      nCharacters = 0
    }
    await this.#take(file, batch)
  }

  /** @throws EngineError DATA_INVALID */
  finish(nTrain: number): void {
    const { nRefused, refused, dropped } = this.counts
    if (nRefused > 0 && this.#config.badRows === 'refuse') {
      const shown = refused.slice(0, MAX_IN_MESSAGE).map(({ file, line, reason }) => `${file}${line === 0 ? '' : `:${line}`}: ${reason}`)
      const rest = nRefused > shown.length ? `\nand ${nRefused - shown.length} more` : ''
      const what = `${nRefused} ${nRefused === 1 ? 'row' : 'rows'} of the data cannot be used (bad_rows "skip" leaves such rows out)`
      throw new EngineError('DATA_INVALID', `${what}:\n${shown.join('\n')}${rest}`)
    }
    if (nTrain === 0) {
      const why = dropped === 0 ? '' : `: ${dropped} are longer than max_length ${this.#config.maxLength} or have no target`
      throw new EngineError('DATA_INVALID', `no sample is left to train on${why}`)
    }
  }

  async #take(file: string, batch: readonly DataRecord[]): Promise<void> {
    await nextTurn()
    this.#signal?.throwIfAborted()
    this.#nRows += batch.length
    this.#options.onProgress?.(this.#nRows)
    const samples = await Promise.all(batch.map(({ row }) => this.#encode(row)))
    for (const [i, sample] of samples.entries()) {
      const fault = sample instanceof RowFault ? sample : await this.#keep(sample)
      if (fault !== undefined) this.#refuse(file, batch[i]!.line, fault)
    }
  }

  async #encode(row: unknown): Promise<Sample | RowFault> {
    if (sizeOf(row) > MAX_RECORD_BYTES) return new RowFault('line_too_long')
    try {
      return await this.#options.encoder.encode(readRow(row))
    } catch (error) {
      if (error instanceof RowFault) return error
      throw error
    }
  }

  async #keep(sample: Sample): Promise<RowFault | undefined> {
    let fit: Fit
    try {
      fit = fitSample(sample, this.#config)
    } catch (error) {
      if (error instanceof RowFault) return error
      throw error
    }
    if (fit === 'dropped') {
      this.counts.dropped++
      return undefined
    }
    const tokenIds = sample.tokenIds.slice(0, fit.kept)
    if (tokenIds.some((id) => id >= this.#options.vocabSize)) {
      throw new EngineError('MODEL_INVALID', `the tokenizer yields ids beyond the model's ${this.#options.vocabSize}`)
    }
    await this.#store.append(tokenIds, fit.targets)
    this.counts.tokens += fit.kept
    this.counts.targetTokens += fit.targets.reduce((n, [from, to]) => n + to - from, 0)
    if (fit.truncated) this.counts.truncated++
    return undefined
  }

  #refuse(file: string, line: number | null, fault: RowFault): void {
    this.counts.nRefused++
    if (this.counts.refused.length === MAX_REPORTED) return
    this.counts.refused.push({ file, line: line ?? 0, kind: fault.kind, reason: fault.message })
  }
}

/** Characters in the texts of a row, roughly: what bounds the memory of a batch. */
function sizeOf(row: unknown): number {
  if (typeof row === 'string') return row.length
  if (typeof row !== 'object' || row === null || row instanceof RowFault) return 1
  let n = 0
  for (const value of Object.values(row)) n += sizeOf(value)
  return n
}
