// `lorikeet train`: an adapter from conversations, alone or on a server that runs.

import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { AdapterStore } from '../../adapters/store.js'
import type { Engine, EngineOptions, Progress } from '../../engine/api.js'
import { startEngine } from '../../engine/client.js'
import { EngineError } from '../../engine/errors.js'
import type { TrainEvent, TrainRequest, TrainingEngine } from '../../engine/train/types.js'
import { ProgressBar } from '../progress-bar.js'
import { onceStopped } from '../shutdown.js'
import { TrainView } from '../train-view.js'
import { type TrainOptions, describeTrainFlags, trainOptions } from './train-options.js'
import { trainOnServer } from './train-server.js'
import { told } from './told.js'

const USAGE = `Usage: lorikeet train --data PATH --name NAME [--model PATH] [FLAGS]

Trains a LoRA adapter by QLoRA. Ctrl-C stops after the step at hand; the same command goes on from there, and from the last checkpoint
after a crash. The flags of an engine (--model, --device, --compute, ...) are those of "lorikeet serve".

`
/** An engine that ends again and again without a step between is given up. */
const MAX_RESTARTS_WITHOUT_STEP = 3
const RESTART_POLL_MS = 250
/** Exit code of a run that was stopped and can go on: as a shell's after Ctrl-C. */
const STOPPED = 130

export type StartTrainer = (options: EngineOptions, onProgress: (progress: Progress) => void) => Promise<Engine & TrainingEngine>

/** Resolves with the exit code. @throws UsageError */
export async function train(args: readonly string[], start: StartTrainer = startEngine): Promise<number> {
  if (args.includes('--help') || args.includes('-h')) {
    process.stdout.write(`${USAGE}${describeTrainFlags()}\n`)
    return 0
  }
  const options = trainOptions(args)
  const controller = new AbortController()
  onceStopped(() => controller.abort())
  if (options.server !== undefined) return trainOnServer({ ...options, server: options.server }, controller.signal)
  let wasStopped = false
  const code = await told(async () => { wasStopped = !(await trainHere(options, start, controller.signal)) })
  return wasStopped ? STOPPED : code
}

/** False when the signal stopped it. */
async function trainHere(options: TrainOptions, start: StartTrainer, signal: AbortSignal): Promise<boolean> {
  const bar = new ProgressBar()
  const engine = await start(engineOptions(options), (progress) => bar.update(progress))
  bar.finish()
  try {
    const finished = await runToEnd(engine, options, signal)
    if (finished === undefined) return false
    const { adapterPath } = finished
    process.stdout.write(options.publish ? await publish(engine, options, adapterPath) : `${options.name}: ${adapterPath}\n`)
    return true
  } finally {
    await engine.close()
  }
}

/** Goes on after the engine's process has died. Undefined when the signal stopped the run. */
async function runToEnd(engine: Engine & TrainingEngine, options: TrainOptions, signal: AbortSignal) {
  const { name, train: config, data, validationData, outputDir } = options
  const request: TrainRequest = {
    id: name, config, outputDir, trainFiles: data, ...(validationData.length > 0 && { validationFiles: validationData }),
  }
  const view = new TrainView()
  for (let nFailures = 0; ;) {
    try {
      let last: TrainEvent | undefined
      for await (const event of engine.train(request, signal)) {
        view.show(event)
        if (event.type === 'step') nFailures = 0
        last = event
      }
      return last?.type === 'finished' ? last : undefined
    } catch (error) {
      if (!(error instanceof EngineError) || error.code !== 'ENGINE_RESTARTED' || ++nFailures > MAX_RESTARTS_WITHOUT_STEP) throw error
      view.line(`${error.message}; going on from the last checkpoint`)
      while (engine.state === 'restarting' && !signal.aborted) await sleep(RESTART_POLL_MS)
    }
  }
}

/** As a guest: a server may be at work on the same directory. */
async function publish(engine: Engine, { name, config }: TrainOptions, path: string): Promise<string> {
  const { rank, nTensors, warnings } = await engine.validateAdapter(path)
  const store = await AdapterStore.open(join(config.dataDir, 'adapters'), { isOwner: false })
  const staging = await store.stage()
  try {
    await staging.copyFrom(path)
    const { version } = await store.publish(name, staging, { base: engine.info.hash, source: 'lorikeet train', rank, nTensors, warnings })
    const notes = warnings.map((warning) => `warning: ${warning}\n`).join('')
    return `${notes}${name}@${version.slice(0, 12)} will be served from the next start of a server on ${config.dataDir}; ` +
      `one that runs takes it by: lorikeet adapters add ${name} ${path}\n`
  } finally {
    await staging.dispose()
  }
}

/** An engine that serves nobody beside: the least of everything but what training uses. */
function engineOptions({ config: { engine }, train: { r } }: TrainOptions): EngineOptions {
  return {
    ...engine, maxNumSeqs: 1, maxBatchTokens: 64, maxQueue: 1, maxLoras: 1, maxLoraRank: Math.max(engine.maxLoraRank, r),
    prefixCache: false, maxModelLen: engine.maxModelLen === 0 ? 512 : engine.maxModelLen,
  }
}
