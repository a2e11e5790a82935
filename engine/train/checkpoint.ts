// Checkpoints of a run: a folder each, whole or absent. It is written aside and flushed, its manifest last, then named. A folder
// whose manifest does not fit its files is passed over.

import { mkdir, readFile, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type FileDigest, digestFile, flushPath, renameFlushed, toDiskError, writeFlushed } from '../durable.js'
import { EngineError } from '../errors.js'
import type { NativeTrainer } from '../native.js'
import { publicName } from './config.js'
import type { LossMetrics, TrainConfig } from './types.js'

const VERSION = 1
const MANIFEST = 'trainer_state.json'
const STATE = 'state.safetensors'
export const ADAPTER = 'adapter_model.safetensors'
const NAME = /^checkpoint-(\d+)$/
const UNFINISHED = '.partial'

/** What has to be equal for a run to go on. */
export interface RunIdentity {
  readonly config: TrainConfig
  readonly dataHash: string
  readonly baseHash: string
  readonly totalSteps: number
}

/** Everything of a run but the trainer's own tensors. */
export interface RunState {
  readonly step: number
  /** Seen since the start: the counter of dropout. */
  readonly tokens: number
  readonly seconds: number
  /** The last step after which an evaluation was done. */
  readonly evaluatedStep: number
  readonly lastEvaluation: LossMetrics | null
  readonly best: { readonly step: number; readonly metrics: LossMetrics } | null
  /** Evaluations in a row without gain. */
  readonly nWithoutGain: number
  /** Since the last 'step' event. */
  readonly sinceLog: LogWindow
  readonly lastTraining: LossMetrics
  /** Bytes of metrics.jsonl at this step. */
  readonly metricsBytes: number
}

export interface LogWindow {
  readonly steps: number
  readonly lossSum: number           // of the steps' losses
  readonly correct: number
  readonly targets: number
}

interface Manifest {
  readonly version: number
  readonly identity: RunIdentity
  readonly state: RunState
  readonly files: Readonly<Record<string, FileDigest>>
}

export interface Checkpoint {
  readonly path: string
  readonly identity: RunIdentity
  readonly state: RunState
}

/** Fields that may differ between a run and its resumption: what is trained does not depend on them. */
const FREE_FIELDS: ReadonlySet<keyof TrainConfig> = new Set(['trainShare', 'saveTotalLimit', 'gradientCheckpointing', 'badRows'])

export class CheckpointStore {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  pathOf(step: number): string {
    return join(this.#folder, `checkpoint-${step}`)
  }

  /** @throws EngineError DISK_FULL, with nothing of it left behind */
  async write(trainer: NativeTrainer, adapterConfig: string, identity: RunIdentity, state: RunState): Promise<string> {
    const path = this.pathOf(state.step)
    const partial = path + UNFINISHED
    try {
      await rm(partial, { recursive: true, force: true })
      await mkdir(partial)
      await writeFlushed(join(partial, 'adapter_config.json'), adapterConfig)
      await trainer.saveAdapter(join(partial, ADAPTER))
      await trainer.saveState(join(partial, STATE))
      const files = Object.fromEntries(await Promise.all((await readdir(partial)).sort().map(async (name) =>
        [name, await digestFile(join(partial, name))] as const)))
      const manifest: Manifest = { version: VERSION, identity, state, files }
      await writeFlushed(join(partial, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`)
      await flushPath(partial)
      await this.#remove(path)
      await renameFlushed(partial, path)
      return path
    } catch (error) {
      await rm(partial, { recursive: true, force: true }).catch(() => {})
      throw toDiskError(error)
    }
  }

  /** The newest that is whole and whose best one is still there. What a crash has left half-written is removed. */
  async latest(): Promise<Checkpoint | undefined> {
    const names = await readdir(this.#folder)
    await Promise.all(names.filter((name) => name.startsWith('checkpoint-') && name.endsWith(UNFINISHED))
      .map((name) => rm(join(this.#folder, name), { recursive: true, force: true })))
    const steps = stepsOf(names)
    for (const step of steps.toReversed()) {
      const checkpoint = await readCheckpoint(this.pathOf(step))
      if (checkpoint === undefined) continue
      const { identity: { config }, state: { best } } = checkpoint
      if (!config.loadBestModelAtEnd || best === null || steps.includes(best.step)) return checkpoint
    }
    return undefined
  }

  /** Removes all but the `limit` newest and the best. 0 keeps all. */
  async prune(limit: number, bestStep: number | undefined): Promise<void> {
    if (limit === 0) return
    const steps = stepsOf(await readdir(this.#folder))
    for (const step of steps.slice(0, Math.max(0, steps.length - limit))) if (step !== bestStep) await this.#remove(this.pathOf(step))
  }

  /** In two moves, so that no crash leaves a folder that looks whole. */
  async #remove(path: string): Promise<void> {
    const moved = await rename(path, path + '.old' + UNFINISHED).then(() => true, () => false)
    if (moved) await rm(path + '.old' + UNFINISHED, { recursive: true, force: true })
  }
}

/** @throws EngineError INVALID_REQUEST saying what differs */
export function demandSameRun(path: string, saved: RunIdentity, wanted: RunIdentity): void {
  const differences = []
  for (const field of Object.keys({ ...wanted.config, ...saved.config }) as (keyof TrainConfig)[]) {
    const [there, here] = [JSON.stringify(saved.config[field]), JSON.stringify(wanted.config[field])]
    if (!FREE_FIELDS.has(field) && there !== here) differences.push(`${publicName(field)} was ${there}, is ${here}`)
  }
  if (saved.baseHash !== wanted.baseHash) differences.push('another base model')
  if (saved.dataHash !== wanted.dataHash) differences.push('other training data')
  if (differences.length === 0) return
  throw new EngineError('INVALID_REQUEST',
    `${path} is a checkpoint of another run (${differences.join('; ')}): take another output directory, or remove this one`)
}

async function readCheckpoint(path: string): Promise<Checkpoint | undefined> {
  try {
    const { version, identity, state, files } = JSON.parse(await readFile(join(path, MANIFEST), 'utf8')) as Manifest
    if (version !== VERSION) return undefined
    for (const [name, expected] of Object.entries(files)) {
      const { bytes, sha256 } = await digestFile(join(path, name))
      if (bytes !== expected.bytes || sha256 !== expected.sha256) return undefined
    }
    return { path, identity, state }
  } catch {
    return undefined
  }
}

/** Puts parameters and moments of a checkpoint into the trainer. */
export async function restore(trainer: NativeTrainer, { path }: Checkpoint): Promise<void> {
  await trainer.loadState(join(path, STATE))
}

function stepsOf(names: readonly string[]): number[] {
  return names.flatMap((name) => NAME.exec(name)?.[1] ?? []).map(Number).sort((a, b) => a - b)
}
