// What a trainer refuses, and how its work ends early: by a name, with its memory free and the model going on.

import '../cpu-only.js'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { NativeMicroBatch, NativeTrainerOptions } from '../../engine/native.js'
import { A, STEP, TURN_TOKENS, folder, microBatch, openModel, openTrainer, trainerOptions } from './trainer-harness.js'

t.setTimeout(120_000)

const MALFORMED: Readonly<Record<string, Partial<NativeMicroBatch>>> = {
  'no token': { tokenIds: new Int32Array(), documentStarts: Int32Array.of(0, 0), targets: new Int32Array() },
  'an id below 0': { tokenIds: Int32Array.of(2, -1, 4, 5) },
  'an id beyond the vocabulary': { tokenIds: Int32Array.of(2, 2 ** 30, 4, 5) },
  'no documents': { documentStarts: new Int32Array() },
  'one start': { documentStarts: Int32Array.of(0) },
  'a first start after 0': { documentStarts: Int32Array.of(1, 4) },
  'a last start before the end': { documentStarts: Int32Array.of(0, 3) },
  'a last start past the end': { documentStarts: Int32Array.of(0, 5) },
  'equal starts': { documentStarts: Int32Array.of(0, 2, 2, 4) },
  'falling starts': { documentStarts: Int32Array.of(0, 3, 1, 4) },
  'too few targets': { targets: Int32Array.of(3, 4, 5) },
  'too many targets': { targets: Int32Array.of(3, 4, 5, -1, -1) },
  'a target below -1': { targets: Int32Array.of(3, -100, 5, -1) },
  'a target beyond the vocabulary': { targets: Int32Array.of(3, 2 ** 30, 5, -1) },
  'more tokens than maxTokens': microBatch([129]),
}
const GOOD: NativeMicroBatch = {
  tokenIds: Int32Array.of(2, 3, 4, 5), documentStarts: Int32Array.of(0, 4), targets: Int32Array.of(3, 4, 5, -1), tokenCounter: 0n,
}

t.test('a malformed micro-batch is refused by name and changes nothing', async (t) => {
  const trainer = await openTrainer(t, await openModel(t))
  const loss = await trainer.evaluate(GOOD)
  for (const [name, fields] of Object.entries(MALFORMED)) {
    for (const run of [trainer.accumulate({ ...GOOD, ...fields }, 1), trainer.evaluate({ ...GOOD, ...fields })]) {
      await t.rejects(run, { code: 'INVALID_REQUEST', message: /tokenIds|documentStarts|targets/ }, name)
    }
  }
  for (const scale of [NaN, Infinity]) await t.rejects(trainer.accumulate(GOOD, scale), { code: 'INVALID_REQUEST' }, `scale ${scale}`)
  t.same(await trainer.evaluate(GOOD), loss)
  t.equal((await trainer.optimizerStep(STEP)).gradNorm, 0, 'no gradient was added')
})

t.test('values of a wrong type are refused before anything runs', async (t) => {
  const trainer = await openTrainer(t, await openModel(t))
  const wrong = (batch: unknown, scale: unknown) => () => trainer.accumulate(batch as NativeMicroBatch, scale as number)
  t.throws(wrong({ ...GOOD, tokenIds: [1, 2] }, 1), { code: 'INVALID_REQUEST' })
  t.throws(wrong({ ...GOOD, tokenCounter: 1 }, 1), { code: 'INVALID_REQUEST' })
  t.throws(wrong({ ...GOOD, tokenCounter: -1n }, 1), { code: 'INVALID_REQUEST' })
  t.throws(wrong(undefined, 1), { code: 'INVALID_REQUEST' })
  t.throws(wrong(GOOD, '1'), { code: 'INVALID_REQUEST' })
  t.throws(() => trainer.setParameter(A, undefined as never), { code: 'INVALID_REQUEST' })
})

t.test('a micro-batch without targets adds nothing', async (t) => {
  const trainer = await openTrainer(t, await openModel(t))
  const loss = await trainer.accumulate({ ...GOOD, targets: Int32Array.of(-1, -1, -1, -1) }, 1)
  t.same(loss, { lossSum: 0, targets: 0, correct: 0 })
  t.equal((await trainer.optimizerStep(STEP)).gradNorm, 0)
})

const OPTIONS: Readonly<Record<string, Partial<NativeTrainerOptions>>> = {
  'rank 0': { rank: 0 },
  'alpha NaN': { alpha: NaN },
  'alpha 0': { alpha: 0 },
  'dropout 1': { dropout: 1 },
  'an unknown module': { targetModules: ['q_proj', 'w_proj'] },
  'nothing to train': { targetModules: [] },
  'a layer that is not there': { layers: Int32Array.of(0, 12) },
  'a layer twice': { layers: Int32Array.of(1, 1) },
  'a token that is not there': { trainableTokenIds: Int32Array.of(2 ** 30) },
  'a token twice': { trainableTokenIds: Int32Array.of(5, 5) },
  'tokens and matrices': { trainableTokenIds: TURN_TOKENS, modulesToSave: ['embed_tokens'] },
  'an unknown matrix': { modulesToSave: ['norm'] },
  'an unknown policy': { checkpointing: 'some' as 'none' },
  'an unknown optimizer': { optimizer: 'sgd' as 'adamw' },
  'no tokens': { maxTokens: 0 },
  'more tokens than positions': { maxTokens: 2 ** 20 },
  'no share': { trainShare: 0 },
  'a share over 1': { trainShare: 1.5 },
}

