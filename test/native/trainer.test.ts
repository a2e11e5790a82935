// The trainer's promises that need no recorded numbers: what may not change a run's bytes, and what must.

import '../cpu-only.js'
import { join } from 'node:path'
import t from 'tap'
import { native } from '../../engine/native.js'
import { A, B, STEP, TURN_TOKENS, cut, folder, isEqual, microBatch, openModel, openTrainer, saved, train } from './trainer-harness.js'

t.setTimeout(180_000)

const EXTRAS = {
  'dropout': { dropout: 0.1 },
  'DoRA': { useDora: true },
  'trained tokens': { trainableTokenIds: TURN_TOKENS },
  'saved matrices': { modulesToSave: ['embed_tokens', 'lm_head'] },
  'three layers': { layers: Int32Array.of(4, 5, 9), targetModules: ['q_proj', 'down_proj'] },
} as const

for (const compute of ['fp32', 'bf16'] as const) {
  t.test(`activation checkpointing does not change a bit, in ${compute}`, async (t) => {
    const model = await openModel(t, { compute })
    for (const [name, extra] of Object.entries(EXTRAS)) {
      const runs = []
      for (const checkpointing of ['none', 'mlp', 'layer'] as const) {
        const trainer = await openTrainer(t, model, { ...extra, checkpointing })
        runs.push({ losses: await train(trainer, 1), adapter: await saved(t, trainer) })
        await trainer.close()
      }
      t.same(runs[1]!.losses, runs[0]!.losses, `${name}: losses, mlp`)
      t.same(runs[2]!.losses, runs[0]!.losses, `${name}: losses, layer`)
      t.ok(runs[1]!.adapter.equals(runs[0]!.adapter), `${name}: adapter, mlp`)
      t.ok(runs[2]!.adapter.equals(runs[0]!.adapter), `${name}: adapter, layer`)
    }
  })
}

for (const optimizer of ['adamw', 'adamw_8bit'] as const) {
  t.test(`a run goes on from its state to the same bytes, with ${optimizer}`, async (t) => {
    const model = await openModel(t)
    const options = { optimizer, dropout: 0.1, useDora: true, trainableTokenIds: TURN_TOKENS }
    const state = join(folder(t), 'state.safetensors')
    const whole = await openTrainer(t, model, options)
    await train(whole, 2)
    await whole.saveState(state)
    const losses = await train(whole, 2, 2)
    const adapter = await saved(t, whole)
    await whole.close()
    const resumed = await openTrainer(t, model, { ...options, seed: 7n })
    await resumed.loadState(state)
    t.same(await train(resumed, 2, 2), losses, 'losses and norms')
    t.ok((await saved(t, resumed)).equals(adapter), 'adapter')
  })
}

t.test('every instruction set computes the same step', async (t) => {
  const runs: Array<{ isa: string; lossSum: number; gradient: Float32Array }> = []
  for (const isa of native().systemInfo().isas) {
    const trainer = await openTrainer(t, await openModel(t, { isa }), { dropout: 0.1, useDora: true, layers: Int32Array.of(3, 11) })
    const { lossSum } = await trainer.accumulate(microBatch([33, 20]), 1 / 30)
    runs.push({ isa, lossSum, gradient: await trainer.gradient(B) })
  }
  for (const { isa, lossSum, gradient } of runs) {
    const largest = Math.max(...runs[0]!.gradient.map(Math.abs))
    const apart = Math.max(...gradient.map((value, i) => Math.abs(value - runs[0]!.gradient[i]!)))
    t.ok(Math.abs(lossSum - runs[0]!.lossSum) < 1e-5 * lossSum, `${isa}: loss ${lossSum}`)
    t.ok(largest > 0 && apart < 5e-5 * largest, `${isa}: gradients differ by ${apart} of ${largest}`)
  }
})

t.test('packed documents and the same alone give the same losses and gradients', async (t) => {
  const model = await openModel(t)
  const batch = microBatch([23, 1, 37, 19])
  const packed = await openTrainer(t, model)
  const together = await packed.accumulate(batch, 1 / 50)
  const gradient = await packed.gradient(B)
  await packed.close()
  const alone = await openTrainer(t, model)
  const sums = { lossSum: 0, targets: 0, correct: 0 }
  for (let document = 0; document < 4; document++) {
    const loss = await alone.accumulate(cut(batch, document, document + 1), 1 / 50)
    for (const key of ['lossSum', 'targets', 'correct'] as const) sums[key] += loss[key]
  }
  t.equal(sums.targets, together.targets)
  t.ok(Math.abs(sums.lossSum - together.lossSum) / sums.targets < 1e-5, `loss differs by ${sums.lossSum - together.lossSum}`)
  const largest = Math.max(...gradient.map(Math.abs))
  const apart = Math.max(...(await alone.gradient(B)).map((value, i) => Math.abs(value - gradient[i]!)))
  t.ok(largest > 0 && apart <= 1e-5 * largest, `gradients differ by ${apart} of ${largest}`)
})

