// Requests beside training: the same bytes, and never more than one piece of training between two steps.

import '../cpu-only.js'
import t, { type Test } from 'tap'
import { createLocalEngine } from '../../engine/create-engine.js'
import type { LocalEngine } from '../../engine/engine.js'
import type { NativeTrainer } from '../../engine/native.js'
import { STEP, microBatch, trainerOptions } from './trainer-harness.js'

t.setTimeout(180_000)

const N_STREAMS = 8
const N_TOKENS = 48

async function openEngine(t: Test): Promise<LocalEngine> {
  const engine = await createLocalEngine({
    model: 'engine/embedded', dataDir: '', device: 'cpu', compute: 'bf16', weights: 'nf4', head: 'auto', isa: 'auto', nThreads: 2, maxModelLen: 512,
    kvCacheBytes: 2 ** 25, maxNumSeqs: N_STREAMS, maxBatchTokens: 64, maxQueue: 64, maxLoras: 2, maxLoraRank: 64, prefixCache: false,
  })
  t.teardown(() => engine.close())
  return engine
}

interface Stream {
  readonly ids: number[]
  readonly text: string
  readonly gapsMs: number[]
}

async function stream(engine: LocalEngine, index: number, maxTokens: number): Promise<Stream> {
  const tokenIds = [...microBatch([20 + 5 * index], index + 1).tokenIds]
  const sampling = { temperature: index % 2, seed: index, topK: 40 }
  const out: Stream = { ids: [], text: '', gapsMs: [] }
  let text = ''
  let last: number | undefined
  const request = { id: `stream-${index}`, prompt: { tokenIds }, maxTokens, ignoreEos: true, adapter: null, sampling, logprobs: 3 }
  for await (const event of engine.generate(request)) {
    if (event.type !== 'delta') continue
    const now = performance.now()
    if (last !== undefined) out.gapsMs.push(now - last)
    last = now
    out.ids.push(...event.tokenIds)
    text += event.text + JSON.stringify(event.logprobs)
  }
  return { ...out, text }
}

function streams(engine: LocalEngine, maxTokens = N_TOKENS): Promise<Stream[]> {
  return Promise.all(Array.from({ length: N_STREAMS }, (_, index) => stream(engine, index, maxTokens)))
}

/** Trains on documents of these lengths until told to stop; the losses of its micro-batches and their milliseconds. */
function trainUntil(trainer: NativeTrainer, lengths: readonly number[]) {
  let isStopping = false
  const losses: number[] = []
  const durationsMs: number[] = []
  const run = async () => {
    while (!isStopping) {
      const begin = performance.now()
      losses.push((await trainer.accumulate(microBatch(lengths, losses.length + 1), 1 / 80)).lossSum)
      durationsMs.push(performance.now() - begin)
      await trainer.optimizerStep(STEP)
    }
  }
  const ended = run()
  return { losses, durationsMs, stop: () => { isStopping = true; return ended } }
}

t.test('eight streams answer with the same bytes while training runs', async (t) => {
  const engine = await openEngine(t)
  const alone = await streams(engine)
  const trainer = await engine.model.createTrainer(trainerOptions({ trainShare: 0.5, dropout: 0.1, trainableTokenIds: Int32Array.of(105, 106) }))
  const training = trainUntil(trainer, [60, 68])
  const beside = await streams(engine)
  await training.stop()
  const { losses } = training
  t.same(beside.map(({ ids }) => ids), alone.map(({ ids }) => ids), 'ids')
  t.same(beside.map(({ text }) => text), alone.map(({ text }) => text), 'text and log-probabilities')
  t.ok(losses.length >= 1, `${losses.length} micro-batches meanwhile`)

  // The other way round: training does not see the requests either.
  await trainer.close()
  const quiet = await engine.model.createTrainer(trainerOptions({ trainShare: 1, dropout: 0.1, trainableTokenIds: Int32Array.of(105, 106) }))
  for (const [i, loss] of losses.entries()) {
    t.equal((await quiet.accumulate(microBatch([60, 68], i + 1), 1 / 80)).lossSum, loss, `loss ${i}`)
    await quiet.optimizerStep(STEP)
  }
  await quiet.close()
})

t.test('a step waits for a piece of training, not for a micro-batch', async (t) => {
  const engine = await openEngine(t)
  const trainer = await engine.model.createTrainer(trainerOptions({ trainShare: 0.5, maxTokens: 512 }))
  const training = trainUntil(trainer, [250, 250])
  await streams(engine)  // warm
  const gaps = (await streams(engine)).flatMap(({ gapsMs }) => gapsMs).sort((a, b) => a - b)
  await training.stop()
  await trainer.close()
  const p95 = gaps[Math.floor(gaps.length * 0.95)]!
  const microBatchMs = Math.max(...training.durationsMs)
  t.ok(p95 < microBatchMs / 5, `95 % of gaps within ${p95.toFixed(0)} ms, a micro-batch beside them took ${microBatchMs.toFixed(0)} ms`)
})

t.test('training gets about the share of the device that it was given', async (t) => {
  const engine = await openEngine(t)
  const rates: number[] = []
  for (const trainShare of [0.1, 0.8]) {
    const trainer = await engine.model.createTrainer(trainerOptions({ trainShare }))
    await streams(engine)
    const training = trainUntil(trainer, [20])
    const begin = performance.now()
    await streams(engine, 4 * N_TOKENS)
    rates.push(training.losses.length / (performance.now() - begin))
    await training.stop()
    await trainer.close()
  }
  t.ok(rates[1]! > 1.2 * rates[0]!, `${rates.map((rate) => (1000 * rate).toFixed(1)).join(' and ')} micro-batches a second at shares of 0.1 and 0.8`)
})
