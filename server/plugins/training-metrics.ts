// The training job that runs, and how many there are: the lorikeet_training_* family, read from the jobs when it is scraped.

import { Gauge, type Registry } from 'prom-client'
import type { Job, JobProgress } from '../../adapters/jobs/job-types.js'
import type { Backend } from '../backend.js'

/** Gauge of the running job, and what of its progress it shows. */
const PROGRESS: ReadonlyArray<readonly [name: string, help: string, value: (progress: JobProgress) => number | null]> = [
  ['step', 'Optimiser steps done.', ({ step }) => step],
  ['total_steps', 'Optimiser steps of the whole run.', ({ totalSteps }) => totalSteps],
  ['epoch', 'Epochs done, with fractions.', ({ epoch }) => epoch],
  ['loss', 'Training loss of the last step told, nats a target.', ({ loss }) => loss],
  ['token_accuracy', 'Share of targets that the model ranks first.', ({ tokenAccuracy }) => tokenAccuracy],
  ['learning_rate', 'Learning rate.', ({ learningRate }) => learningRate],
  ['grad_norm', 'Norm of the gradient before clipping.', ({ gradNorm }) => gradNorm],
  ['tokens', 'Tokens seen.', ({ tokens }) => tokens],
  ['tokens_per_second', 'Training tokens a second.', ({ tokensPerSecond }) => tokensPerSecond],
  ['remaining_seconds', 'Time to the end, estimated.', ({ remainingMs }) => (remainingMs === null ? null : remainingMs / 1_000)],
  ['memory_bytes', 'Memory of the run.', ({ memoryBytes }) => memoryBytes],
]

export class TrainingMetrics {
  readonly #backend: Backend
  readonly #info: Gauge
  readonly #status: Gauge
  readonly #progress: ReadonlyArray<{ readonly gauge: Gauge; readonly value: (progress: JobProgress) => number | null }>

  constructor(registry: Registry, backend: Backend) {
    const registers = [registry]
    this.#backend = backend
    // Metrics are collected in the order of their registration: this first one brings all others up to date.
    this.#info = new Gauge({
      name: 'lorikeet_training_job_info', help: 'The job that runs.', labelNames: ['job', 'adapter'], registers,
      collect: () => this.#update(),
    })
    this.#status = new Gauge({ name: 'lorikeet_training_jobs', help: 'Jobs by state.', labelNames: ['status'], registers })
    this.#progress = PROGRESS.map(([name, help, value]) =>
      ({ gauge: new Gauge({ name: `lorikeet_training_${name}`, help, registers }), value }))
  }

  #update(): void {
    const jobs = this.#backend.attachedJobs
    for (const [status, n] of Object.entries(jobs?.counts() ?? {})) this.#status.set({ status }, n)
    this.#show(jobs?.running)
  }

  /** Nothing of a job that has ended. */
  #show(job: Job | undefined): void {
    this.#info.reset()
    if (job !== undefined) this.#info.set({ job: job.id, adapter: job.name }, 1)
    for (const { gauge, value } of this.#progress) {
      const shown = job?.progress == null ? null : value(job.progress)
      if (shown === null) gauge.remove()
      else gauge.set(shown)
    }
  }
}
