// A run of training: data, steps, evaluations, checkpoints, and the adapter at its end. It can be stopped or killed anywhere and goes on
// from its last checkpoint as if nothing had happened.

import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ModelInfo } from '../api.js'
import { EngineError } from '../errors.js'
import type { NativeTrainer, NativeTrainerOptions } from '../native.js'
import { toEngineError } from '../native.js'
import { adapterConfig, copyFlushed, targetModules, writeAdapterFolder } from './adapter-files.js'
import { BatchReader } from './batches.js'
import { ADAPTER, type Checkpoint, CheckpointStore, type RunIdentity, demandSameRun, restore } from './checkpoint.js'
import { type Dataset, prepareDataset } from './dataset.js'
import { type PackedRows, oneRowEach, packAsTrl, packBestFit } from './packing.js'
import { StepPlan } from './plan.js'
import { RunLock } from './run-lock.js'
import { RunLog } from './run-log.js'
import type { SampleEncoder } from './sample-encoder.js'
import { StepRunner } from './step-runner.js'
import type { DataReport, TrainConfig, TrainEvent, TrainRequest } from './types.js'

const PREPARING_MS = 1_000

/** What a run needs of the engine. */
export interface TrainBase {
  readonly info: Pick<ModelInfo, 'source' | 'hash' | 'vocabSize'>
  readonly encoder: SampleEncoder
  /** Copied beside the adapter. */
  readonly tokenizerFiles: readonly string[]
  createTrainer(options: NativeTrainerOptions): Promise<NativeTrainer>
}

/** @throws EngineError DATA_INVALID, INVALID_REQUEST, OUT_OF_MEMORY, DISK_FULL, ADAPTER_INVALID, TRAINING_BUSY: the directory is taken */
export async function* runTraining(request: TrainRequest, base: TrainBase, signal: AbortSignal): AsyncGenerator<TrainEvent> {
  await mkdir(request.outputDir, { recursive: true })
  const lock = await RunLock.acquire(request.outputDir)
  try {
    yield* runLocked(request, base, signal)
  } finally {
    await lock.release()
  }
}

async function* runLocked(request: TrainRequest, base: TrainBase, signal: AbortSignal): AsyncGenerator<TrainEvent> {
  const checkpoints = new CheckpointStore(request.outputDir)
  const checkpoint = await checkpoints.latest()
  const startStep = checkpoint?.state.step ?? 0
  let data: Dataset
  try {
    data = yield* prepare(request, base, signal)
  } catch (error) {
    if (!signal.aborted) throw error
    return yield { type: 'stopped', step: startStep }
  }
  try {
    yield* trainOn(data, request, base, checkpoints, checkpoint, signal)
  } finally {
    await data.store.close()
  }
}

/** The data, and a word now and then while it is read. */
async function* prepare(request: TrainRequest, { encoder, info }: TrainBase, signal: AbortSignal): AsyncGenerator<TrainEvent, Dataset> {
  let rows = 0
  let isDone = false
  const left = new AbortController()
  const options = { encoder, vocabSize: info.vocabSize, onProgress: (n: number) => { rows = n } }
  const reading = prepareDataset(request, options, AbortSignal.any([signal, left.signal]))
  const done = reading.then(() => { isDone = true }, () => { isDone = true })
  try {
    for (;;) {
      const timer = new AbortController()
      await Promise.race([done, sleep(PREPARING_MS, undefined, { signal: timer.signal }).catch(() => {})])
      timer.abort()
      if (isDone) return await reading
      yield { type: 'preparing', rows }
    }
  } finally {
    // The reader may have left at the word.
    left.abort()
    if (!isDone) await reading.then(({ store }) => store.close(), () => {})
  }
}

/** What a request comes to on its data. */
interface Planned {
  readonly train: BatchReader
  readonly validation: BatchReader
  readonly plan: StepPlan
  readonly identity: RunIdentity
  /** Trained rows of the embedding. */
  readonly tokenIds: readonly number[]
  readonly peftConfig: string
}

function planRun(data: Dataset, config: TrainConfig, base: TrainBase): Planned {
  const options = { isTrl: config.compat === 'trl-0.21-eager', onAll: config.lossOn === 'all' }
  const train = new BatchReader(data.store, data.train, packRows(data, data.train, config), options)
  const validation = new BatchReader(data.store, data.validation, packRows(data, data.validation, config), options)
  if (config.earlyStoppingPatience > 0 && validation.nRows === 0) {
    const message = 'early_stopping_patience: there is no validation data (validation_split holds some back)'
    throw new EngineError('INVALID_REQUEST', message, { param: 'early_stopping_patience' })
  }
  const plan = new StepPlan(train.nRows, config)
  const tokenIds = trainedTokenIds(config, base)
  return {
    train, validation, plan, tokenIds, peftConfig: adapterConfig(config, base.info.source, tokenIds),
    identity: { config, dataHash: data.hash, baseHash: base.info.hash, totalSteps: plan.totalSteps },
  }
}

