// Kills a training run again and again at random moments, lets it go on each time, and compares what comes out with the same run left
// alone: the adapter's bytes and every step's loss. SIGKILL keeps the page cache: that flushes come in order is a unit test.

import { fork } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { createLocalEngine } from '../engine/create-engine.js'
import { resolveTrainConfig } from '../engine/train/config.js'
import type { TrainEvent } from '../engine/train/types.js'

const USAGE = `usage: npm run kill-train -- [--kills 20] [--steps 200] [--model PATH] [--compute auto|fp32|bf16]
  --kills    runs to kill
  --steps    optimiser steps of the run
  --model    base to train on (default: the embedded model)`

export interface KillTrainOptions {
  readonly kills: number
  readonly steps: number
  readonly model: string
  readonly compute: 'auto' | 'fp32' | 'bf16'
}

export interface KillTrainReport {
  readonly kills: number
  /** Kills that came while a checkpoint or the final folder was being written. */
  readonly midWrite: number
  /** Kills before the first step of that life. */
  readonly beforeStep: number
  /** Steps that had to be done again, over all lives. */
  readonly stepsAgain: number
  readonly expected: string
  readonly found: string
  readonly metricsEqual: boolean
  readonly seconds: number
}

const N_SAMPLES = 90
/** Longest life after its first step, ms, as a share of what the whole run takes. */
const LIFE_SHARE = 0.12
/** Checkpoints of a run. */
const N_SAVES = 28

/** Rows that are all different, so that a sample seen twice or not at all changes every loss after it. */
function dataSet(): string {
  return Array.from({ length: N_SAMPLES }, (_, i) => JSON.stringify({
    messages: [
      { role: 'user', content: `Which city is number ${i * 37 % 101}, and how many people live there?` },
      { role: 'assistant', content: `SELECT name, population FROM city WHERE id = ${i * 53 % 97}${i % 3 === 0 ? ' LIMIT 1' : ''};` },
    ],
  }) + '\n').join('')
}

/** The child: trains until it is done or killed, and tells its events. */
async function train(folder: string, data: string, { steps, model, compute }: KillTrainOptions): Promise<void> {
  const engine = await createLocalEngine({
    model, dataDir: join(folder, '..', 'cache'), device: 'cpu', compute, weights: 'nf4', head: 'auto', isa: 'auto', nThreads: 0,
    maxModelLen: 256, kvCacheBytes: 0, maxNumSeqs: 1, maxBatchTokens: 16, maxQueue: 1, maxLoras: 1, maxLoraRank: 16, prefixCache: false,
  })
  const config = resolveTrainConfig({
    preset: 'guide', loss_on: 'assistant', r: 8, max_length: 96, gradient_accumulation_steps: 2, max_steps: steps, logging_steps: 1,
    save_steps: Math.max(2, Math.floor(steps / N_SAVES)), validation_split: 0.1, eval_steps: 20, load_best_model_at_end: true,
    lr_scheduler_type: 'cosine',
  })
  for await (const event of engine.train({ id: 'kill', config, trainFiles: [data], outputDir: folder })) process.send!(event)
  await engine.close()
  process.disconnect()
}

interface Life {
  readonly firstStep: number
  readonly lastStep: number
  /** Until the first step was done. */
  readonly startMs: number
  readonly finished: boolean
}

