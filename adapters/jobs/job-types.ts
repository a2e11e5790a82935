// Training jobs as plain data: what is stored, listed and shown. Times are Unix seconds.

import type { EvaluationReport, Metric } from '../evaluation/report.js'
import type { LossMetrics, TrainConfig } from '../../engine/train/types.js'

export type JobStatus = 'validating_files' | 'queued' | 'running' | 'paused' | 'succeeded' | 'failed' | 'cancelled'
export const JOB_STATUSES: readonly JobStatus[] =
  ['validating_files', 'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled']
export const isOver = (status: JobStatus): boolean => status === 'succeeded' || status === 'failed' || status === 'cancelled'

/** A data set as the job reads it, and as its owner named it: a file id or a path under a root. */
export interface JobData {
  readonly path: string
  readonly shown: string
}

/** What a finished adapter must reach before it is published. */
export interface GateOptions {
  readonly data: JobData
  /** SQLite file for execution accuracy. */
  readonly database?: JobData
  readonly metric: Metric
  /** The least that passes; of a loss the most. */
  readonly threshold?: number
  /** At least as good as the version that is current; the base where there is none. */
  readonly notWorseThanCurrent: boolean
  readonly maxSamples?: number
}

export interface JobError {
  readonly code: string
  readonly message: string
  readonly param: string | null
}

export interface JobProgress {
  readonly step: number
  readonly totalSteps: number
  readonly epoch: number
  readonly loss: number | null
  readonly tokenAccuracy: number | null
  readonly learningRate: number | null
  readonly gradNorm: number | null
  readonly tokens: number
  readonly tokensPerSecond: number | null
  readonly remainingMs: number | null
  readonly memoryBytes: number | null
}

/** What a caller asks for, checked. */
export interface NewJob {
  /** Adapter that the result becomes a version of. */
  readonly name: string
  /** The base, or the adapter to start from, as the caller named it. */
  readonly model: string
  /** Key that may see the job; null where the server has no keys. */
  readonly owner: string | null
  readonly config: TrainConfig
  /** As asked for, for the echo: "auto" stays "auto". */
  readonly hyperparameters: Readonly<Record<string, unknown>>
  readonly train: JobData
  readonly validation?: JobData
  readonly gate?: GateOptions
  readonly suffix?: string
  readonly metadata?: Readonly<Record<string, string>>
  readonly methodType?: string
  /** Checkpoints that are left at the end become versions too, though not the current one. */
  readonly keepsCheckpoints?: boolean
}

export interface Job extends NewJob {
  readonly id: string                     // "ftjob-..."
  readonly status: JobStatus
  readonly createdAt: number
  readonly startedAt: number | null
  readonly finishedAt: number | null
  /** Hash of the base that it was made for. */
  readonly baseHash: string
  readonly baseName: string
  readonly error: JobError | null
  /** Once it has succeeded: the version, and the name that OpenAI's clients use for it. */
  readonly version: string | null
  readonly fineTunedModel: string | null
  readonly resultFiles: readonly string[]
  readonly trainedTokens: number | null
  readonly progress: JobProgress | null
  readonly evaluation: EvaluationReport | null
  /** Crashes of the engine since the last step that was new. */
  readonly crashes: number
}

export type JobEventLevel = 'info' | 'warn' | 'error'

export interface JobEvent {
  readonly id: string                     // "ft-event-..."
  readonly jobId: string
  readonly createdAt: number
  readonly level: JobEventLevel
  readonly message: string
  readonly type: 'message' | 'metrics'
  readonly data: Readonly<Record<string, unknown>> | null
}

export interface JobCheckpoint {
  readonly id: string                     // "ftckpt_..."
  readonly jobId: string
  readonly createdAt: number
  readonly step: number
  readonly path: string
  readonly train: LossMetrics | null
  readonly validation: LossMetrics | null
  /** Version of the adapter, once it is published. */
  readonly version: string | null
}

/** One row of the result file. */
export interface StepMetrics {
  readonly step: number
  readonly trainLoss?: number
  readonly trainAccuracy?: number
  readonly validLoss?: number
  readonly validAccuracy?: number
}
