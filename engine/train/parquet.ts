// Parquet, a slice of rows at a time, and of its columns only those that a data set can have. Rows count from 1.

import { open, type FileHandle } from 'node:fs/promises'
import { type AsyncBuffer, type FileMetaData, parquetMetadataAsync, parquetReadObjects } from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import { type DataRecord, RowFault } from './data-error.js'
import { FORMATS } from './row-format.js'

/** Uncompressed bytes of the rows held at a time. A slice costs the decoding of its whole row group. */
const SLICE_BYTES = 32 << 20
const COLUMNS = new Set([...FORMATS.flat(), 'input'])

export async function* readParquet(path: string): AsyncGenerator<DataRecord> {
  const handle = await open(path, 'r')
  try {
    const file = bufferOf(handle, (await handle.stat()).size)
    const metadata = await parquetMetadataAsync(file).catch(() => undefined)
    if (metadata === undefined) return yield { line: null, row: new RowFault('invalid_parquet') }
    yield* readRows(file, metadata)
  } finally {
    await handle.close()
  }
}

async function* readRows(file: AsyncBuffer, metadata: FileMetaData): AsyncGenerator<DataRecord> {
  const columns = topColumns(metadata).filter((name) => COLUMNS.has(name))
  const nRows = Number(metadata.num_rows)
  for (const [from, to] of slices(metadata)) {
    const rows = columns.length === 0 ? Array.from({ length: to - from }, () => ({}))
      : await parquetReadObjects({ file, metadata, columns, rowStart: from, rowEnd: to, compressors }).catch(() => undefined)
    if (rows === undefined || rows.length !== to - from) {
      return yield { line: null, row: new RowFault('invalid_parquet', `rows from ${from + 1} of ${nRows}`) }
    }
    for (const [i, row] of rows.entries()) yield { line: from + i + 1, row: plain(row) }
  }
}

/** Half-open ranges of rows, none across two row groups. */
function slices(metadata: FileMetaData): [number, number][] {
  const ranges: [number, number][] = []
  let start = 0
  for (const group of metadata.row_groups) {
    const nRows = Number(group.num_rows)
    const nSlices = Math.max(1, Math.min(nRows, Math.ceil(Number(group.total_byte_size) / SLICE_BYTES)))
    for (let i = 0; i < nSlices; i++) {
      ranges.push([start + Math.floor(i * nRows / nSlices), start + Math.floor((i + 1) * nRows / nSlices)])
    }
    start += nRows
  }
  return ranges
}

function topColumns({ schema }: FileMetaData): string[] {
  const names: string[] = []
  let at = 1
  for (let i = 0; i < (schema[0]?.num_children ?? 0); i++) {
    names.push(schema[at]!.name)
    at = endOf(schema, at)
  }
  return names
}

/** Index after the subtree at `at`: the schema is listed depth first. */
function endOf(schema: FileMetaData['schema'], at: number): number {
  let next = at + 1
  for (let i = 0; i < (schema[at]?.num_children ?? 0); i++) next = endOf(schema, next)
  return next
}

/** 64-bit integers become numbers, so that a weight is 0 or 1 whatever its width. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value)
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]))
}

function bufferOf(handle: FileHandle, byteLength: number): AsyncBuffer {
  return {
    byteLength,
    async slice(start, end = byteLength) {
      const from = start < 0 ? Math.max(0, byteLength + start) : start
      const buffer = new ArrayBuffer(Math.max(0, Math.min(end, byteLength) - from))
      await handle.read(new Uint8Array(buffer), 0, buffer.byteLength, from)
      return buffer
    },
  }
}
