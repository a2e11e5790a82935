// The loop of a run: a window of micro-batches, an optimiser step, and what is due after it. All it has to remember is a RunState.

import { EngineError } from '../errors.js'
import type { NativeOptimizerStep, NativeTrainer } from '../native.js'
import { toEngineError } from '../native.js'
import { type BatchReader, type MicroBatch, toNative } from './batches.js'
import type { CheckpointStore, LogWindow, RunIdentity, RunState } from './checkpoint.js'
import type { StepPlan } from './plan.js'
import type { RunLog } from './run-log.js'
import { type Schedule, learningRateAt, scheduleOf } from './schedule.js'
import type { LossMetrics, TrainConfig, TrainEvent } from './types.js'

export interface RunParts {
  readonly config: TrainConfig
  readonly plan: StepPlan
  readonly train: BatchReader
  readonly validation: BatchReader
  readonly trainer: NativeTrainer
  readonly log: RunLog
  readonly checkpoints: CheckpointStore
  readonly identity: RunIdentity
  readonly peftConfig: string
  readonly signal: AbortSignal
}

const NOTHING: LossMetrics = { loss: 0, tokenAccuracy: 0, targets: 0 }
const EMPTY_WINDOW: LogWindow = { steps: 0, lossSum: 0, correct: 0, targets: 0 }
const FRESH: RunState = {
  step: 0, tokens: 0, seconds: 0, evaluatedStep: 0, lastEvaluation: null, best: null, nWithoutGain: 0, sinceLog: EMPTY_WINDOW,
  lastTraining: NOTHING, metricsBytes: 0,
}

export class StepRunner {
  readonly #parts: RunParts
  readonly #schedule: Schedule
  #state: RunState
  #savedStep: number
  /** Of the last step. */
  #gradNorm = 0
  #learningRate = 0
  /** Of this process: `ms` of `steps` steps since its start, and what came since the last 'step' event. */
  readonly #pace = { steps: 0, ms: 0, tokensSinceLog: 0, msSinceLog: 0 }

  constructor(parts: RunParts, state: RunState = FRESH) {
    this.#parts = parts
    this.#schedule = scheduleOf(parts.config, parts.plan.totalSteps)
    this.#state = state
    this.#savedStep = state.step
  }

  get step(): number {
    return this.#state.step
  }

  /** The step whose parameters are the result, and how good they are. */
  get kept(): { readonly step: number; readonly metrics: LossMetrics } {
    const { step, best, lastEvaluation, lastTraining } = this.#state
    return this.#parts.config.loadBestModelAtEnd && best !== null ? best : { step, metrics: lastEvaluation ?? lastTraining }
  }

  get totals(): { readonly tokens: number; readonly seconds: number } {
    return this.#state
  }

  /** Returns true at the end of the run, false when the signal stopped it. */
  async* run(): AsyncGenerator<TrainEvent, boolean> {
    const { plan, signal } = this.#parts
    // A run stopped in the midst of an evaluation does it now.
    if (this.step > 0) yield* this.#evaluateIfDue()
    while (this.step < plan.totalSteps && !this.#hasStalled) {
      if (signal.aborted) return yield* this.#stop()
      await this.#trainStep()
      if (this.step % this.#parts.config.loggingSteps === 0 || this.step === plan.totalSteps) yield* this.#logStep()
      yield* this.#evaluateIfDue()
      if (this.#isSaveDue()) yield* this.#save()
    }
    return signal.aborted ? yield* this.#stop() : true
  }

  async* #stop(): AsyncGenerator<TrainEvent, boolean> {
    if (this.#savedStep < this.step) yield* this.#save()
    yield { type: 'stopped', step: this.step }
    return false
  }

  async #trainStep(): Promise<void> {
    const { config, plan, train, trainer } = this.#parts
    const startedAt = performance.now()
    const step = this.step + 1
    const batches = await Promise.all(plan.windowOf(step).map((rows) => train.read(rows)))
    const { loss, correct, targets, tokens } = await this.#accumulate(batches)
    if (!Number.isFinite(loss)) {
      const left = this.#savedStep === 0 ? 'there is no checkpoint' : `the last checkpoint is of step ${this.#savedStep}`
      throw new EngineError('TRAINING_DIVERGED', `step ${step}: the loss is ${loss}; ${left}. A lower learning_rate may help`)
    }
    this.#learningRate = learningRateAt(this.#schedule, step)
    this.#gradNorm = (await trainer.optimizerStep(optimizerStep(config, this.#learningRate))).gradNorm
    const { sinceLog } = this.#state
    this.#state = {
      ...this.#state, step, tokens: this.#state.tokens + tokens, seconds: this.#state.seconds + this.#took(startedAt, tokens),
      sinceLog: {
        steps: sinceLog.steps + 1, lossSum: sinceLog.lossSum + loss,
        correct: sinceLog.correct + correct, targets: sinceLog.targets + targets,
      },
    }
  }

