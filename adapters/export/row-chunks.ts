// Tensors of a merged model as bytes, a few megabytes at a time, so that a model of any size is written in little memory.

import type { NativeMergedWeights } from '../../engine/merged-weights.js'

export type Encoding = 'F32' | 'BF16' | 'F16' | 'Q8_0'

const CHUNK_VALUES = 4 * 2 ** 20

/** Told after each chunk: bytes written of this file so far. */
export type OnBytes = (bytes: number) => void

export function* tensorChunks(weights: NativeMergedWeights, index: number, encoding: Encoding): Generator<Uint8Array> {
  const { shape } = weights.tensors[index]!
  const rows = shape.length === 1 ? 1 : shape[0]!
  const step = Math.max(1, Math.floor(CHUNK_VALUES / shape.at(-1)!))
  for (let row = 0; row < rows; row += step) yield weights.read(index, row, Math.min(rows, row + step), encoding)
}

export function encodedBytes(shape: readonly number[], encoding: Encoding): number {
  const values = shape.reduce((product, n) => product * n, 1)
  return encoding === 'Q8_0' ? (values / 32) * 34 : values * (encoding === 'F32' ? 4 : 2)
}
