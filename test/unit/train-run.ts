// A run over the fake trainer: what it did and said.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { resolveTrainConfig } from '../../engine/train/config.js'
import { type TrainBase, runTraining } from '../../engine/train/trainer.js'
import type { TrainEvent, TrainRequest } from '../../engine/train/types.js'
import { FakeTrainer } from './fake-trainer.js'
import { VOCAB_SIZE, answer, byteEncoder, chat, user } from './train-fixtures.js'

export function rowsOfChats(n: number): object[] {
  return Array.from({ length: n }, (_, i) => chat(user(`question ${i}?`), answer('x'.repeat(1 + i * 7 % 20) + i)))
}

export interface RunOptions {
  readonly files: readonly string[]
  readonly outputDir: string
  readonly values?: Readonly<Record<string, unknown>>
  readonly validationFiles?: readonly string[]
  readonly prepare?: (trainer: FakeTrainer, controller: AbortController) => void
  /** Called with each event; what it throws ends the reading as a crash would. */
  readonly onEvent?: (event: TrainEvent, controller: AbortController) => void
}

export interface RunResult {
  readonly events: TrainEvent[]
  readonly trainer: FakeTrainer | undefined
  /** The final adapter's weights; undefined where the run did not finish. */
  readonly adapter: string | undefined
}

export function requestOf({ files, outputDir, values = {}, validationFiles }: RunOptions): TrainRequest {
  const config = resolveTrainConfig({
    preset: 'guide', loss_on: 'assistant', max_length: 128, logging_steps: 1, save_steps: 3, num_train_epochs: 4, ...values,
  })
  return { id: 'run', config, trainFiles: files, outputDir, ...(validationFiles && { validationFiles }) }
}

export async function run(options: RunOptions): Promise<RunResult> {
  const controller = new AbortController()
  let trainer: FakeTrainer | undefined
  const base: TrainBase = {
    info: { source: 'fake-base', hash: 'base-hash', vocabSize: VOCAB_SIZE }, encoder: byteEncoder, tokenizerFiles: [],
    async createTrainer(native) {
      trainer = new FakeTrainer(native)
      options.prepare?.(trainer, controller)
      return trainer
    },
  }
  const events: TrainEvent[] = []
  for await (const event of runTraining(requestOf(options), base, controller.signal)) {
    events.push(event)
    options.onEvent?.(event, controller)
  }
  const last = events.at(-1)
  return { events, trainer, adapter: last?.type === 'finished' ? weightsOf(options.outputDir) : undefined }
}

export function weightsOf(outputDir: string): string {
  return readFileSync(join(outputDir, 'adapter', 'adapter_model.safetensors'), 'utf8')
}

/** Events of one type. */
export function ofType<T extends TrainEvent['type']>(events: readonly TrainEvent[], type: T): Extract<TrainEvent, { type: T }>[] {
  return events.filter((event): event is Extract<TrainEvent, { type: T }> => event.type === type)
}
