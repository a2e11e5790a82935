// Evaluation data: the same files and formats as training, read one by one. Bad rows are refused by file and line.

import { EngineError } from '../../engine/errors.js'
import { RowFault } from '../../engine/train/data-error.js'
import { listDataFiles, readDataFile } from '../../engine/train/data-files.js'
import { readRow, type TrainRow } from '../../engine/train/row-format.js'

export interface EvaluationSample {
  readonly row: TrainRow
  /** What the model should say: the last answer, or the completion. */
  readonly expected: string
}

/** At most `limit` samples in the order of the files. @throws EngineError DATA_INVALID */
export async function readSamples(paths: readonly string[], limit = Infinity): Promise<EvaluationSample[]> {
  const samples: EvaluationSample[] = []
  for (const file of await listDataFiles(paths)) {
    for await (const { line, row } of readDataFile(file)) {
      if (samples.length >= limit) return samples
      samples.push(toSample(file, line, row))
    }
  }
  return samples
}

function toSample(file: string, line: number | null, value: unknown): EvaluationSample {
  try {
    const row = readRow(value)
    return { row, expected: row.type === 'chat' ? row.messages.at(-1)!.content : row.completion }
  } catch (error) {
    if (!(error instanceof RowFault)) throw error
    throw new EngineError('DATA_INVALID', `${file}${line === null ? '' : `:${line}`}: ${error.message}`)
  }
}
