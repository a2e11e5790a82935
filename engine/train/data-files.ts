// The files of a data set, and the records of each by its ending.

import { readdir, stat } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { EngineError } from '../errors.js'
import { readCsv } from './csv.js'
import { type DataRecord, RowFault } from './data-error.js'
import { readJsonl } from './jsonl.js'
import { readParquet } from './parquet.js'

const READERS: Readonly<Record<string, (path: string) => AsyncIterable<DataRecord>>> = {
  '.jsonl': readJsonl, '.csv': readCsv, '.parquet': readParquet,
}
const ENDINGS = Object.keys(READERS).join(', ')

/** Files as given; of a directory those with a known ending, by name. @throws EngineError DATA_INVALID */
export async function listDataFiles(paths: readonly string[]): Promise<string[]> {
  const files: string[] = []
  for (const path of paths) {
    const found = await stat(path).catch(() => undefined)
    if (found === undefined) throw new EngineError('DATA_INVALID', `there is no file or directory at ${path}`)
    if (!found.isDirectory()) {
      files.push(path)
      continue
    }
    const names = (await readdir(path)).filter((name) => extname(name) in READERS).sort()
    if (names.length === 0) throw new EngineError('DATA_INVALID', `${path} holds no ${ENDINGS} file`)
    files.push(...names.map((name) => join(path, name)))
  }
  const unknown = files.find((file) => !(extname(file) in READERS))
  if (unknown !== undefined) throw new EngineError('DATA_INVALID', `${unknown}: expected a name that ends in ${ENDINGS}`)
  return files
}

/** Records in order; a file without any yields one that says so. */
export async function* readDataFile(path: string): AsyncGenerator<DataRecord> {
  let isEmpty = true
  for await (const record of READERS[extname(path)]!(path)) {
    isEmpty = false
    yield record
  }
  if (isEmpty) yield { line: null, row: new RowFault('empty_file') }
}
