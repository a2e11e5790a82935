import t from 'tap'
import { EngineError } from '../../engine/errors.js'
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

t.test('three failed steps in a row, or one CUDA error, end the engine', async (t) => {
  for (const code of ['SHAPE_MISMATCH', 'CUDA_ERROR'] as const) {
    const { engine, model } = fakeEngine()
    for (let i = 0; i < 3 && engine.state === 'ready'; i++) {
      model.nextError = Object.assign(new Error('broken'), { code })
      await t.rejects(ask(engine, {}), { code })
    }
    t.equal(engine.state, 'failed')
    t.type(engine.failure, EngineError)
    await t.rejects(ask(engine, {}), { code: 'ENGINE_UNAVAILABLE', message: /failed/ })
    await engine.close()
  }
})
