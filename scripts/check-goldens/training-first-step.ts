// Loss, gradients and activations of one micro-batch before any update, as padded rows and as one packed row.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { NativeMicroBatch, NativeModel } from '../../engine/native.js'
import { formatPeftConfig } from '../../engine/peft-config.js'
import { largestDifference, type Report } from './report.js'
import { TensorFile } from './tensors.js'
import { nTargets, toMicroBatch } from './training-batches.js'
import { type GoldenTrainer, LINEARS, type Variant, openTrainer, startFrom } from './training-runs.js'

const LOSS_TOLERANCE = 1e-5
const GRADIENT_TOLERANCE = 5e-5      // of a tensor's largest entry
const ACTIVATION_TOLERANCE = 2e-5    // of the largest
const SAVED = { embed_tokens: 'base_model.model.model.embed_tokens.weight', lm_head: 'base_model.model.lm_head.weight' } as const

interface FirstStep {
  readonly embed_factor: number
  readonly head_factor: number
  readonly variants: Readonly<Record<string, Variant & { readonly loss: number }>>
}

/** One variant on one form of the micro-batch. */
interface Case {
  readonly variant: Variant & { readonly loss: number }
  readonly golden: TensorFile
  readonly batch: NativeMicroBatch
  readonly trainer: GoldenTrainer
}

export async function checkFirstStep(model: NativeModel, root: string, folder: string, report: Report): Promise<void> {
  const directory = join(root, 'step0')
  const file = new TensorFile(join(directory, 'batch.safetensors'))
  const adapter = new TensorFile(join(directory, 'adapter.safetensors'))
  const steps = JSON.parse(readFileSync(join(directory, 'steps.json'), 'utf8')) as FirstStep
  for (const [name, variant] of Object.entries(steps.variants)) {
    for (const form of ['padded', 'packed']) {
      report.section(`first step: ${name}, ${form}`)
      const rows = (key: string) => file.ints(`${form}.${key}`)
      const width = file.shape(`${form}.input_ids`)[1]!
      const batch = toMicroBatch({ width, inputIds: rows('input_ids'), labels: rows('labels'), documents: rows('documents') })
      const trainer = await openTrainer(model, variant)
      try {
        const one = { variant, golden: new TensorFile(join(directory, `${name}.safetensors`)), batch, trainer }
        await setValues(one, adapter, steps)
        const traced = await trainer.trace(batch, 1 / nTargets(batch))
        await checkGradients(one, report)
        if (name !== 'plain' || form !== 'packed') continue
        const activations = new TensorFile(join(directory, 'activations.safetensors'))
        checkActivations(traced, activations, report)
        await checkServed(model, one, activations.f32('logits_last_of_documents'), folder, report)
      } finally {
        await trainer.close()
      }
    }
  }
}

async function setValues({ variant, golden, trainer }: Case, adapter: TensorFile, steps: FirstStep): Promise<void> {
  await startFrom(trainer, adapter, variant)
  for (const key of golden.names) {
    if (key.startsWith('adapter.')) await trainer.setParameter(key.slice('adapter.'.length), golden.f32(key))
  }
  for (const module of variant.modules_to_save ?? []) {
    const factor = module === 'lm_head' ? steps.head_factor : steps.embed_factor
    await trainer.setParameter(SAVED[module], (await trainer.parameter(SAVED[module])).map((value) => value * factor))
  }
}

async function checkGradients({ variant, golden, batch, trainer }: Case, report: Report): Promise<void> {
  const loss = await trainer.evaluate(batch)
  report.difference('loss', Math.abs(loss.lossSum / loss.targets - variant.loss), LOSS_TOLERANCE)
  for (const key of golden.names) {
    if (!key.startsWith('grad.')) continue
    const expected = golden.f32(key)
    const gradient = await trainer.gradient(key.slice('grad.'.length))
    const name = key.replace('grad.base_model.model.model.', '').replace('.weight', '')
    report.difference(name, largestDifference(gradient, expected) / largest(expected), GRADIENT_TOLERANCE)
  }
  for (const module of variant.modules_to_save ?? []) checkMatrix(golden, module, await trainer.gradient(SAVED[module]), report)
}

/** A whole matrix's gradient, of which rows, row norms and column sums were recorded. The head's column sums are zero but for rounding. */
function checkMatrix(golden: TensorFile, module: string, gradient: Float32Array, report: Report): void {
  const rows = golden.ints(`${module}.rows`)
  const width = golden.shape(`${module}.grad_rows`)[1]!
  const picked = Float32Array.from([...rows].flatMap((row) => [...gradient.subarray(row * width, (row + 1) * width)]))
  const norms = Float32Array.from({ length: gradient.length / width }, (_, row) => Math.hypot(...gradient.subarray(row * width, (row + 1) * width)))
  const sums = new Float64Array(width)
  gradient.forEach((value, i) => { sums[i % width]! += value })
  for (const [key, ours] of [['grad_rows', picked], ['grad_row_norms', norms], ['grad_column_sums', sums]] as const) {
    const expected = golden.f32(`${module}.${key}`)
    report.difference(`${module} ${key}`, largestDifference(ours, expected) / largest(gradient), GRADIENT_TOLERANCE)
  }
}

function checkActivations(traced: Readonly<Record<string, Float32Array>>, golden: TensorFile, report: Report): void {
  for (const key of golden.names) {
    if (!key.includes('hidden')) continue
    const expected = golden.f32(key)
    report.difference(key, largestDifference(traced[key] ?? [], expected) / largest(expected), ACTIVATION_TOLERANCE)
  }
}

/** The adapter as it is saved, loaded beside the base and served. */
async function checkServed(model: NativeModel, { variant, batch, trainer }: Case, expected: Float32Array, folder: string, report: Report) {
  const config = { r: variant.rank, lora_alpha: variant.alpha, target_modules: LINEARS }
  writeFileSync(join(folder, 'adapter_config.json'), formatPeftConfig(config))
  await trainer.saveAdapter(join(folder, 'adapter_model.safetensors'))
  await model.loadAdapter(0, folder)
  const last: number[] = []
  for (let d = 0; d + 1 < batch.documentStarts.length; d++) {
    const ids = batch.tokenIds.slice(batch.documentStarts[d], batch.documentStarts[d + 1])
    last.push(...(await model.logits(ids, 0)).subarray(-model.info.vocabSize))
  }
  await model.unloadAdapter(0)
  report.difference('logits of the saved adapter, served', largestDifference(last, expected) / largest(expected), ACTIVATION_TOLERANCE)
}

const largest = (values: Float32Array) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
