import t from 'tap'
import type { GenerateEvent } from '../../engine/api.js'
import { EngineError } from '../../engine/errors.js'
import { generateResumable, Quarantine, type ResumeDeps } from '../../server/resume.js'
import { FakeEngine } from './fake-engine.js'
import { chat, complete, sseEvents, startApp, until } from './harness.js'

const REPLY = Array.from({ length: 30 }, (_, i) => `t${i} `)
const TEXT = REPLY.join('')

t.test('a stream goes on where the engine died: the client sees one answer', async (t) => {
  const app = await startApp(t, { script: { delayMs: 3, reply: () => REPLY } })
  const stream = chat(app, { stream: true, stream_options: { include_usage: true }, stop: ['zzz'] })
  await until(() => app.engine.tokens >= 10, 'half way')
  app.engine.crash()
  const nEmitted = app.engine.tokens
  await new Promise((resolve) => setTimeout(resolve, 50))
  t.equal((await app.server.inject('/readyz')).statusCode, 503)
  app.engine.recover()
  const events = sseEvents((await stream).body)
  t.equal(events.pop(), '[DONE]')
  const { usage } = events.pop()
  t.equal(events.map((event) => event.choices[0].delta.content ?? '').join(''), TEXT)
  t.equal(events.filter((event) => event.choices[0].delta.role).length, 1, 'one role chunk')
  t.equal(usage.completion_tokens, 30)
  const [first, second] = app.engine.requests
  t.equal(second!.sampling!.seed, first!.sampling!.seed)
  t.type(first!.sampling!.seed, 'number', 'a seed was minted')
  t.equal(second!.resume![0]!.tokenIds.length, nEmitted)
  t.not(second!.id, first!.id)
})

t.test('plain answers survive as well, on both routes', async (t) => {
  for (const send of [chat, complete]) {
    const app = await startApp(t, { script: { delayMs: 3, reply: () => REPLY } })
    const answer = send(app, { max_tokens: 100 })
    await until(() => app.engine.tokens >= 5, 'running')
    app.engine.crash()
    app.engine.recover()
    const [choice] = (await answer).json().choices
    t.equal(choice.text ?? choice.message.content, TEXT)
  }
})

t.test('of n choices only the unfinished go on, each under its own seed', async (t) => {
  const reply = (_: unknown, choice: number) => (choice === 0 ? ['short'] : REPLY)
  const app = await startApp(t, { script: { delayMs: 3, reply } })
  const answer = chat(app, { n: 3, seed: 100 })
  await until(() => app.engine.tokens >= 11, 'running')
  // The resumed requests have n = 1: what was choice 1 and 2 is choice 0 of its own request.
  app.engine.script = { ...app.engine.script, reply: () => REPLY }
  app.engine.crash()
  app.engine.recover()
  const { choices, usage } = (await answer).json()
  t.same(choices.map((choice: any) => choice.message.content), ['short', TEXT, TEXT])
  t.equal(usage.completion_tokens, 61)
  t.same(app.engine.requests.slice(1).map(({ n, sampling }) => [n, sampling!.seed]), [[1, 101], [1, 102]])
})

t.test('two crashes under the same request and it is refused, in mid-stream and from then on', async (t) => {
  const app = await startApp(t, { script: { delayMs: 3, reply: () => REPLY } })
  const stream = chat(app, { stream: true })
  for (const tokens of [5, 10]) {
    await until(() => app.engine.tokens >= tokens && app.engine.active === 1, 'running')
    app.engine.crash()
    app.engine.recover()
  }
  const events = sseEvents((await stream).body)
  t.match(events.at(-1), { error: { code: 'quarantined', type: 'invalid_request_error' } })
  const again = await chat(app, { stream: true })
  t.same([again.statusCode, again.json().error.code], [422, 'quarantined'])
  t.equal((await chat(app, { messages: [{ role: 'user', content: 'another' }] })).statusCode, 200)
})

t.test('an engine that does not come back in time is a 503, and an error event where a stream runs', async (t) => {
  const app = await startApp(t, { script: { delayMs: 3, reply: () => REPLY }, flags: ['--recovery-timeout', '100ms'] })
  const stream = chat(app, { stream: true })
  await until(() => app.engine.tokens >= 5, 'running')
  app.engine.crash()
  t.match(sseEvents((await stream).body).at(-1), { error: { code: 'engine_unavailable', type: 'server_error' } })
  const refused = await chat(app)
  t.equal(refused.statusCode, 503)
  t.ok(refused.headers['retry-after'])
  app.engine.state = 'failed'
  const before = performance.now()
  t.equal((await chat(app)).statusCode, 503)
  t.ok(performance.now() - before < 90, 'a failed engine is not waited for')
})

t.test('a new request waits for an engine that restarts', async (t) => {
  const app = await startApp(t)
  app.engine.crash()
  const answer = chat(app)
  await new Promise((resolve) => setTimeout(resolve, 40))
  t.equal(app.engine.requests.length, 0)
  app.engine.recover()
  t.equal((await answer).statusCode, 200)
})

function deps(engine: FakeEngine, fields: Partial<ResumeDeps> = {}): ResumeDeps {
  return { engine, quarantine: new Quarantine(), renewAdapter: async () => null, recoveryMs: 1_000, ...fields }
}

async function collect(events: AsyncIterable<GenerateEvent>): Promise<GenerateEvent[]> {
  const all: GenerateEvent[] = []
  for await (const event of events) all.push(event)
  return all
}

const request = { id: 'a', prompt: { text: 'x' } }

t.test('the adapter is made resident again before the rest runs', async (t) => {
  const engine = new FakeEngine({ delayMs: 2, reply: () => REPLY })
  const renewAdapter = async () => ({ slot: 5, version: 'v' })
  const first = { ...request, adapter: { slot: 1, version: 'v' } }
  const run = collect(generateResumable(deps(engine, { renewAdapter }), first, new AbortController().signal))
  await until(() => engine.tokens > 3, 'running')
  engine.crash()
  engine.recover()
  await run
  t.same(engine.requests.map(({ adapter }) => adapter), [{ slot: 1, version: 'v' }, { slot: 5, version: 'v' }])
})

t.test('a request that never ran is resubmitted, but not for ever', async (t) => {
  const engine = new FakeEngine({ refuse: new EngineError('ENGINE_RESTARTED', 'died') })
  await t.rejects(collect(generateResumable(deps(engine), request, new AbortController().signal)), { code: 'ENGINE_RESTARTED' })
  t.equal(engine.requests.length, 3)
})

t.test('an abort while the engine restarts ends the wait', async (t) => {
  const engine = new FakeEngine({ delayMs: 2, reply: () => REPLY })
  const controller = new AbortController()
  const run = collect(generateResumable(deps(engine, { recoveryMs: 60_000 }), request, controller.signal))
  await until(() => engine.tokens > 3, 'running')
  engine.crash()
  setTimeout(() => controller.abort(), 20)
  await t.rejects(run, { code: 'ABORTED' })
})

t.test('equal requests in one crash count once; a request that completes is cleared; the table is bounded', async (t) => {
  const quarantine = new Quarantine()
  quarantine.record('a', 0)
  quarantine.record('a', 0)
  quarantine.clear('a')
  quarantine.record('a', 1)
  t.throws(() => quarantine.record('a', 2), { code: 'QUARANTINED' })
  for (let i = 0; i < 2_000; i++) quarantine.record(`b${i}`, 0)
  quarantine.check('a')
  t.pass('the oldest is forgotten')
})