t.test('dropout follows seed and token counter, and evaluation has none', async (t) => {
  const model = await openModel(t)
  const gradientOf = async (dropout: number, seed: bigint, counter: bigint) => {
    const trainer = await openTrainer(t, model, { dropout, seed })
    const [a, b] = [await trainer.parameter(A), await trainer.parameter(B)]
    await trainer.setParameter(A, a.map((_, i) => Math.cos(i) / 20))
    await trainer.setParameter(B, b.map((_, i) => Math.sin(i) / 20))
    const loss = await trainer.evaluate(microBatch([30, 20], 1, counter))
    await trainer.accumulate(microBatch([30, 20], 1, counter), 1)
    const gradient = await trainer.gradient(B)
    await trainer.close()
    return { gradient, loss: loss.lossSum }
  }
  const [first, again] = [await gradientOf(0.2, 1n, 5n), await gradientOf(0.2, 1n, 5n)]
  t.ok(isEqual(again.gradient, first.gradient), 'the same twice')
  t.notOk(isEqual((await gradientOf(0.2, 1n, 6n)).gradient, first.gradient), 'another counter')
  t.notOk(isEqual((await gradientOf(0.2, 2n, 5n)).gradient, first.gradient), 'another seed')
  const without = await gradientOf(0, 1n, 5n)
  t.notOk(isEqual(without.gradient, first.gradient), 'no dropout')
  t.equal(without.loss, first.loss, 'evaluation')
})

t.test('initial values follow the seed: A uniform within 1/sqrt(n_in), B zero', async (t) => {
  const model = await openModel(t)
  const values = async (seed: bigint) => {
    const trainer = await openTrainer(t, model, { seed, rank: 16 })
    const parts = { a: await trainer.parameter(A), b: await trainer.parameter(B) }
    await trainer.close()
    return parts
  }
  const { a, b } = await values(3n)
  const bound = 1 / Math.sqrt(model.info.hiddenSize)
  const mean = a.reduce((sum, value) => sum + value, 0) / a.length
  const variance = a.reduce((sum, value) => sum + (value - mean) ** 2, 0) / a.length
  t.ok(a.every((value) => Math.abs(value) <= bound), 'bounds')
  t.ok(Math.abs(mean) < bound / 20 && Math.abs(variance / (bound ** 2 / 3) - 1) < 0.05, `mean ${mean}, variance ${variance}`)
  t.ok(b.every((value) => value === 0))
  t.ok(isEqual((await values(3n)).a, a), 'the same seed')
  t.notOk(isEqual((await values(4n)).a, a), 'another seed')
})

t.test('the loss falls with both optimizers, and 8-bit moments take a quarter of the memory', async (t) => {
  const model = await openModel(t, { compute: 'bf16' })
  const ends = []
  for (const optimizer of ['adamw', 'adamw_8bit'] as const) {
    const trainer = await openTrainer(t, model, { optimizer, rank: 16 })
    const batch = microBatch([60, 50])
    const before = await trainer.evaluate(batch)
    for (let step = 0; step < 12; step++) {
      await trainer.accumulate(batch, 1 / before.targets)
      await trainer.optimizerStep(STEP)
    }
    const after = await trainer.evaluate(batch)
    t.ok(after.lossSum < 0.8 * before.lossSum, `${optimizer}: ${before.lossSum} -> ${after.lossSum}`)
    ends.push({ loss: after.lossSum / after.targets, bytes: trainer.bytes['optimizer']! })
    await trainer.close()
  }
  t.ok(Math.abs(ends[0]!.loss - ends[1]!.loss) < 0.1, `final losses ${ends[0]!.loss}, ${ends[1]!.loss}`)
  t.ok(ends[1]!.bytes < 0.3 * ends[0]!.bytes, `${ends[1]!.bytes} of ${ends[0]!.bytes} bytes`)
})

t.test('a saved adapter can be trained on', async (t) => {
  const model = await openModel(t)
  const options = { useDora: true, trainableTokenIds: TURN_TOKENS }
  const first = await openTrainer(t, model, options)
  await train(first, 1)
  const path = join(folder(t), 'adapter_model.safetensors')
  await first.saveAdapter(path)
  const loss = await first.evaluate(microBatch([40]))
  await first.close()
  const second = await openTrainer(t, model, { ...options, seed: 99n })
  await second.loadAdapter(path)
  t.same(await second.evaluate(microBatch([40])), loss)
  await second.close()
  const other = await openTrainer(t, model, { rank: 8 })
  await t.rejects(other.loadAdapter(path), { code: 'ADAPTER_INVALID' }, 'another shape')
  await t.rejects(other.loadAdapter(`${path}-none`), { code: 'MODEL_NOT_FOUND' })
})
