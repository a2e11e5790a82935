import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { startEngine } from '../../engine/index.js'
import { ask, collect, newId, until } from '../unit/engine-suite.js'
import { REAL_MODEL, embedded, hasRealModel } from './engine-options.js'

t.setTimeout(200_000)

const dataDir = mkdtempSync(join(tmpdir(), 'lorikeet-'))
const model = hasRealModel ? REAL_MODEL : ''
const prompt = { messages: [{ role: 'user' as const, content: 'Tell me a long story about databases.' }] }

for (const signal of ['SIGKILL', 'SIGSEGV'] as const) {
  t.test(`${signal} while 8 streams run: every one ends, the state shows it within 1 s, and it is ready again within 5 s`, async (t) => {
    const engine = await startEngine(embedded({ model, dataDir, maxModelLen: 2048 }))
    t.teardown(() => engine.close())
    const answer = await ask(engine, { prompt, maxTokens: 8 })
    const streams = Array.from({ length: 8 }, () => collect(engine.generate({ id: newId(), prompt, maxTokens: 1000, ignoreEos: true })))
    const ends = Promise.allSettled(streams)
    await until(async () => (await engine.stats()).running === 8 || undefined)
    const killedAt = performance.now()
    process.kill(engine.pid!, signal)
    for (const end of await ends) t.match(end, { status: 'rejected', reason: { code: 'ENGINE_RESTARTED' } })
    await until(async () => engine.state === 'restarting' || undefined, 1000)
    t.ok(performance.now() - killedAt < 1000)
    await until(async () => engine.state === 'ready' || undefined, 30_000)
    const readyAfterMs = performance.now() - killedAt
    t.ok(readyAfterMs < 5000, `ready again after ${Math.round(readyAfterMs)} ms`)
    t.same((await ask(engine, { prompt, maxTokens: 8 })).choices[0]!.tokenIds, answer.choices[0]!.tokenIds)
  })
}

t.test('an engine that is stopped for 10 s is ended and is ready again', async (t) => {
  const engine = await startEngine(embedded())
  t.teardown(() => engine.close())
  const stream = collect(engine.generate({ id: newId(), prompt, maxTokens: 1500, ignoreEos: true })).catch((error: unknown) => error)
  await until(async () => (await engine.stats()).running === 1 || undefined)
  const stoppedAt = performance.now()
  process.kill(engine.pid!, 'SIGSTOP')
  t.match(await stream, { code: 'ENGINE_RESTARTED', message: /no progress/ })
  const noticedAfterMs = performance.now() - stoppedAt
  t.ok(noticedAfterMs > 9000 && noticedAfterMs < 12_000, `noticed after ${Math.round(noticedAfterMs)} ms`)
  await until(async () => engine.state === 'ready' || undefined, 10_000)
  t.equal((await ask(engine, { prompt, maxTokens: 4 })).choices.length, 1)
})
