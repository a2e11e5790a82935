// A trainer set up as a recorded variant, and its steps beside the recorded ones.

import type { NativeMicroBatch, NativeModel, NativeTrainer } from '../../engine/native.js'
import type { Report } from './report.js'
import type { TensorFile } from './tensors.js'
import { nTargets } from './training-batches.js'

export interface Variant {
  readonly rank: number
  readonly alpha: number
  readonly batches?: string
  readonly rslora?: boolean
  readonly dora?: boolean
  readonly trainable_tokens?: readonly number[]
  readonly modules_to_save?: ReadonlyArray<'embed_tokens' | 'lm_head'>
  readonly weight_decay?: number
  readonly max_grad_norm?: number
}

export interface Step {
  readonly step: number
  readonly loss: number
  readonly grad_norm: number
  readonly lr: number
  readonly targets: number
  readonly correct: number
  readonly micro_loss_sums: readonly number[]
}

export const LINEARS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']

export type GoldenTrainer = NativeTrainer & {
  /** Every parameter's values, by name. */
  snapshot(): Promise<ReadonlyMap<string, Float32Array>>
}

const PREFIX = 'base_model.model.model.'

export async function openTrainer(model: NativeModel, variant: Variant): Promise<GoldenTrainer> {
  const trainer = await model.createTrainer({
    rank: variant.rank, alpha: variant.alpha, useRslora: variant.rslora ?? false, useDora: variant.dora ?? false, dropout: 0,
    targetModules: LINEARS, layers: new Int32Array(), trainableTokenIds: Int32Array.from(variant.trainable_tokens ?? []),
    modulesToSave: variant.modules_to_save ?? [], seed: 0n, checkpointing: 'layer', optimizer: 'adamw', maxTokens: 512, trainShare: 1,
  })
  const snapshot = async () => {
    const values = new Map<string, Float32Array>()
    for (const name of parameterNames(model, variant)) values.set(name, await trainer.parameter(name))
    return values
  }
  return Object.assign(trainer, { snapshot })
}

function parameterNames(model: NativeModel, variant: Variant): string[] {
  const names: string[] = []
  for (let layer = 0; layer < model.info.nLayers; layer++) {
    for (const linear of LINEARS) {
      const module = `${PREFIX}layers.${layer}.${linear.length === 6 ? 'self_attn' : 'mlp'}.${linear}`
      names.push(`${module}.lora_A.weight`, `${module}.lora_B.weight`)
      if (variant.dora === true) names.push(`${module}.lora_magnitude_vector`)
    }
  }
  if (variant.trainable_tokens !== undefined) names.push(`${PREFIX}embed_tokens.token_adapter.trainable_tokens_delta`)
  for (const name of variant.modules_to_save ?? []) names.push(name === 'lm_head' ? 'base_model.model.lm_head.weight' : `${PREFIX}embed_tokens.weight`)
  return names
}

/** A (and B, where the file has it) from the first `rank` rows of a file. */
export async function startFrom(trainer: NativeTrainer, file: TensorFile, { rank }: Variant): Promise<void> {
  for (const name of file.names) {
    const values = file.f32(name)
    const [rows, cols] = file.shape(name) as [number, number]
    const isA = name.includes('.lora_A.')
    const cut = isA ? values.slice(0, rank * cols) : Float32Array.from({ length: rows * rank }, (_, i) => values[Math.floor(i / rank) * cols + i % rank]!)
    await trainer.setParameter(name, cut)
  }
}

/** Largest differences over the steps of a run. */
export class RunDifferences {
  loss = 0
  norm = 0
  correct = 0
  microLoss = 0
  targets = 0
  nSteps = 0

  add(other: RunDifferences): void {
    for (const key of ['loss', 'norm', 'correct', 'microLoss'] as const) this[key] = Math.max(this[key], other[key])
    this.targets += other.targets
    this.nSteps += other.nSteps
  }

  report(report: Report, prefix = ''): void {
    report.difference(`${prefix}loss, ${this.nSteps} steps`, this.loss, 3e-5)
    report.difference(`${prefix}loss sums of micro-batches`, this.microLoss, 3e-3)
    report.difference(`${prefix}gradient norm, relative`, this.norm, 5e-5)
    report.difference(`${prefix}greedy hits`, this.correct, 2)
    report.equal(`${prefix}targets`, this.targets, this.nSteps)
  }
}

export async function runSteps(
  trainer: NativeTrainer, windows: readonly NativeMicroBatch[][], steps: readonly Step[], variant: Variant,
): Promise<RunDifferences> {
  const worst = new RunDifferences()
  if (windows.length < steps.length) throw new Error(`${steps.length} steps recorded, batches for ${windows.length}`)
  for (const [i, expected] of steps.entries()) {
    const window = windows[i]!
    const targets = window.reduce((n, batch) => n + nTargets(batch), 0)
    let lossSum = 0
    let correct = 0
    for (const [j, batch] of window.entries()) {
      const loss = await trainer.accumulate(batch, 1 / targets)
      lossSum += loss.lossSum
      correct += loss.correct
      worst.microLoss = Math.max(worst.microLoss, Math.abs(loss.lossSum - expected.micro_loss_sums[j]!))
    }
    const { gradNorm } = await trainer.optimizerStep({
      lr: expected.lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: variant.weight_decay ?? 0, maxGradNorm: variant.max_grad_norm ?? 0.3,
    })
    worst.loss = Math.max(worst.loss, Math.abs(lossSum / targets - expected.loss))
    worst.norm = Math.max(worst.norm, Math.abs(gradNorm / expected.grad_norm - 1))
    worst.correct = Math.max(worst.correct, Math.abs(correct - expected.correct))
    worst.targets += targets === expected.targets ? 0 : 1
    worst.nSteps++
  }
  return worst
}

/** ||ours - expected|| / ||expected - begin|| over all tensors. */
export function relativeDifference(tensors: ReadonlyArray<readonly [Float32Array, Float32Array, Float32Array]>): number {
  let difference = 0
  let move = 0
  for (const [ours, expected, begin] of tensors) {
    expected.forEach((value, i) => {
      difference += (ours[i]! - value) ** 2
      move += (value - begin[i]!) ** 2
    })
  }
  return Math.sqrt(difference / move)
}
