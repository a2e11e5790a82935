// Whole models: logits, residual stream and greedy continuations in fp32 arithmetic.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createLocalEngine } from '../../engine/create-engine.js'
import type { AdapterHandle, EngineOptions } from '../../engine/api.js'
import type { LocalEngine } from '../../engine/engine.js'
import { BF16_CLEAR_MARGIN, BF16_LOGITS } from '../same-answer.js'
import { type Report, largestDifference } from './report.js'
import { TensorFile } from './tensors.js'

/** What computes, and how close to fp32 it has to come. */
export interface Arithmetic {
  readonly device: string
  readonly compute: 'fp32' | 'bf16'
  readonly logits: number
  /** Where the two best logits are closer than this, either may win. */
  readonly clearMargin: number
  /** Of the residual stream, as a share of its largest value; absolute in fp32. */
  readonly hidden: number
}

/** Tolerances of ../shared/goldens/README.md, which has none of bf16's residual stream: twice what the CPU's bf16 mode is off (1.8 %). */
export function arithmeticOf(device: string, compute = device === 'cpu' ? 'fp32' : 'bf16'): Arithmetic {
  if (compute === 'fp32') return { device, compute, logits: 1e-4, clearMargin: 1e-3, hidden: 1e-4 }
  if (compute === 'bf16') return { device, compute, logits: BF16_LOGITS, clearMargin: BF16_CLEAR_MARGIN, hidden: 0.04 }
  throw new Error(`--compute ${compute}: expected fp32 or bf16`)
}

export function openModel({ device, compute }: Arithmetic, model: string, fields: Partial<EngineOptions> = {}): Promise<LocalEngine> {
  return createLocalEngine({
    model, dataDir: '', device, compute, weights: 'bf16', head: 'bf16', isa: 'auto', nThreads: 0, maxModelLen: 0,
    kvCacheBytes: 0,
    maxNumSeqs: 4, maxBatchTokens: 64, maxQueue: 64, maxLoras: 2, maxLoraRank: 64, prefixCache: true, ...fields,
  })
}

/** A directory with a checkpoint and expected.safetensors beside it. */
export async function checkModel(directory: string, name: string, weights: EngineOptions['weights'], arithmetic: Arithmetic,
  report: Report): Promise<void> {
  report.section(name)
  const file = new TensorFile(join(directory, 'expected.safetensors'))
  const engine = await openModel(arithmetic, directory, { weights })
  try {
    for (const prompt of promptsOf(file)) {
      const ids = file.i32(`${prompt}.input_ids`)
      const logits = await engine.model.logits(ids, -1)
      report.difference(`${prompt} logits`, largestDifference(logits, file.f32(`${prompt}.logits`)), arithmetic.logits)
      for (let layer = 0; file.has(`${prompt}.hidden.${layer}`); layer++) {
        const states = await engine.model.hidden(ids, layer, -1)
        const expected = file.f32(`${prompt}.hidden.${layer}`)
        const unit = arithmetic.compute === 'fp32' ? 1 : expected.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
        report.difference(`${prompt} residual stream into layer ${layer}`, largestDifference(states, expected) / unit, arithmetic.hidden)
      }
      await checkGreedy(engine, `${prompt} greedy`, ids, file, `${prompt}.greedy`, arithmetic.clearMargin, null, report)
    }
  } finally {
    await engine.close()
  }
}

/** Greedy ids must be the recorded ones up to the first step whose margin is not clear and where they part. */
export async function checkGreedy(
  engine: LocalEngine, item: string, ids: Int32Array, file: TensorFile, key: string, clearMargin: number, adapter: AdapterHandle | null,
  report: Report,
): Promise<void> {
  const expected = file.i32(`${key}.ids`)
  const margins = file.f32(`${key}.margin`)
  const ours = await greedy(engine, ids, expected.length, adapter)
  const parts = ours.findIndex((id, i) => id !== expected[i])
  if (parts < 0) return report.equal(item, 0, expected.length)
  const clear = margins[parts]! > clearMargin
  report.holds(item, !clear, `parts at step ${parts} of ${expected.length}, margin ${margins[parts]!.toExponential(1)}`)
}

export async function greedy(engine: LocalEngine, ids: Int32Array, maxTokens: number, adapter: AdapterHandle | null): Promise<number[]> {
  const tokenIds: number[] = []
  const sampling = { temperature: 0, repetitionPenalty: 1 }
  const request = { id: 'greedy', prompt: { tokenIds: [...ids] }, maxTokens, ignoreEos: true, adapter, sampling }
  for await (const event of engine.generate(request)) if (event.type === 'delta') tokenIds.push(...event.tokenIds)
  return tokenIds
}

export function promptsOf(file: TensorFile): string[] {
  const names = file.names.filter((name) => name.endsWith('.input_ids')).map((name) => name.slice(0, -'.input_ids'.length))
  return names.sort((a, b) => file.shape(`${a}.input_ids`)[0]! - file.shape(`${b}.input_ids`)[0]!)
}

export function isModel(directory: string): boolean {
  return existsSync(join(directory, 'config.json')) && existsSync(join(directory, 'expected.safetensors'))
}
