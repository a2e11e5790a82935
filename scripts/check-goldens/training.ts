// Training against recorded numbers, in fp32: gradients of one micro-batch, whole runs, resume, TRL's own run, the layout of files.
// Tolerances are those of the directory's README.

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type NativeModel, native } from '../../engine/native.js'
import type { Report } from './report.js'
import { TensorFile } from './tensors.js'
import { readTrlRows, readWindows } from './training-batches.js'
import { checkFirstStep } from './training-first-step.js'
import { type GoldenTrainer, type Step, type Variant, openTrainer, relativeDifference, runSteps, startFrom } from './training-runs.js'

const RUN_TOLERANCE = 1e-3           // of the move from the start
const FIRST_STEP_TOLERANCE = 5e-3
const MOMENT_TOLERANCE = 1e-4

export async function checkTraining(root: string, report: Report): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'lorikeet-goldens-'))
  const model = await openBase(root, 'fp32')
  try {
    if (existsSync(join(root, 'step0'))) await checkFirstStep(model, root, folder, report)
    if (existsSync(join(root, 'clean'))) await checkRuns(model, root, folder, report)
    if (existsSync(join(root, 'resume'))) await checkResume(model, root, folder, report)
    if (existsSync(join(root, 'trl-eager'))) await checkTrl(model, root, folder, report)
  } finally {
    model.close()
    rmSync(folder, { recursive: true, force: true })
  }
  if (existsSync(join(root, 'clean', 'adamw'))) await checkHalf(root, report)
}

function openBase(root: string, compute: 'fp32' | 'bf16'): Promise<NativeModel> {
  return native().loadModel({
    path: join(root, 'base', 'nf4'), device: 'cpu', isa: 'auto', compute, weights: 'nf4', head: 'bf16', nThreads: 0, maxModelLen: 0,
    kvCacheBytes: 2 ** 24, maxBatchTokens: 64, maxNumSeqs: 4, maxLoras: 2, maxLoraRank: 64, cacheDir: '',
  }, () => {})
}

/** The mode that trains by default: its distance from the recorded fp32 run. */
async function checkHalf(root: string, report: Report): Promise<void> {
  report.section('run: adamw, bf16')
  const model = await openBase(root, 'bf16')
  const variant = (JSON.parse(readFileSync(join(root, 'clean', 'variants.json'), 'utf8')) as Record<string, Variant>)['adamw']!
  const trainer = await openTrainer(model, variant)
  try {
    await startFrom(trainer, new TensorFile(join(root, 'base', 'lora_a.safetensors')), variant)
    const begin = await trainer.snapshot()
    const steps = readLines<Step>(join(root, 'clean', 'adamw', 'trajectory.jsonl'))
    const run = await runSteps(trainer, readWindows(join(root, 'clean', 'batches', `${variant.batches!}.safetensors`)), steps, variant)
    report.difference('loss', run.loss, 0.06)
    report.difference('gradient norm, relative', run.norm, 0.04)
    const final = new TensorFile(join(root, 'clean', 'adamw', 'adapter_model.safetensors'))
    const ours = await trainer.snapshot()
    const move = relativeDifference(final.names.map((name) => [ours.get(name)!, final.f32(name), begin.get(name)!]))
    report.difference('final adapter, of its move', move, 0.1)
  } finally {
    await trainer.close()
    model.close()
  }
}