  /** Gradients of a window: of the mean over its targets, or of the mean of its micro-batches' means. */
  async #accumulate(batches: readonly MicroBatch[]): Promise<{ loss: number; correct: number; targets: number; tokens: number }> {
    const { config, trainer } = this.#parts
    const divisor = batches.reduce((n, batch) => n + batch.divisor, 0)
    const sums = { loss: 0, correct: 0, targets: 0, tokens: 0 }
    for (const batch of batches) {
      const scale = config.lossNormalization === 'token-mean' ? 1 / divisor : 1 / (batch.nTargets * batches.length)
      const { lossSum, targets, correct } = await native(trainer.accumulate(toNative(batch, this.#state.tokens + sums.tokens), scale))
      sums.loss += lossSum * scale
      sums.correct += correct
      sums.targets += targets
      sums.tokens += batch.tokenIds.length
    }
    return sums
  }

  #took(startedAt: number, tokens: number): number {
    const ms = performance.now() - startedAt
    this.#pace.steps++
    this.#pace.ms += ms
    this.#pace.tokensSinceLog += tokens
    this.#pace.msSinceLog += ms
    return ms / 1000
  }

  async* #logStep(): AsyncGenerator<TrainEvent> {
    const { plan, trainer, log } = this.#parts
    const { step, tokens, sinceLog } = this.#state
    const { steps, lossSum, correct, targets } = sinceLog
    if (steps === 0) return
    const metrics: LossMetrics = { loss: lossSum / steps, tokenAccuracy: correct / targets, targets }
    this.#state = { ...this.#state, sinceLog: EMPTY_WINDOW, lastTraining: metrics }
    const pace = this.#pace
    const event: TrainEvent = {
      type: 'step', step, totalSteps: plan.totalSteps, epoch: plan.epochsAfter(step), ...metrics,
      learningRate: this.#learningRate, gradNorm: this.#gradNorm, tokens,
      tokensPerSecond: pace.tokensSinceLog / pace.msSinceLog * 1000,
      remainingMs: (plan.totalSteps - step) * pace.ms / pace.steps,
      memoryBytes: Object.values(trainer.bytes).reduce((sum, n) => sum + n, 0),
    }
    pace.tokensSinceLog = pace.msSinceLog = 0
    await log.write(event)
    yield event
  }

  async* #evaluateIfDue(): AsyncGenerator<TrainEvent> {
    const { config, plan, validation, log } = this.#parts
    const { step, evaluatedStep } = this.#state
    const isDue = step === plan.totalSteps || (config.evalSteps > 0 ? step % config.evalSteps === 0 : plan.endsEpoch(step))
    if (!isDue || evaluatedStep === step || validation.nRows === 0) return
    const startedAt = performance.now()
    const metrics = await this.#evaluate()
    if (metrics === undefined) return
    const isBest = this.#state.best === null || metrics.loss < this.#state.best.metrics.loss
    this.#state = {
      ...this.#state, evaluatedStep: step, lastEvaluation: metrics, seconds: this.#state.seconds + (performance.now() - startedAt) / 1000,
      best: isBest ? { step, metrics } : this.#state.best, nWithoutGain: isBest ? 0 : this.#state.nWithoutGain + 1,
    }
    const event: TrainEvent = { type: 'evaluation', step, best: isBest, ...metrics }
    await log.write(event)
    yield event
  }

  /** Undefined when the signal came first. */
  async #evaluate(): Promise<LossMetrics | undefined> {
    const { config: { perDeviceTrainBatchSize }, validation, trainer, signal } = this.#parts
    const sums = { loss: 0, correct: 0, targets: 0 }
    for (let row = 0; row < validation.nRows; row += perDeviceTrainBatchSize) {
      if (signal.aborted) return undefined
      const rows = Int32Array.from({ length: Math.min(perDeviceTrainBatchSize, validation.nRows - row) }, (_, i) => row + i)
      const { lossSum, correct, targets } = await native(trainer.evaluate(toNative(await validation.read(rows), 0)))
      sums.loss += lossSum
      sums.correct += correct
      sums.targets += targets
    }
    return { loss: sums.loss / sums.targets, tokenAccuracy: sums.correct / sums.targets, targets: sums.targets }
  }

  get #hasStalled(): boolean {
    const { earlyStoppingPatience: patience } = this.#parts.config
    return patience > 0 && this.#state.nWithoutGain >= patience
  }

  #isSaveDue(): boolean {
    const { config, plan } = this.#parts
    const { step, best } = this.#state
    const isBest = config.loadBestModelAtEnd && best?.step === step
    const isTurn = config.saveSteps > 0 ? step % config.saveSteps === 0 : plan.endsEpoch(step)
    return isTurn || isBest || step === plan.totalSteps || this.#hasStalled
  }

  async* #save(): AsyncGenerator<TrainEvent> {
    const { config, trainer, log, checkpoints, identity, peftConfig } = this.#parts
    await log.flush()
    this.#state = { ...this.#state, metricsBytes: log.metricsBytes }
    const path = await checkpoints.write(trainer, peftConfig, identity, this.#state)
    this.#savedStep = this.step
    await checkpoints.prune(config.saveTotalLimit, config.loadBestModelAtEnd ? this.#state.best?.step : undefined)
    yield { type: 'checkpoint', step: this.step, path }
  }
}

function optimizerStep(config: TrainConfig, lr: number): NativeOptimizerStep {
  const { adamBeta1: beta1, adamBeta2: beta2, adamEpsilon: eps, weightDecay, maxGradNorm } = config
  return { lr, beta1, beta2, eps, weightDecay, maxGradNorm }
}

async function native<T>(work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    throw toEngineError(error)
  }
}
