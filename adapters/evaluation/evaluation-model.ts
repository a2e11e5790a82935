// What an evaluation needs of a model, wherever that runs.

import type { TrainRow } from '../../engine/train/row-format.js'

export interface Scores {
  readonly lossSum: number                // nats
  readonly targets: number
  readonly correct: number                // greedy hits
}

export interface EvaluationModel {
  readonly name: string
  /** What the model says after the row's prompt, greedily. */
  answer(row: TrainRow, maxTokens: number, signal?: AbortSignal): Promise<string>
  /** Loss over the row's last answer, its end of turn included. Undefined: longer than the context. */
  score(row: TrainRow, signal?: AbortSignal): Promise<Scores | undefined>
}
