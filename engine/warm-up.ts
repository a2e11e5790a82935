// A step or two on a fresh device before it serves: touches every weight, and tells how long a full step takes here.

import { KvBlocks, kvShapeOf } from './kv-blocks.js'
import type { NativeModel } from './native.js'
import { resolveSampling } from './sampling.js'
import { Scheduler } from './scheduler.js'
import { Sequence } from './sequence.js'
import { buildStep } from './step-plan.js'

const WARM_UP_TOKENS = 64

/** Milliseconds that a step of `maxBatchTokens` takes, estimated from a small one. */
export async function warmUp(model: NativeModel, maxBatchTokens: number): Promise<number> {
  const { info } = model
  const nTokens = Math.max(1, Math.min(WARM_UP_TOKENS, maxBatchTokens, info.maxModelLen - 1, info.nGlobalBlocks * info.blockTokens))
  const kv = new KvBlocks(kvShapeOf(info))
  const scheduler = new Scheduler({ kv, maxNumSeqs: 1, maxBatchTokens, maxModelLen: info.maxModelLen })
  const [sampling] = resolveSampling(1, { temperature: 0, seed: 0 }, {}, { minTokens: 0, suppressedIds: [] })
  let shortestMs = Infinity
  // The first run also reads the weights from disk: the second tells more.
  for (let run = 0; run < 2; run++) {
    const sequence = new Sequence({
      requestId: 'warm-up', index: 0, promptIds: new Int32Array(nTokens), flow: '', adapterSlot: -1, sampling: sampling!, maxTokens: 1,
      stopIds: new Set(), logprobs: -1, promptLogprobs: -1, cacheSeed: null,
    })
    scheduler.add([sequence])
    const begin = performance.now()
    await model.step(buildStep(scheduler.plan()).native)
    shortestMs = Math.min(shortestMs, performance.now() - begin)
    scheduler.finish(sequence)
  }
  return shortestMs * Math.max(1, maxBatchTokens / nTokens)
}