async function checkRuns(model: NativeModel, root: string, folder: string, report: Report): Promise<void> {
  const directory = join(root, 'clean')
  const variants = JSON.parse(readFileSync(join(directory, 'variants.json'), 'utf8')) as Record<string, Variant & { final_as?: string }>
  const start = new TensorFile(join(root, 'base', 'lora_a.safetensors'))
  for (const [name, variant] of Object.entries(variants)) {
    report.section(`run: ${name}`)
    const windows = readWindows(join(directory, 'batches', `${variant.batches!}.safetensors`))
    const steps = readLines<Step>(join(directory, name, 'trajectory.jsonl'))
    const trainer = await openTrainer(model, variant)
    try {
      await startFrom(trainer, start, variant)
      const begin = await trainer.snapshot()
      const snapshot = join(directory, name, 'step-1.safetensors')
      const done = existsSync(snapshot) ? 1 : 0
      const first = await runSteps(trainer, windows.slice(0, done), steps.slice(0, done), variant)
      if (done > 0) await checkAdapter(trainer, begin, snapshot, 'adapter after one step', FIRST_STEP_TOLERANCE, folder, report)
      first.add(await runSteps(trainer, windows.slice(done), steps.slice(done), variant))
      first.report(report)
      await checkAdapter(trainer, begin, join(directory, variant.final_as ?? name, 'adapter_model.safetensors'), 'final adapter', RUN_TOLERANCE,
        folder, report)
    } finally {
      await trainer.close()
    }
  }
}

/** The saved file has the recorded one's tensors; their distance as a share of the move from the start. */
async function checkAdapter(
  trainer: GoldenTrainer, begin: ReadonlyMap<string, Float32Array>, path: string, item: string, tolerance: number,
  folder: string, report: Report,
): Promise<void> {
  const saved = join(folder, 'saved.safetensors')
  await trainer.saveAdapter(saved)
  const [ours, expected] = [new TensorFile(saved), new TensorFile(path)]
  const form = (file: TensorFile) => file.names.map((name) => `${name} ${file.dtype(name)} ${file.shape(name).join()}`)
  const differing = form(ours).filter((text, i) => text !== form(expected)[i])
  report.equal(`${item}: names, shapes, dtypes`, differing.length + Math.abs(ours.names.length - expected.names.length), expected.names.length)
  report.difference(`${item}, of its move`, relativeDifference(expected.names.map((name) => [ours.f32(name), expected.f32(name), begin.get(name)!])),
    tolerance)
}

async function checkResume(model: NativeModel, root: string, folder: string, report: Report): Promise<void> {
  report.section('resume')
  const { variant: name, step } = JSON.parse(readFileSync(join(root, 'resume', 'resume.json'), 'utf8')) as { variant: string; step: number }
  const variants = JSON.parse(readFileSync(join(root, 'clean', 'variants.json'), 'utf8')) as Record<string, Variant>
  const variant = variants[name]!
  const windows = readWindows(join(root, 'clean', 'batches', `${variant.batches!}.safetensors`))
  const steps = readLines<Step>(join(root, 'clean', name, 'trajectory.jsonl'))
  const final = join(root, 'clean', name, 'adapter_model.safetensors')
  const state = join(folder, 'state.safetensors')
  const trainer = await openTrainer(model, variant)
  const golden = new TensorFile(join(root, 'resume', 'state.safetensors'))
  await startFrom(trainer, new TensorFile(join(root, 'base', 'lora_a.safetensors')), variant)
  const begin = await trainer.snapshot()
  await runSteps(trainer, windows.slice(0, step), steps.slice(0, step), variant)
  await trainer.saveState(state)
  const ours = new TensorFile(state)
  const all = (prefix: string) => golden.names.filter((key) => key.startsWith(`${prefix}.`))
  report.equal('names of the state', golden.names.filter((key) => !ours.has(key)).length + ours.names.length - golden.names.length, golden.names.length)
  const adapter = all('adapter').map((key) => [ours.f32(key), golden.f32(key), begin.get(key.slice('adapter.'.length))!] as const)
  report.difference('adapter after step 10, of its move', relativeDifference(adapter), RUN_TOLERANCE)
  for (const kind of ['exp_avg', 'exp_avg_sq']) {
    const pairs = all(kind).map((key) => [ours.f32(key), golden.f32(key), new Float32Array(golden.f32(key).length)] as const)
    report.difference(`${kind} after step 10, of itself`, relativeDifference(pairs), MOMENT_TOLERANCE)
  }
  await runSteps(trainer, windows.slice(step), steps.slice(step), variant)
  await trainer.saveAdapter(join(folder, 'whole.safetensors'))
  await trainer.close()

  writeFileSync(join(folder, 'golden.safetensors'), withStep(readFileSync(join(root, 'resume', 'state.safetensors')), step))
  for (const [title, path] of [['recorded state', join(folder, 'golden.safetensors')], ['own state', state]] as const) {
    const resumed = await openTrainer(model, variant)
    try {
      await resumed.loadState(path)
      const run = await runSteps(resumed, windows.slice(step), readLines<Step>(join(root, 'resume', 'trajectory.jsonl')), variant)
      run.report(report, `${title}: `)
      await checkAdapter(resumed, begin, final, `${title}: final adapter`, RUN_TOLERANCE, folder, report)
      if (path !== state) continue
      await resumed.saveAdapter(join(folder, 'resumed.safetensors'))
      const equal = readFileSync(join(folder, 'resumed.safetensors')).equals(readFileSync(join(folder, 'whole.safetensors')))
      report.equal('own state: final file and the uninterrupted run\'s', equal ? 0 : 1, 1)
    } finally {
      await resumed.close()
    }
  }
}

