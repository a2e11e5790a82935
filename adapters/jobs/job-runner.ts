// One job on the engine, from its data to a published version. What it returns says what becomes of the job; jobs.ts does it.

import type { EngineError } from '../../engine/errors.js'
import type { LossMetrics, TrainEvent, TrainingEngine, TrainRequest } from '../../engine/train/types.js'
import { meansDiskFull } from './database.js'
import { newId, unixSeconds, type JobStore } from './job-store.js'
import type { Job, JobError, JobProgress } from './job-types.js'

export type RunOutcome =
  | { readonly kind: 'finished'; readonly adapterPath: string; readonly tokens: number; readonly final: LossMetrics }
  /** The signal was aborted; the directory can be resumed. */
  | { readonly kind: 'stopped' }
  /** The engine went away: try again once it is back. */
  | { readonly kind: 'interrupted'; readonly message: string }
  /** Another run has the engine, or the directory: try again later. */
  | { readonly kind: 'busy' }
  /** No space: the owner resumes it when there is some. */
  | { readonly kind: 'paused'; readonly message: string }
  | { readonly kind: 'failed'; readonly error: JobError }

/** It may be back in a moment. */
export function isEngineGone(error: unknown): boolean {
  const { code } = error as { code?: string }
  return code === 'ENGINE_RESTARTED' || code === 'ENGINE_UNAVAILABLE'
}

export class JobRun {
  readonly #job: Job
  readonly #store: JobStore
  /** Steps told before: what is done again after a crash is not told twice. */
  #toldStep: number
  #lastTraining: LossMetrics | null = null
  #lastEvaluation: { readonly step: number; readonly metrics: LossMetrics } | null = null

  constructor(job: Job, store: JobStore) {
    this.#job = job
    this.#store = store
    this.#toldStep = job.progress?.step ?? 0
  }

  /** Never throws but for a bug of ours. */
  async train(engine: TrainingEngine, outputDir: string, signal: AbortSignal): Promise<RunOutcome> {
    const { id, config, train, validation } = this.#job
    const request: TrainRequest = {
      id, config, outputDir, trainFiles: [train.path], ...(validation !== undefined && { validationFiles: [validation.path] }),
    }
    try {
      for await (const event of engine.train(request, signal)) {
        const outcome = this.#take(event)
        if (outcome !== undefined) return outcome
      }
      return { kind: 'interrupted', message: 'the engine ended the run without a result' }
    } catch (error) {
      return signal.aborted ? { kind: 'stopped' } : this.#failure(error)
    }
  }

  #take(event: TrainEvent): RunOutcome | undefined {
    return this.#store.together(() => this.#note(event))
  }

  #note(event: TrainEvent): RunOutcome | undefined {
    switch (event.type) {
      case 'data': return void this.#data(event)
      case 'step': return void this.#step(event)
      case 'evaluation': return void this.#evaluation(event)
      case 'checkpoint': return void this.#checkpoint(event)
      case 'stopped': return { kind: 'stopped' }
      case 'finished': return { kind: 'finished', adapterPath: event.adapterPath, tokens: event.tokens, final: event.final }
      default: return undefined
    }
  }

  #data({ report, totalSteps, nTrained, resumedFrom }: Extract<TrainEvent, { type: 'data' }>): void {
    if (resumedFrom > 0) {
      this.#store.addEvent(this.#job.id, 'info', `The job goes on from step ${resumedFrom} of ${totalSteps}`)
      return
    }
    const { samples, validationSamples, tokens, rows, dropped, truncated } = report
    const { refused, nRefused, paddingShare, targetTokens } = report
    const counts = `${samples} samples, ${tokens} tokens, ${rows} rows, ${totalSteps} steps, ${nTrained} parameters`
    this.#store.addEvent(this.#job.id, 'info', `The data holds ${counts}`, {
      samples, validation_samples: validationSamples, tokens, target_tokens: targetTokens, rows, padding_share: paddingShare, dropped,
      truncated, refused: nRefused, total_steps: totalSteps, trained_parameters: nTrained,
    })
    const [first] = refused
    if (first === undefined) return
    const where = `${this.#shown(first.file)}:${first.line}: ${first.reason}`
    this.#store.addEvent(this.#job.id, 'warn', `${nRefused} rows are left out, the first is ${where}`)
  }

  #step(event: Extract<TrainEvent, { type: 'step' }>): void {
    const { step, totalSteps, loss, tokenAccuracy, epoch, learningRate, gradNorm } = event
    const { tokens, tokensPerSecond, remainingMs, memoryBytes } = event
    this.#lastTraining = { loss, tokenAccuracy, targets: event.targets }
    const progress: JobProgress =
      { step, totalSteps, loss, tokenAccuracy, epoch, learningRate, gradNorm, tokens, tokensPerSecond, remainingMs, memoryBytes }
    const isNew = step > this.#toldStep
    this.#store.update(this.#job.id, { progress, ...(isNew && { crashes: 0 }) })
    this.#store.putMetrics(this.#job.id, { step, trainLoss: loss, trainAccuracy: tokenAccuracy })
    if (!isNew) return
    this.#toldStep = step
    this.#store.addEvent(this.#job.id, 'info', `Step ${step}/${totalSteps}: training loss=${loss.toFixed(2)}`, {
      step, total_steps: totalSteps, train_loss: loss, train_mean_token_accuracy: tokenAccuracy, epoch, learning_rate: learningRate,
      grad_norm: gradNorm, tokens, tokens_per_second: tokensPerSecond, remaining_ms: remainingMs, memory_bytes: memoryBytes,
    })
  }

  #evaluation({ step, loss, tokenAccuracy, targets, best }: Extract<TrainEvent, { type: 'evaluation' }>): void {
    this.#lastEvaluation = { step, metrics: { loss, tokenAccuracy, targets } }
    this.#store.putMetrics(this.#job.id, { step, validLoss: loss, validAccuracy: tokenAccuracy })
    const note = best ? ', the best so far' : ''
    this.#store.addEvent(this.#job.id, 'info', `Step ${step}: full validation loss=${loss.toFixed(2)}${note}`, {
      step, full_valid_loss: loss, full_valid_mean_token_accuracy: tokenAccuracy, best,
    })
  }

  #checkpoint({ step, path }: Extract<TrainEvent, { type: 'checkpoint' }>): void {
    const validation = this.#lastEvaluation?.step === step ? this.#lastEvaluation.metrics : null
    this.#store.putCheckpoint({
      id: newId('ftckpt_'), jobId: this.#job.id, createdAt: unixSeconds(), step, path, train: this.#lastTraining, validation, version: null,
    })
    this.#store.addEvent(this.#job.id, 'info', `Checkpoint created at step ${step}`)
  }

  #failure(error: unknown): RunOutcome {
    const { code = 'INTERNAL', message, param = null } = error as Partial<EngineError> & Error
    if (isEngineGone(error)) return { kind: 'interrupted', message }
    if (code === 'TRAINING_BUSY') return { kind: 'busy' }
    if (meansDiskFull(error)) return { kind: 'paused', message }
    const isData = code === 'DATA_INVALID'
    const told: JobError = {
      code: isData ? 'invalid_training_file' : code.toLowerCase(), message: this.#shown(message),
      param: isData ? 'training_file' : (param ?? null),
    }
    return { kind: 'failed', error: told }
  }

  /** Paths of this machine are nobody's business: data is called what its owner calls it. */
  #shown(text: string): string {
    const { train, validation } = this.#job
    return [train, validation].reduce((shown, data) => (data === undefined ? shown : shown.replaceAll(data.path, data.shown)), text)
  }
}
