// Recorded micro-batches as the trainer takes them: rows become documents one after another, filling is left out.

import type { NativeMicroBatch } from '../../engine/native.js'
import { TensorFile } from './tensors.js'

/** Rows [rows, width] of one recorded micro-batch. */
interface Rows {
  readonly width: number
  readonly inputIds: Int32Array
  readonly labels: Int32Array     // unshifted, -100 = not supervised
  readonly documents: Int32Array  // -1 = filling
}

export function toMicroBatch(rows: Rows, tokenCounter = 0n): NativeMicroBatch {
  const tokenIds: number[] = []
  const starts: number[] = []
  const targets: number[] = []
  for (let at = 0; at < rows.inputIds.length; at++) {
    const document = rows.documents[at]!
    if (document < 0) continue
    const column = at % rows.width
    if (column === 0 || rows.documents[at - 1] !== document) starts.push(tokenIds.length)
    tokenIds.push(rows.inputIds[at]!)
    const next = column + 1 < rows.width ? rows.labels[at + 1]! : -100
    targets.push(next >= 0 ? next : -1)
  }
  starts.push(tokenIds.length)
  return { tokenIds: Int32Array.from(tokenIds), documentStarts: Int32Array.from(starts), targets: Int32Array.from(targets), tokenCounter }
}

/** The micro-batches of a run, by optimiser step. */
export function readWindows(path: string): NativeMicroBatch[][] {
  const file = new TensorFile(path)
  const steps = file.ints('step')
  const [, nRows, width] = file.shape('input_ids') as [number, number, number]
  const inputIds = file.ints('input_ids')
  const labels = file.ints('labels')
  const documents = file.ints('documents')
  const windows: NativeMicroBatch[][] = []
  steps.forEach((step, i) => {
    const cut = (values: Int32Array) => values.subarray(i * nRows * width, (i + 1) * nRows * width)
    const window = windows[step - 1] ??= []
    window.push(toMicroBatch({ width, inputIds: cut(inputIds), labels: cut(labels), documents: cut(documents) }))
  })
  return windows
}

/** TRL's packed rows as its eager attention sees them: one document a row, every label counts. */
export function readTrlRows(path: string): NativeMicroBatch[] {
  const file = new TensorFile(path)
  const width = file.shape('input_ids')[1]!
  const ids = file.ints('input_ids')
  return [...file.ints('lengths')].map((length, row) => {
    const tokenIds = ids.slice(row * width, row * width + length)
    const targets = Int32Array.from([...tokenIds.subarray(1), -1])
    return { tokenIds, documentStarts: Int32Array.of(0, length), targets, tokenCounter: 0n }
  })
}

export function nTargets(batch: NativeMicroBatch): number {
  return batch.targets.reduce((n, target) => n + (target >= 0 ? 1 : 0), 0)
}