t.test('options that make no sense are refused by name', async (t) => {
  const model = await openModel(t)
  for (const [name, options] of Object.entries(OPTIONS)) {
    await t.rejects((async () => model.createTrainer(trainerOptions(options)))(), { code: 'INVALID_REQUEST' }, name)
  }
  await openTrainer(t, model)
})

t.test('an optimizer step with absurd values is refused and moves nothing', async (t) => {
  const trainer = await openTrainer(t, await openModel(t))
  const before = await trainer.parameter(A)
  await trainer.accumulate(microBatch([20]), 1)
  for (const field of ['lr', 'beta1', 'beta2', 'eps', 'weightDecay', 'maxGradNorm']) {
    for (const value of [NaN, -1]) await t.rejects(trainer.optimizerStep({ ...STEP, [field]: value }), { code: 'INVALID_REQUEST' }, `${field} ${value}`)
  }
  t.same(await trainer.parameter(A), before)
})

t.test('a loss that is not finite is named, and the run can go on from a sound state', async (t) => {
  const trainer = await openTrainer(t, await openModel(t))
  const sound = await trainer.parameter(A)
  await trainer.setParameter(A, sound.map(() => NaN))
  await t.rejects(trainer.accumulate(GOOD, 1), { code: 'TRAINING_DIVERGED' })
  await t.rejects(trainer.evaluate(GOOD), { code: 'TRAINING_DIVERGED' })
  await trainer.setParameter(A, sound)
  t.ok((await trainer.accumulate(GOOD, 1)).lossSum > 0)
  t.ok((await trainer.optimizerStep(STEP)).gradNorm > 0)
})

t.test('one trainer at a time', async (t) => {
  const model = await openModel(t)
  const first = await openTrainer(t, model)
  await t.rejects((async () => model.createTrainer(trainerOptions()))(), { code: 'TRAINING_BUSY' })
  await first.close()
  await openTrainer(t, model)
})

t.test('closing ends the work that runs, rejects what waits, and frees the memory', async (t) => {
  const model = await openModel(t)
  const before = residentBytes()
  for (let round = 0; round < 3; round++) {
    const trainer = await model.createTrainer(trainerOptions({ maxTokens: 512, checkpointing: 'none', rank: 64 }))
    await trainer.accumulate(microBatch([200, 200]), 1)
    const work = [1, 2, 3].map(() => trainer.accumulate(microBatch([200, 200]), 1).then(() => 'done', (error: { code: string }) => error.code))
    await trainer.close()
    t.same(await Promise.all(work), ['ABORTED', 'ABORTED', 'ABORTED'])
    await t.rejects(trainer.evaluate(GOOD), { code: 'ABORTED' })
    await trainer.close()
  }
  const grown = residentBytes() - before
  t.ok(grown < 150e6, `${Math.round(grown / 1e6)} MB more after three trainers`)
})

t.test('closing the model ends its trainer', async (t) => {
  const model = await openModel(t)
  const trainer = await model.createTrainer(trainerOptions({ maxTokens: 512 }))
  const work = trainer.accumulate(microBatch([200, 200]), 1)
  const waiting = trainer.evaluate(GOOD)
  const ended = Promise.all([t.rejects(work, { code: 'ABORTED' }), t.rejects(waiting, { code: 'ABORTED' })])
  model.close()
  await ended
  await t.rejects(trainer.evaluate(GOOD), { code: 'ABORTED' })
})

t.test('files that are not a state of this trainer are refused', async (t) => {
  const model = await openModel(t)
  const path = join(folder(t), 'state.safetensors')
  const trainer = await openTrainer(t, model, { rank: 16 })
  await t.rejects(trainer.loadState(path), { code: 'MODEL_NOT_FOUND' })
  writeFileSync(path, 'not a state')
  await t.rejects(trainer.loadState(path), { code: 'FILE_INVALID' })
  await trainer.saveAdapter(path)
  await t.rejects(trainer.loadState(path), { code: 'FILE_INVALID' }, 'an adapter')
  await trainer.saveState(path)
  await t.rejects(trainer.loadAdapter(path), { code: 'ADAPTER_INVALID' }, 'a state as an adapter')
  await t.rejects(trainer.saveState(join(path, 'below', 'a-file')), { code: 'FILE_INVALID' })
  await trainer.close()
  for (const [name, options] of [
    ['rank', { rank: 8 }], ['optimizer', { rank: 16, optimizer: 'adamw_8bit' }], ['DoRA', { rank: 16, useDora: true }],
  ] as const) {
    const other = await openTrainer(t, model, options)
    await t.rejects(other.loadState(path), { code: 'FILE_INVALID' }, name)
    await other.close()
  }
})

t.test('tensors are asked for by their names', async (t: Test) => {
  const trainer = await openTrainer(t, await openModel(t))
  await t.rejects(trainer.parameter('lora'), { code: 'INVALID_REQUEST' })
  await t.rejects(trainer.gradient('lora'), { code: 'INVALID_REQUEST' })
  await t.rejects(trainer.setParameter(A, new Float32Array(3)), { code: 'INVALID_REQUEST' })
})

function residentBytes(): number {
  globalThis.gc?.()
  return process.memoryUsage().rss
}
