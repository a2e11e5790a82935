// Options of an engine over the embedded model.

import { existsSync } from 'node:fs'
import type { EngineOptions } from '../../engine/api.js'
import { device } from '../device.js'

export function embedded(fields: Partial<EngineOptions> = {}): EngineOptions {
  return {
    model: '', dataDir: '', device, compute: 'auto', weights: 'nf4', head: 'auto', isa: 'auto', nThreads: 0, maxModelLen: 0,
    kvCacheBytes: 0,
    maxNumSeqs: 32, maxBatchTokens: 256, maxQueue: 64, maxLoras: 1, maxLoraRank: 16, prefixCache: true, ...fields,
  }
}

/** The real 270M where `npm test` could fetch it. */
export const REAL_MODEL = 'build/models/gemma-3-270m-q4_k_m.gguf'
export const hasRealModel = existsSync(REAL_MODEL)
