import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import type { GenerateRequest } from '../../engine/api.js'
import type { RemoteEngine } from '../../engine/client.js'
import { GREEDY } from './drive.js'
import { ask, collect, ids, newId, until } from './engine-suite.js'
import { FAIL_TOKEN, HANG_TOKEN, SPIN_TOKEN, expectedTokens } from './fake-native.js'
import { startFake } from './remote-engine.js'

const FAST = { backoffMs: 20, maxBackoffMs: 100 }
// Long enough that a busy machine does not pass for a hang.
const WATCHED = { ...FAST, watchdogMs: 2000 }
const WORKING = expectedTokens(ids(10), 12, { sampling: GREEDY })

t.setTimeout(100_000)

const request = (fields: Partial<GenerateRequest> = {}): GenerateRequest => ({
  id: newId(), prompt: { tokenIds: ids(10) }, maxTokens: 150, ignoreEos: true, sampling: { temperature: 0 }, ...fields,
})

async function works(t: Test, engine: RemoteEngine): Promise<void> {
  t.same((await ask(engine, {})).choices[0]!.tokenIds, WORKING)
}

const isAlive = (pid: number) => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

for (const signal of ['SIGKILL', 'SIGSEGV', 'SIGABRT'] as const) {
  t.test(`${signal} while 8 streams run: each ends with ENGINE_RESTARTED, the state shows it at once, and the engine is back`,
    async (t) => {
    const engine = await startFake({ stepMs: 2 }, FAST)
    t.teardown(() => engine.close())
    const streams = Array.from({ length: 8 }, () => collect(engine.generate(request())))
    const ends = Promise.allSettled(streams)
    await until(async () => (await engine.stats()).running === 8 || undefined)
    const pending = engine.tokenize({ text: 'x' }).catch((error: unknown) => error)
    process.kill(engine.pid!, signal)
    for (const end of await ends) t.match(end, { status: 'rejected', reason: { code: 'ENGINE_RESTARTED', message: new RegExp(signal) } })
    t.equal(engine.state, 'restarting')
    await t.rejects(ask(engine, {}), { code: 'ENGINE_UNAVAILABLE', retryAfterMs: Number })
    await pending
    await until(async () => engine.state === 'ready' || undefined)
    t.equal(engine.restarts, 1)
    await works(t, engine)
  })
}

for (const [name, harm] of [['stopped', null], ['in an endless loop', SPIN_TOKEN],
  ['waiting for a device that hangs', HANG_TOKEN]] as const) {
  t.test(`a process ${name} is ended by the watchdog, and the engine is back`, async (t) => {
    const engine = await startFake({ stepMs: 2 }, WATCHED)
    t.teardown(() => engine.close())
    const running = collect(engine.generate(request())).catch((error: unknown) => error)
    await until(async () => (await engine.stats()).running > 0 || undefined)
    const begin = performance.now()
    const pid = engine.pid!
    if (harm === null) process.kill(pid, 'SIGSTOP')
    else void collect(engine.generate(request({ prompt: { tokenIds: [harm] } }))).catch(() => {})
    t.match(await running, { code: 'ENGINE_RESTARTED', message: /no progress/ })
    t.ok(performance.now() - begin < WATCHED.watchdogMs + 5000, `${Math.round(performance.now() - begin)} ms`)
    await until(async () => engine.state === 'ready' || undefined)
    t.notOk(isAlive(pid))
    await works(t, engine)
  })
}

t.test('a device that is lost ends the process with a report: requests end as with any crash, and the engine is back', async (t) => {
  const engine = await startFake({ stepMs: 2 }, FAST)
  t.teardown(() => engine.close())
  const streams = Array.from({ length: 4 }, () => collect(engine.generate(request())))
  const ends = Promise.allSettled(streams)
  await until(async () => (await engine.stats()).running === 4 || undefined)
  const { pid } = engine
  const begin = performance.now()
  const cause = collect(engine.generate(request({ prompt: { tokenIds: [FAIL_TOKEN] } }))).catch((error: unknown) => error)
  for (const end of [...await ends, { status: 'rejected', reason: await cause }]) {
    t.match(end, { status: 'rejected', reason: { code: 'ENGINE_RESTARTED', message: /the device is broken/ } })
  }
  t.ok(performance.now() - begin < 2000, `${Math.round(performance.now() - begin)} ms`)
  await until(async () => !isAlive(pid!) || undefined)
  await until(async () => engine.restarts === 1 && engine.state === 'ready' || undefined)
  await works(t, engine)
})

