// A base with an adapter merged into its weights, for commands that write models. Opens no device and starts no engine.

import type { EngineOptions } from './api.js'
import { resolveModel } from './model-source.js'
import { native, toEngineError, type NativeMergedWeights } from './native.js'

export type { NativeLoraModule, NativeMergedWeights, NativeModelConfig } from './native.js'

export interface MergeRequest extends Pick<EngineOptions, 'model' | 'hfCacheDir'> {
  /** PEFT folder; absent = the base as it is. */
  readonly adapter?: string
  /** Whose values are merged: the source's own, or its NF4 form as the adapter was trained on it. */
  readonly base: '16bit' | 'nf4'
}

export interface MergedModel {
  /** Directory or .gguf file of the base. */
  readonly path: string
  readonly weights: NativeMergedWeights
}

/** The largest rank that any adapter has: this is no place to be strict. */
const MAX_RANK = 4_096

/** @throws EngineError MODEL_NOT_FOUND, MODEL_INVALID, FILE_INVALID, UNSUPPORTED, ADAPTER_* */
export function openMergedModel({ adapter = '', base, ...model }: MergeRequest): MergedModel {
  const { path } = resolveModel(model)
  try {
    return { path, weights: native().openMergedWeights({ path, adapter, base, maxRank: MAX_RANK }) }
  } catch (error) {
    throw toEngineError(error)
  }
}
