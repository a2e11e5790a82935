// What the engine tells of its device: the CPU, and a GPU where there is one.

import t, { type Test } from 'tap'
import type { EngineOptions, GenerateRequest } from '../../engine/api.js'
import { createLocalEngine } from '../../engine/create-engine.js'
import { native } from '../../engine/native.js'
import { ask, ids } from '../unit/engine-suite.js'

const hasGpu = native().systemInfo().cuda.devices.length > 0
const noGpu = hasGpu ? false : 'no GPU here'

function open(t: Test, options: Partial<EngineOptions> = {}) {
  return createLocalEngine({
    model: 'random:gemma-3-270m', dataDir: '', device: 'cpu', compute: 'auto', weights: 'nf4', head: 'auto', isa: 'auto', nThreads: 2,
    maxModelLen: 1024, kvCacheBytes: 2 ** 26, maxNumSeqs: 4, maxBatchTokens: 128, maxQueue: 8, maxLoras: 2, maxLoraRank: 16,
    prefixCache: false, ...options,
  }).then((engine) => {
    t.teardown(() => engine.close())
    return engine
  })
}

const sum = (seconds: Readonly<Record<string, number>>) => Object.values(seconds).reduce((a, b) => a + b, 0)

const request: Partial<GenerateRequest> = { prompt: { tokenIds: ids(100) }, maxTokens: 40, ignoreEos: true, sampling: { temperature: 0 } }

t.test('on the CPU every step is timed by part, and memory is told by purpose', async (t) => {
  const engine = await open(t)
  const before = (await engine.stats()).device.stepTimes
  await ask(engine, request)
  const { device, memory, stepSeconds } = await engine.stats()
  t.equal(device.stepTimes.decode.steps - before.decode.steps, 39)
  t.equal(device.stepTimes.prefill.steps - before.prefill.steps, 1)
  const { upload, layers, head, sample } = device.stepTimes.decode.seconds
  t.ok(layers > 0 && head > 0 && sample > 0 && layers > upload, JSON.stringify(device.stepTimes.decode))
  const whole = stepSeconds.reduce((all, [, seconds]) => all + seconds, 0)
  const parts = sum(device.stepTimes.prefill.seconds) + sum(device.stepTimes.decode.seconds) - sum(before.prefill.seconds)
  t.ok(parts <= whole + 1e-6, 'the parts are no longer than the steps')
  t.same([device.totalBytes, device.freeBytes, device.graphs], [0, 0, { hit: 0, capture: 0, plain: 0 }])
  for (const purpose of ['weights', 'embedding', 'head', 'kv_global', 'kv_sliding', 'workspace']) t.ok(memory[purpose]! > 0, purpose)
  t.ok(memory['kv_global']! + memory['kv_sliding']! <= 2 ** 26)
  t.same([memory['adapters'], memory['dequantised']], [0, 0])
})

t.test('a share of GPU memory says nothing on the CPU, and ranges are refused there', async (t) => {
  const [plain, shared] = [await open(t, { kvCacheBytes: 0 }), await open(t, { kvCacheBytes: 0, gpuMemoryUtilization: 0.9 })]
  t.equal(shared.info.nGlobalBlocks, plain.info.nGlobalBlocks)
  await t.rejects(open(t, { nvtx: true }), { code: 'UNSUPPORTED', message: /--nvtx needs --device cuda/ })
  await t.rejects(open(t, { gpuMemoryUtilization: 1.5 }), { code: 'INVALID_REQUEST', message: /gpuMemoryUtilization/ })
})

t.test('on a GPU graphs, memory and the parts of steps are told', { skip: noGpu }, async (t) => {
  const engine = await open(t, { device: 'cuda', kvCacheBytes: 0, gpuMemoryUtilization: 0.5, maxNumSeqs: 64 })
  await ask(engine, { ...request, maxTokens: 200 })
  const { device, memory } = await engine.stats()
  t.comment(JSON.stringify({ device, memory }))
  t.ok(device.totalBytes > 2 ** 32 && device.freeBytes > 0 && device.freeBytes < device.totalBytes)
  t.equal(device.graphs.hit + device.graphs.capture + device.graphs.plain, 199)
  t.ok(device.graphs.hit > 190 && device.graphs.capture >= 1 && device.graphs.plain >= 1)
  const { steps, seconds } = device.stepTimes.decode
  t.ok(steps >= 10 && steps <= 14, `${steps} of 199 decode steps are timed`)
  for (const part of ['upload', 'layers', 'head', 'sample'] as const) t.ok(seconds[part] > 0 && seconds[part] / steps < 0.05, part)
  t.ok(sum(memory) <= device.totalBytes / 2, 'the share is not exceeded')
  t.ok(memory['kv_global']! > 2 ** 26)
})

t.test('a model that does not fit the share of a GPU is refused by purpose', { skip: noGpu }, async (t) => {
  await t.rejects(open(t, { device: 'cuda', kvCacheBytes: 0, gpuMemoryUtilization: 0.005 }), {
    code: 'OUT_OF_MEMORY', message: /MiB needed, \d+ MiB available \(0\.005 of .*weights \d+ MiB, .*--gpu-memory-utilization/,
  })
})
