import t from 'tap'
import { watchDevice } from '../../engine/device-watch.js'
import { EngineError } from '../../engine/errors.js'
import type { NativeMicroBatch, NativeTrainerOptions } from '../../engine/native.js'
import { GREEDY } from './drive.js'
import { ask, ids, isEmpty, until } from './engine-suite.js'
import { fakeEngine } from './fake-engine.js'
import { expectedTokens } from './fake-native.js'

const broken = () => Object.assign(new Error('broken'), { code: 'SHAPE_MISMATCH' })

t.test('a step that fails as a whole ends what runs, keeps what waits, and leaves nothing in the prefix cache', async (t) => {
  const { engine, model } = fakeEngine({ maxNumSeqs: 2, stepMs: 1 })
  t.teardown(() => engine.close())
  const running = [1, 2].map((i) => ask(engine, { prompt: { tokenIds: ids(20, i) }, maxTokens: 100 }))
  const waiting = ask(engine, { prompt: { tokenIds: ids(20, 1) } })
  const ends = Promise.allSettled(running)
  await until(async () => (await engine.stats()).generationTokens > 10 || undefined)
  model.nextError = broken()
  for (const end of await ends) t.match(end, { status: 'rejected', reason: { code: 'SHAPE_MISMATCH' } })
  const answer = await waiting
  t.equal(answer.started.cachedTokens, 0)
  t.same(answer.choices[0]!.tokenIds, expectedTokens(ids(20, 1), 12, { sampling: GREEDY }))
  t.ok(await isEmpty(engine))
})

t.test('a sequence that was preempted while its step failed does not wait for ever', async (t) => {
  for (let delay = 0; delay < 25; delay++) {
    const { engine, model } = fakeEngine({ nGlobalBlocks: 14, nSlidingBlocks: 30, maxModelLen: 50 })
    const answers = [0, 1, 2].map((i) => ask(engine, { prompt: { tokenIds: ids(8, i) }, maxTokens: 40 }))
    const ends = Promise.allSettled(answers)
    await until(async () => model.nSteps >= 5 + delay || undefined)
    model.nextError = broken()
    await ends
    t.ok(await isEmpty(engine))
    await engine.close()
  }
})

t.test('three failed steps in a row end the engine, a lost device at once', async (t) => {
  for (const [code, failures] of [['SHAPE_MISMATCH', 3], ['OUT_OF_MEMORY', 3], ['CUDA_ERROR', 3], ['DEVICE_LOST', 1]] as const) {
    const { engine, model } = fakeEngine()
    for (let i = 0; i < failures; i++) {
      t.equal(engine.state, 'ready', `${code}: ${i} failures`)
      model.nextError = Object.assign(new Error('broken'), { code })
      await t.rejects(ask(engine, {}), { code })
    }
    t.equal(engine.state, 'failed')
    t.type(engine.failure, EngineError)
    await t.rejects(ask(engine, {}), { code: 'ENGINE_UNAVAILABLE', message: /failed/ })
    await engine.close()
  }
})

t.test('a step that ran out of memory once takes nothing from the next', async (t) => {
  const { engine, model } = fakeEngine()
  t.teardown(() => engine.close())
  for (let i = 0; i < 5; i++) {
    model.nextError = Object.assign(new Error('out of memory'), { code: 'OUT_OF_MEMORY' })
    await t.rejects(ask(engine, {}), { code: 'OUT_OF_MEMORY' })
    t.equal((await ask(engine, {})).choices.length, 1)
  }
  t.equal(engine.state, 'ready')
})

t.test('a device lost while an adapter is loaded ends what runs, and is told before', async (t) => {
  const { engine, model } = fakeEngine({ stepMs: 1 })
  t.teardown(() => engine.close())
  const told: string[] = []
  engine.onDeviceLost = ({ code, message }) => told.push(`${code} ${message}`)
  const running = ask(engine, { maxTokens: 100 }).catch((error: unknown) => { told.push('request'); return error })
  await until(async () => (await engine.stats()).generationTokens > 2 || undefined)
  model.loadAdapter = async () => { throw Object.assign(new Error('illegal address'), { code: 'DEVICE_LOST' }) }
  await t.rejects(engine.loadAdapter({ slot: 0, version: 'v', path: 'p' }), { code: 'DEVICE_LOST' })
  t.match(await running, { code: 'DEVICE_LOST' })
  t.same(told, ['DEVICE_LOST illegal address', 'request'])
  t.equal(engine.state, 'failed')
})

t.test('a lost device is seen in a trainer\'s calls as well', async (t) => {
  const { engine, model } = fakeEngine()
  t.teardown(() => engine.close())
  const lost: string[] = []
  const watched = watchDevice(model, ({ code }) => lost.push(code))
  const trainer = await watched.createTrainer({} as NativeTrainerOptions)
  const failing = Object.assign(await model.createTrainer({} as NativeTrainerOptions), {
    evaluate: async () => { throw Object.assign(new Error('gone'), { code: 'DEVICE_LOST' }) },
  })
  model.createTrainer = async () => failing
  t.equal(typeof trainer.optimizerStep, 'function')
  await t.rejects((await watched.createTrainer({} as NativeTrainerOptions)).evaluate({} as NativeMicroBatch), { code: 'DEVICE_LOST' })
  t.same(lost, ['DEVICE_LOST'])
})

t.test('steps are counted by phase with the time they took, each once', async (t) => {
  const { engine } = fakeEngine({ maxBatchTokens: 16 })
  t.teardown(() => engine.close())
  await ask(engine, { prompt: { tokenIds: ids(40) }, maxTokens: 5 })
  const { stepSeconds, stepTokens } = await engine.stats()
  t.equal(stepSeconds.length, stepTokens.length)
  const prefill = stepSeconds.filter(([phase]) => phase === 'prefill').length
  t.equal(prefill, 3, '40 tokens in chunks of 16')
  t.ok(stepSeconds.slice(3).every(([phase, seconds]) => phase === 'decode' && seconds === 0.0001))
  t.same((await engine.stats()).stepSeconds, [])
})

t.test('a step of old and new rows is mixed', async (t) => {
  const { engine } = fakeEngine({ stepMs: 1 })
  t.teardown(() => engine.close())
  const first = ask(engine, { maxTokens: 60 })
  await until(async () => (await engine.stats()).generationTokens > 2 || undefined)
  await engine.stats()
  await Promise.all([first, ask(engine, { prompt: { tokenIds: ids(20, 5) }, maxTokens: 2 })])
  t.ok((await engine.stats()).stepSeconds.some(([phase]) => phase === 'mixed'))
})