export async function killTraining(options: KillTrainOptions, say: (line: string) => void = () => {}): Promise<KillTrainReport> {
  const root = mkdtempSync(join(tmpdir(), 'lorikeet-kill-train-'))
  const startedAt = performance.now()
  try {
    const data = join(root, 'data.jsonl')
    writeFileSync(data, dataSet())
    const [whole, broken] = [join(root, 'whole'), join(root, 'broken')]
    mkdirSync(broken)
    const cleanAt = performance.now()
    const alone = await live(whole, data, options)
    if (!alone.finished) throw new Error('the run that was left alone did not finish')
    const runMs = performance.now() - cleanAt
    say(`left alone: ${(runMs / 1000).toFixed(1)} s, adapter ${digest(whole).slice(0, 12)}`)
    const counts = { kills: 0, midWrite: 0, beforeStep: 0, stepsAgain: 0 }
    for (let reached = 0; counts.kills < options.kills;) {
      // A third of the kills fall into loading, data and resumption.
      const early = counts.kills % 3 === 2
      const life = await live(broken, data, options, Math.random() * (early ? alone.startMs : runMs * LIFE_SHARE), early)
      if (life.finished) break
      counts.kills++
      if (isMidWrite(broken)) counts.midWrite++
      if (life.lastStep === 0) counts.beforeStep++
      else counts.stepsAgain += Math.max(0, reached - life.firstStep + 1)
      reached = Math.max(reached, life.lastStep)
      say(`kill ${counts.kills}: ${life.lastStep === 0 ? 'before a step' : `steps ${life.firstStep} to ${life.lastStep}`}`)
    }
    const isDone = existsSync(join(broken, 'adapter')) || (await live(broken, data, options)).finished
    if (!isDone) throw new Error('the killed run does not finish')
    return {
      ...counts, expected: digest(whole), found: digest(broken), metricsEqual: metrics(whole) === metrics(broken),
      seconds: (performance.now() - startedAt) / 1000,
    }
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
}

/** One process: killed `lifeMs` after its start or after its first step, or left to its end. */
async function live(folder: string, data: string, options: KillTrainOptions, lifeMs?: number, early = false): Promise<Life> {
  const child = fork(fileURLToPath(import.meta.url), ['--trainer', folder, '--data', data, '--steps', String(options.steps),
    '--model', options.model, '--compute', options.compute], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
  const exited = new Promise((resolve) => child.once('exit', resolve))
  const steps: number[] = []
  const startedAt = performance.now()
  let startMs = 0
  let finished = false
  const stepped = new Promise<void>((resolve) => child.on('message', (message) => {
    const event = message as TrainEvent
    if (event.type === 'step' && steps.push(event.step) === 1) startMs = performance.now() - startedAt
    if (event.type === 'step' || event.type === 'finished') resolve()
    finished ||= event.type === 'finished'
  }))
  if (lifeMs !== undefined) {
    if (!early) await Promise.race([stepped, exited])
    await Promise.race([sleep(lifeMs), exited])
    child.kill('SIGKILL')
  }
  await exited
  return { firstStep: steps[0] ?? 0, lastStep: steps.at(-1) ?? 0, startMs, finished }
}

function isMidWrite(folder: string): boolean {
  return existsSync(folder) && readdirSync(folder).some((name) => name.endsWith('.partial'))
}

function digest(folder: string): string {
  return createHash('sha256').update(readFileSync(join(folder, 'adapter', 'adapter_model.safetensors'))).digest('hex')
}

/** Every line of metrics.jsonl less what the clock says. */
function metrics(folder: string): string {
  return readFileSync(join(folder, 'metrics.jsonl'), 'utf8').trim().split('\n').map((line) => {
    const { tokensPerSecond: _speed, remainingMs: _left, memoryBytes: _memory, ...rest } = JSON.parse(line) as Record<string, unknown>
    return JSON.stringify(rest)
  }).join('\n')
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      kills: { type: 'string', default: '20' }, steps: { type: 'string', default: '200' }, model: { type: 'string', default: '' },
      compute: { type: 'string', default: 'auto' }, help: { type: 'boolean' }, trainer: { type: 'string' },
      data: { type: 'string', default: '' },
    },
  })
  const options: KillTrainOptions = {
    kills: Number(values.kills), steps: Number(values.steps), model: values.model, compute: values.compute as KillTrainOptions['compute'],
  }
  if (values.help) return console.log(USAGE)
  if (values.trainer !== undefined) return train(values.trainer, values.data, options)
  const report = await killTraining(options, console.log)
  const { kills, midWrite, beforeStep, stepsAgain, expected, found, metricsEqual, seconds } = report
  console.log(`${kills} kills in ${seconds.toFixed(0)} s: ${beforeStep} before a step, ${midWrite} while files were written, ` +
    `${stepsAgain} steps done again`)
  console.log(`adapter ${found.slice(0, 16)}, left alone ${expected.slice(0, 16)}: ${found === expected ? 'equal' : 'DIFFERENT'}`)
  console.log(`losses of every step: ${metricsEqual ? 'equal' : 'DIFFERENT'}`)
  process.exitCode = found === expected && metricsEqual ? 0 : 1
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main()