async function* trainOn(
  data: Dataset, { config, outputDir }: TrainRequest, base: TrainBase, checkpoints: CheckpointStore, checkpoint: Checkpoint | undefined,
  signal: AbortSignal,
): AsyncGenerator<TrainEvent> {
  const planned = planRun(data, config, base)
  const { train, plan, identity } = planned
  if (checkpoint !== undefined) demandSameRun(checkpoint.path, checkpoint.identity, identity)
  const trainer = await createTrainer(config, planned, base)
  let log: RunLog | undefined
  try {
    if (checkpoint !== undefined) await restore(trainer, checkpoint)
    else if (config.initFrom !== undefined) await trainer.loadAdapter(config.initFrom)
    const resumedFrom = checkpoint?.state.step ?? 0
    yield { type: 'data', report: reportOf(data, train, config), totalSteps: plan.totalSteps, nTrained: trainer.nTrained, resumedFrom }
    log = await RunLog.open(outputDir, resumedFrom, checkpoint?.state.metricsBytes ?? 0)
    const runner = new StepRunner({ ...planned, config, trainer, log, checkpoints, signal }, checkpoint?.state)
    if (!(yield* runner.run())) return
    const { step, kept, totals: { tokens, seconds } } = runner
    const adapterPath = join(outputDir, 'adapter')
    await writeAdapterFolder(adapterPath, {
      config: planned.peftConfig,
      card: { baseName: base.info.source, config, step: kept.step, samples: data.train.length, tokens, final: kept.metrics },
      tokenizerFiles: base.tokenizerFiles,
      saveWeights: (path) =>
        (kept.step === step ? trainer.saveAdapter(path) : copyFlushed(join(checkpoints.pathOf(kept.step), ADAPTER), path)),
    })
    yield { type: 'finished', step, adapterPath, tokens, seconds, final: kept.metrics }
  } finally {
    await log?.close()
    await trainer.close()
  }
}

function packRows({ store }: Dataset, samples: Int32Array, { packing, compat, maxLength }: TrainConfig): PackedRows {
  if (packing === 'none') return oneRowEach(samples.length)
  const lengths = samples.map((sample) => store.length(sample))
  return compat === 'trl-0.21-eager' ? packAsTrl(lengths, maxLength) : packBestFit(lengths, maxLength)
}

function trainedTokenIds(config: TrainConfig, { encoder, info }: TrainBase): readonly number[] {
  const turns = config.trainTurnTokens ? encoder.turnTokenIds() : []
  const ids = [...new Set([...config.trainableTokenIndices, ...turns])].sort((a, b) => a - b)
  const beyond = ids.find((id) => id >= info.vocabSize)
  if (beyond === undefined) return ids
  throw new EngineError('INVALID_REQUEST', `trainable_token_indices: the vocabulary has ${info.vocabSize} tokens, there is no ${beyond}`,
    { param: 'trainable_token_indices' })
}

/** `auto` recomputes no more than memory demands: results are the same. */
async function createTrainer(config: TrainConfig, { train, validation, tokenIds }: Planned, base: TrainBase): Promise<NativeTrainer> {
  if (config.initFrom !== undefined) await demandAdapter(config.initFrom, config)
  const maxTokens = config.perDeviceTrainBatchSize * Math.max(train.longestRow(), validation.longestRow())
  const policies = config.gradientCheckpointing === 'auto' ? (['none', 'mlp', 'layer'] as const) : [config.gradientCheckpointing]
  for (const checkpointing of policies) {
    try {
      return await base.createTrainer({
        rank: config.r, alpha: config.loraAlpha, useRslora: config.useRslora, useDora: config.useDora, dropout: config.loraDropout,
        targetModules: targetModules(config), layers: Int32Array.from(config.layersToTransform),
        trainableTokenIds: Int32Array.from(tokenIds), modulesToSave: config.modulesToSave, seed: BigInt(config.seed),
        checkpointing, optimizer: config.optim, maxTokens, trainShare: config.trainShare,
      })
    } catch (error) {
      const failure = toEngineError(error)
      if (failure.code !== 'OUT_OF_MEMORY' || checkpointing === policies.at(-1)) throw failure
    }
  }
  throw new EngineError('INTERNAL', 'no policy of gradient checkpointing was tried')
}

/** What shapes do not show must be as in this run: an adapter of another scale would start as something else than it was. */
async function demandAdapter(path: string, run: TrainConfig): Promise<void> {
  const text = await readFile(join(path, 'adapter_config.json'), 'utf8').catch(() => {
    throw new EngineError('ADAPTER_NOT_FOUND', `init_from: there is no adapter_config.json in ${path}`, { param: 'init_from' })
  })
  const saved = parseObject(text)
  const wanted = { r: run.r, lora_alpha: run.loraAlpha, use_rslora: run.useRslora, use_dora: run.useDora }
  const differing = Object.entries(wanted).filter(([name, value]) => (saved[name] ?? false) !== value)
  if (differing.length === 0) return
  const shown = differing.map(([name, value]) => `${name} ${String(saved[name] ?? false)} there, ${String(value)} here`).join('; ')
  throw new EngineError('ADAPTER_INVALID', `init_from: the adapter at ${path} is of another form: ${shown}`, { param: 'init_from' })
}

function parseObject(text: string): Record<string, unknown> {
  try {
    return JSON.parse(text) as Record<string, unknown>
  } catch {
    throw new EngineError('ADAPTER_INVALID', 'init_from: adapter_config.json is not JSON', { param: 'init_from' })
  }
}

/** The padding share is what rows of one width would waste; native code computes none of it. */
function reportOf(data: Dataset, train: BatchReader, { packing, maxLength }: TrainConfig): DataReport {
  const width = packing === 'none' ? train.longestRow() : maxLength
  const nTokens = data.train.reduce((n, sample) => n + data.store.length(sample), 0)
  return {
    samples: data.train.length, validationSamples: data.validation.length, rows: train.nRows,
    paddingShare: 1 - nTokens / (train.nRows * width), ...data.counts,
  }
}
