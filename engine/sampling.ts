// Sampling parameters of a request with every absent field filled in: request, then the model's generation_config, then neutral.

import { randomBytes } from 'node:crypto'
import type { SamplingParams } from './api.js'
import type { NativeSampling } from './native.js'

export interface SamplingExtras {
  readonly minTokens: number
  /** Ids that cannot be drawn before minTokens are out. */
  readonly suppressedIds: readonly number[]
}

/** One NativeSampling a choice; choice i draws from seed + i. */
export function resolveSampling(n: number, asked: SamplingParams, defaults: SamplingParams, extras: SamplingExtras): NativeSampling[] {
  const field = <K extends keyof SamplingParams>(name: K, neutral: NonNullable<SamplingParams[K]>) =>
    asked[name] ?? defaults[name] ?? neutral
  const bias = field('logitBias', [])
  const common = {
    temperature: field('temperature', 1),
    topK: Math.max(0, field('topK', 0)),
    topP: field('topP', 1),
    minP: field('minP', 0),
    repetitionPenalty: field('repetitionPenalty', 1),
    presencePenalty: field('presencePenalty', 0),
    frequencyPenalty: field('frequencyPenalty', 0),
    biasIds: Int32Array.from(bias, ([tokenId]) => tokenId),
    biasValues: Float32Array.from(bias, ([, value]) => value),
    minTokens: extras.minTokens,
    suppressedIds: Int32Array.from(extras.minTokens > 0 ? extras.suppressedIds : []),
  }
  const seed = asked.seed === undefined ? randomBytes(8).readBigUInt64LE() : BigInt(asked.seed)
  return Array.from({ length: n }, (_, i) => ({ ...common, seed: BigInt.asUintN(64, seed + BigInt(i)) }))
}
