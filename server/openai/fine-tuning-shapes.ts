// Jobs, events, checkpoints and files as OpenAI's clients read them, with our own fields beside.

import type { StoredFile } from '../../adapters/jobs/file-store.js'
import type { Page } from '../../adapters/jobs/database.js'
import type { Job, JobCheckpoint, JobEvent } from '../../adapters/jobs/job-types.js'
import { fineTunedModelName, ORGANISATION } from '../../adapters/names.js'
import { unixSeconds } from '../routes/respond.js'

export function jobCard(job: Job) {
  const hyperparameters = shownHyperparameters(job)
  return {
    id: job.id, object: 'fine_tuning.job', created_at: job.createdAt, finished_at: job.finishedAt, model: job.model,
    fine_tuned_model: job.fineTunedModel, organization_id: ORGANISATION, status: job.status, hyperparameters,
    method: { type: job.methodType ?? 'supervised', supervised: { hyperparameters } },
    training_file: job.train.shown, validation_file: job.validation?.shown ?? null, result_files: job.resultFiles,
    trained_tokens: job.trainedTokens, error: job.error, seed: job.config.seed, integrations: [], metadata: job.metadata ?? null,
    user_provided_suffix: job.suffix ?? null, estimated_finish: estimatedFinish(job),
    adapter: { name: job.name, version: job.version }, progress: progressCard(job), evaluation: job.evaluation,
  }
}

/** "auto" until the job has started; what it came to from then on. */
function shownHyperparameters({ hyperparameters, config, startedAt }: Job) {
  const asked = { n_epochs: 'auto', batch_size: 'auto', learning_rate_multiplier: 'auto', ...hyperparameters }
  if (startedAt === null) return asked
  return {
    ...asked, n_epochs: config.numTrainEpochs, batch_size: config.perDeviceTrainBatchSize * config.gradientAccumulationSteps,
    learning_rate_multiplier: config.learningRate / BASE_LEARNING_RATE,
  }
}

/** The rate that a multiplier of 1 stands for: that of the published recipe. */
export const BASE_LEARNING_RATE = 2e-4

function estimatedFinish({ status, progress }: Job): number | null {
  if (status !== 'running' || progress?.remainingMs == null) return null
  return unixSeconds() + Math.ceil(progress.remainingMs / 1_000)
}

function progressCard({ progress }: Job) {
  if (progress === null) return null
  return {
    step: progress.step, total_steps: progress.totalSteps, epoch: progress.epoch, train_loss: progress.loss,
    train_mean_token_accuracy: progress.tokenAccuracy, learning_rate: progress.learningRate, grad_norm: progress.gradNorm,
    tokens: progress.tokens, tokens_per_second: progress.tokensPerSecond, remaining_ms: progress.remainingMs,
    memory_bytes: progress.memoryBytes,
  }
}

export function eventCard({ id, createdAt, level, message, type, data }: JobEvent) {
  return { id, object: 'fine_tuning.job.event', created_at: createdAt, level, message, type, data }
}

export function checkpointCard({ id, jobId, createdAt, step, train, validation, version }: JobCheckpoint, job: Job) {
  const metrics = {
    step, train_loss: train?.loss, train_mean_token_accuracy: train?.tokenAccuracy, full_valid_loss: validation?.loss,
    full_valid_mean_token_accuracy: validation?.tokenAccuracy,
  }
  return {
    id, object: 'fine_tuning.job.checkpoint', created_at: createdAt, fine_tuning_job_id: jobId, step_number: step,
    fine_tuned_model_checkpoint: version === null ? null : fineTunedModelName(job.baseName, job.name, version, step),
    metrics: Object.fromEntries(Object.entries(metrics).filter(([, value]) => value !== undefined)),
  }
}

export function fileCard({ id, bytes, createdAt, filename, purpose, expiresAt }: StoredFile) {
  const expiry = expiresAt === null ? {} : { expires_at: expiresAt }
  return { id, object: 'file', bytes, created_at: createdAt, filename, purpose, status: 'processed', ...expiry, status_details: null }
}

export function pageCard<T, C extends { readonly id: string }>({ data, hasMore }: Page<T>, card: (item: T) => C) {
  const cards = data.map(card)
  return { object: 'list', data: cards, has_more: hasMore, first_id: cards[0]?.id ?? null, last_id: cards.at(-1)?.id ?? null }
}