/** A recorded state names no step: ours does, in the metadata. */
function withStep(file: Buffer, step: number): Buffer {
  const length = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<string, unknown>
  header['__metadata__'] = { format: 'pt', step: String(step) }
  const text = JSON.stringify(header)
  const padded = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(padded.length))
  return Buffer.concat([size, padded, file.subarray(8 + length)])
}

interface TrlStep {
  readonly loss: number
  readonly num_items: number
  readonly grad_norm: number
  readonly lr: number
  readonly mean_token_accuracy: number
  readonly rows: readonly number[]
}

async function checkTrl(model: NativeModel, root: string, folder: string, report: Report): Promise<void> {
  report.section('run: trl-0.21-eager')
  const directory = join(root, 'trl-eager')
  const rows = readTrlRows(join(directory, 'rows.safetensors'))
  const variant: Variant = { rank: 4, alpha: 4, modules_to_save: ['lm_head', 'embed_tokens'] }
  const trainer = await openTrainer(model, variant)
  const worst = { loss: 0, norm: 0, accuracy: 0 }
  try {
    await startFrom(trainer, new TensorFile(join(root, 'base', 'lora_a.safetensors')), variant)
    const begin = await trainer.snapshot()
    for (const step of readLines<TrlStep>(join(directory, 'trajectory.jsonl'))) {
      const losses = []
      for (const row of step.rows) losses.push(await trainer.accumulate(rows[row]!, 1 / step.num_items))
      const { gradNorm } = await trainer.optimizerStep({ lr: step.lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, maxGradNorm: 0.3 })
      worst.loss = Math.max(worst.loss, Math.abs(losses.reduce((sum, { lossSum }) => sum + lossSum, 0) / step.num_items - step.loss))
      worst.norm = Math.max(worst.norm, Math.abs(gradNorm / step.grad_norm - 1))
      const accuracy = losses.reduce((sum, { correct, targets }) => sum + correct / targets, 0) / losses.length
      worst.accuracy = Math.max(worst.accuracy, Math.abs(accuracy - step.mean_token_accuracy))
    }
    report.difference('loss', worst.loss, 3e-5)
    report.difference('gradient norm, relative', worst.norm, 5e-5)
    report.difference('mean token accuracy', worst.accuracy, 0.01)
    await checkAdapter(trainer, begin, join(directory, 'adapter_model.safetensors'), 'final adapter', RUN_TOLERANCE, folder, report)
  } finally {
    await trainer.close()
  }
}

function readLines<T>(path: string): T[] {
  return readFileSync(path, 'utf8').split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as T)
}
