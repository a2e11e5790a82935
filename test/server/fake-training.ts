// An engine that trains by counting: steps, checkpoints and losses as a real run tells them, in a directory that can be resumed.

import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { EngineError } from '../../engine/errors.js'
import type { TrainEvent, TrainRequest, TrainingEngine } from '../../engine/train/types.js'
import { FakeEngine, type FakeScript } from './fake-engine.js'
import type { ModelInfo } from '../../engine/api.js'

export interface TrainScript {
  /** Steps when the configuration names none. */
  steps?: number
  stepMs?: number
  saveEvery?: number
  /** Thrown before this step, once for each entry. */
  failAt?: { readonly step: number; readonly error: Error }[]
  /** Weights of the finished adapter; default: the job's id. */
  content?: string
}

const TARGETS = 100

export class FakeTrainingEngine extends FakeEngine implements TrainingEngine {
  training: TrainScript
  /** Every request that train() was called with, and every step that was done. */
  readonly runs: TrainRequest[] = []
  readonly stepsDone: number[] = []
  #isTraining = false

  constructor(training: TrainScript = {}, script: FakeScript = {}, info: Partial<ModelInfo> = {}) {
    super(script, info)
    this.training = training
  }

  async *train(request: TrainRequest, signal?: AbortSignal): AsyncGenerator<TrainEvent> {
    this.runs.push(request)
    if (this.state !== 'ready') throw new EngineError('ENGINE_UNAVAILABLE', 'The engine restarts')
    if (this.#isTraining) throw new EngineError('TRAINING_BUSY', 'Another run goes on')
    this.#isTraining = true
    try {
      yield* this.#run(request, signal)
    } finally {
      this.#isTraining = false
    }
  }

  async *#run({ id, config, outputDir, trainFiles }: TrainRequest, signal: AbortSignal | undefined): AsyncGenerator<TrainEvent> {
    const text = await readFile(trainFiles[0]!, 'utf8')
    if (text.includes('"bad"')) {
      throw new EngineError('DATA_INVALID', `1 row of the data cannot be used:\n${trainFiles[0]}:2: a message has no role`)
    }
    const samples = text.trim().split('\n').length
    const totalSteps = config.maxSteps > 0 ? config.maxSteps : (this.training.steps ?? 10)
    const state = join(outputDir, 'state')
    await mkdir(outputDir, { recursive: true })
    const resumedFrom = existsSync(state) ? Number(await readFile(state, 'utf8')) : 0
    const save = async (step: number): Promise<TrainEvent> => {
      const path = join(outputDir, `checkpoint-${step}`)
      await writeAdapter(path, `checkpoint ${step} of ${id}`)
      await writeFile(state, String(step))
      return { type: 'checkpoint', step, path }
    }
    yield {
      type: 'data', totalSteps, nTrained: 1_000, resumedFrom,
      report: {
        samples, validationSamples: 0, tokens: samples * 20, targetTokens: samples * 5, rows: samples, paddingShare: 0, truncated: 0,
        dropped: 0, nRefused: 0, refused: [],
      },
    }
    for (let step = resumedFrom + 1; step <= totalSteps; step++) {
      await sleep(this.training.stepMs ?? 1)
      if (this.state !== 'ready') throw new EngineError('ENGINE_RESTARTED', 'The engine process died')
      if (signal?.aborted === true) {
        yield await save(step - 1)
        yield { type: 'stopped', step: step - 1 }
        return
      }
      const at = this.training.failAt?.findIndex((failure) => failure.step === step) ?? -1
      if (at >= 0) throw this.training.failAt!.splice(at, 1)[0]!.error
      this.stepsDone.push(step)
      yield {
        type: 'step', step, totalSteps, epoch: step / totalSteps, learningRate: config.learningRate, gradNorm: 1 / step, tokens: step * 50,
        tokensPerSecond: 500, remainingMs: (totalSteps - step) * 100, memoryBytes: 1_000, loss: 2 / step, tokenAccuracy: step / totalSteps,
        targets: TARGETS,
      }
      if (step % (this.training.saveEvery ?? 5) !== 0) continue
      yield { type: 'evaluation', step, best: true, loss: 3 / step, tokenAccuracy: 0.5, targets: TARGETS }
      yield await save(step)
    }
    const adapterPath = join(outputDir, 'adapter')
    await writeAdapter(adapterPath, this.training.content ?? id)
    const final = { loss: 2 / totalSteps, tokenAccuracy: 1, targets: TARGETS }
    yield { type: 'finished', step: totalSteps, adapterPath, tokens: totalSteps * 50, seconds: 1, final }
  }
}

async function writeAdapter(folder: string, content: string): Promise<void> {
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'adapter_config.json'), JSON.stringify({ peft_type: 'LORA', r: 8 }))
  await writeFile(join(folder, 'adapter_model.safetensors'), content)
}
