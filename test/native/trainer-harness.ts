// A trainer over the embedded model, and micro-batches of a fixed pseudo-random text.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import {
  type NativeMicroBatch, type NativeModel, type NativeModelOptions, type NativeTrainer, type NativeTrainerOptions, native,
} from '../../engine/native.js'

export const LINEARS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
export const A = 'base_model.model.model.layers.3.self_attn.v_proj.lora_A.weight'
export const B = 'base_model.model.model.layers.3.mlp.down_proj.lora_B.weight'
export const TURN_TOKENS = Int32Array.of(105, 106)
export const STEP = { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01, maxGradNorm: 1 }

export async function openModel(t: Test, options: Partial<NativeModelOptions> = {}): Promise<NativeModel> {
  const model = await native().loadModel({
    path: 'engine/embedded', device: 'cpu', isa: 'auto', compute: 'fp32', weights: 'nf4', head: 'auto', nThreads: 2, maxModelLen: 512,
    kvCacheBytes: 2 ** 25, maxBatchTokens: 64, maxNumSeqs: 8, maxLoras: 2, maxLoraRank: 64, cacheDir: '', ...options,
  }, () => {})
  t.teardown(() => model.close())
  return model
}

export async function openTrainer(t: Test, model: NativeModel, options: Partial<NativeTrainerOptions> = {}): Promise<NativeTrainer> {
  const trainer = await model.createTrainer(trainerOptions(options))
  t.teardown(() => trainer.close())
  return trainer
}

export function trainerOptions(options: Partial<NativeTrainerOptions> = {}): NativeTrainerOptions {
  return {
    rank: 4, alpha: 8, useRslora: false, useDora: false, dropout: 0, targetModules: LINEARS, layers: new Int32Array(),
    trainableTokenIds: new Int32Array(), modulesToSave: [], seed: 7n, checkpointing: 'layer', optimizer: 'adamw', maxTokens: 128, trainShare: 1,
    ...options,
  }
}

/** Documents of these lengths; every third token is not supervised. */
export function microBatch(lengths: readonly number[], seed = 1, tokenCounter = 0n): NativeMicroBatch {
  const starts = [0]
  for (const length of lengths) starts.push(starts.at(-1)! + length)
  const nTokens = starts.at(-1)!
  let state = seed
  const next = () => (state = (state * 1103515245 + 12345) % 2 ** 31) % 2000
  const tokenIds = Int32Array.from({ length: nTokens }, (_, i) => (starts.includes(i) ? 2 : i % 11 === 5 ? 106 : i % 11 === 6 ? 105 : next()))
  const isLast = (i: number) => starts.includes(i + 1)
  const targets = tokenIds.map((_, i) => (isLast(i) || i % 3 === 2 ? -1 : tokenIds[i + 1]!))
  return { tokenIds, documentStarts: Int32Array.from(starts), targets, tokenCounter }
}

/** Documents [begin, end) of a micro-batch alone. */
export function cut(batch: NativeMicroBatch, begin: number, end: number): NativeMicroBatch {
  const [from, to] = [batch.documentStarts[begin]!, batch.documentStarts[end]!]
  return {
    tokenIds: batch.tokenIds.slice(from, to), targets: batch.targets.slice(from, to), tokenCounter: batch.tokenCounter + BigInt(from),
    documentStarts: batch.documentStarts.slice(begin, end + 1).map((start) => start - from),
  }
}

export async function train(trainer: NativeTrainer, nSteps: number, firstStep = 0): Promise<number[]> {
  const losses: number[] = []
  for (let step = firstStep; step < firstStep + nSteps; step++) {
    for (const half of [0, 1]) {
      const batch = microBatch([17, 31, 1, 40], 2 * (step % 2) + half + 1, BigInt(178 * step + 89 * half))
      losses.push((await trainer.accumulate(batch, 1 / 100)).lossSum)
    }
    losses.push((await trainer.optimizerStep(STEP)).gradNorm)
  }
  return losses
}

export function folder(t: Test): string {
  const path = mkdtempSync(join(tmpdir(), 'lorikeet-trainer-'))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** The whole adapter file's bytes. */
export async function saved(t: Test, trainer: NativeTrainer): Promise<Buffer> {
  const path = join(folder(t), 'adapter_model.safetensors')
  await trainer.saveAdapter(path)
  return readFileSync(path)
}

/** Bit for bit, and at once where they differ: a deep comparison of long arrays takes many seconds to say so. */
export function isEqual(a: Float32Array, b: Float32Array): boolean {
  return Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength))
}