t.test('readers that stop reading, and an engine with nothing to do, are no hang', async (t) => {
  const engine = await startFake({ maxModelLen: 4000, nGlobalBlocks: 1100, nSlidingBlocks: 100 }, WATCHED)
  t.teardown(() => engine.close())
  const slow = engine.generate(request({ prompt: { tokenIds: [11] }, maxTokens: 2000 }))[Symbol.asyncIterator]()
  await slow.next()
  await new Promise((resolve) => setTimeout(resolve, 2 * WATCHED.watchdogMs))
  t.equal(engine.restarts, 0)
  t.equal(engine.state, 'ready')
  await slow.return!()
  await works(t, engine)
})

t.test('adapters are resident again after a restart', async (t) => {
  const engine = await startFake({}, FAST)
  t.teardown(() => engine.close())
  await engine.loadAdapter({ slot: 1, version: 'v', path: 'p' })
  await engine.loadAdapter({ slot: 2, version: 'w', path: 'q' })
  await engine.unloadAdapter(2)
  process.kill(engine.pid!, 'SIGKILL')
  await until(async () => engine.state === 'restarting' || undefined)
  await until(async () => engine.state === 'ready' || undefined)
  const { choices: [choice] } = await ask(engine, { adapter: { slot: 1, version: 'v' } })
  t.same(choice!.tokenIds, expectedTokens(ids(10), 12, { sampling: GREEDY, adapterPath: 'p' }))
  await t.rejects(ask(engine, { adapter: { slot: 2, version: 'w' } }), { code: 'ADAPTER_NOT_FOUND' })
})

t.test('a request that saw the engine end twice is refused, others are not', async (t) => {
  const engine = await startFake({ stepMs: 2 }, FAST)
  t.teardown(() => engine.close())
  const poison = request()
  for (let i = 0; i < 2; i++) {
    const running = collect(engine.generate(poison)).catch((error: unknown) => error)
    await until(async () => (await engine.stats()).running > 0 || undefined)
    process.kill(engine.pid!, 'SIGKILL')
    t.match(await running, { code: 'ENGINE_RESTARTED' })
    await until(async () => engine.state === 'ready' || undefined)
  }
  await t.rejects(collect(engine.generate(poison)), { code: 'QUARANTINED' })
  await works(t, engine)
})

t.test('a process that ends 5 times in a minute is not started again', async (t) => {
  const engine = await startFake({}, { ...FAST, backoffMs: 1 })
  t.teardown(() => engine.close())
  for (let i = 0; i < 5; i++) {
    await until(async () => engine.state === 'ready' || undefined)
    process.kill(engine.pid!, 'SIGKILL')
    await until(async () => engine.state !== 'ready' || undefined)
  }
  t.equal(engine.state, 'failed')
  t.equal(engine.restarts, 4)
  await t.rejects(ask(engine, {}), { code: 'ENGINE_UNAVAILABLE', message: /failed/ })
})

t.test('an engine that cannot start says why', async (t) => {
  await t.rejects(startFake({ failToStart: true }), { code: 'MODEL_NOT_FOUND', param: 'model' })
  await t.rejects(startFake({ dieAtStart: true }), { code: 'INTERNAL', message: /SIGSEGV/ })
})

t.test('the engine\'s process goes with its parent', async (t) => {
  const script = `
    import { startFake } from ${JSON.stringify(fileURLToPath(new URL('./remote-engine.js', import.meta.url)))}
    const engine = await startFake()
    console.log(engine.pid)`
  const parent = spawn(process.execPath, ['--input-type=module', '--eval', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  const pid = Number(await new Promise((resolve) => parent.stdout.once('data', resolve)))
  t.ok(isAlive(pid))
  parent.kill('SIGKILL')
  await until(async () => !isAlive(pid) || undefined)
})

t.test('closing leaves no process', async (t) => {
  const engine = await startFake()
  const pid = engine.pid!
  await engine.close()
  await until(async () => !isAlive(pid) || undefined)
  t.equal(engine.state, 'closed')
})
