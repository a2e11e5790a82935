// Which rows each optimiser step sees: every epoch a permutation of all rows, cut into micro-batches, these into windows; the last window
// of an epoch may be short. A step alone says all of it, so a run goes on anywhere.

import { randomPermutation } from './permutation.js'
import type { TrainConfig } from './types.js'

type PlanConfig = Pick<TrainConfig,
  'shuffle' | 'seed' | 'perDeviceTrainBatchSize' | 'gradientAccumulationSteps' | 'numTrainEpochs' | 'maxSteps'>

export class StepPlan {
  readonly totalSteps: number
  readonly stepsPerEpoch: number
  readonly #nRows: number
  readonly #config: PlanConfig
  #order: { readonly epoch: number; readonly rows: Int32Array } | undefined

  constructor(nRows: number, config: PlanConfig) {
    this.#nRows = nRows
    this.#config = config
    this.stepsPerEpoch = Math.ceil(Math.ceil(nRows / config.perDeviceTrainBatchSize) / config.gradientAccumulationSteps)
    this.totalSteps = config.maxSteps > 0 ? config.maxSteps : Math.ceil(config.numTrainEpochs * this.stepsPerEpoch)
  }

  /** Epochs done after `step`, with their fraction. */
  epochsAfter(step: number): number {
    return step / this.stepsPerEpoch
  }

  endsEpoch(step: number): boolean {
    return step % this.stepsPerEpoch === 0
  }

  /** Rows of each micro-batch of optimiser step `step`, counted from 1. */
  windowOf(step: number): Int32Array[] {
    const { perDeviceTrainBatchSize: nRows, gradientAccumulationSteps } = this.#config
    const order = this.#orderOf(Math.floor((step - 1) / this.stepsPerEpoch))
    const from = (step - 1) % this.stepsPerEpoch * nRows * gradientAccumulationSteps
    const window = order.subarray(from, from + nRows * gradientAccumulationSteps)
    return Array.from({ length: Math.ceil(window.length / nRows) }, (_, i) => window.subarray(i * nRows, (i + 1) * nRows))
  }

  #orderOf(epoch: number): Int32Array {
    if (this.#order?.epoch !== epoch) this.#order = { epoch, rows: this.#permute(epoch) }
    return this.#order.rows
  }

  #permute(epoch: number): Int32Array {
    const { shuffle, seed } = this.#config
    return shuffle ? randomPermutation(this.#nRows, seed + epoch) : Int32Array.from({ length: this.#nRows }, (_, i) => i)
  }
}
