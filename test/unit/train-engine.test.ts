import { join } from 'node:path'
import t from 'tap'
import type { TrainEvent, TrainRequest, TrainingEngine } from '../../engine/train/types.js'
import { ask, ids, until } from './engine-suite.js'
import { fakeEngine } from './fake-engine.js'
import { startFake } from './remote-engine.js'
import { jsonl, temporaryFolder } from './train-fixtures.js'
import { ofType, requestOf, rowsOfChats, weightsOf } from './train-run.js'

const folder = temporaryFolder()
t.teardown(() => folder.remove())
t.setTimeout(100_000)
const files = [folder.write('train.jsonl', jsonl(rowsOfChats(23)))]
let nRuns = 0
const newRequest = (): TrainRequest => requestOf({ files, outputDir: join(folder.path, `run-${nRuns++}`), values: { packing: false } })

async function collect(engine: TrainingEngine, request: TrainRequest, signal?: AbortSignal, onEvent = (_event: TrainEvent) => {}) {
  const events: TrainEvent[] = []
  for await (const event of engine.train(request, signal)) {
    events.push(event)
    onEvent(event)
  }
  return events
}

const KINDS = {
  'in this process': async () => fakeEngine().engine,
  'across a process': () => startFake({}, { backoffMs: 20, maxBackoffMs: 100 }),
}

async function expectedAdapter(): Promise<string> {
  const { engine } = fakeEngine()
  const request = newRequest()
  await collect(engine, request)
  await engine.close()
  return weightsOf(request.outputDir)
}

for (const [kind, start] of Object.entries(KINDS)) {
  t.test(`training ${kind}`, async (t) => {
    const adapter = await expectedAdapter()
    const engine = await start()
    t.teardown(() => engine.close())

    t.test('events come in order, and the adapter is there when the last says so', async (t) => {
      const request = newRequest()
      const events = await collect(engine, request)
      t.equal(events[0]!.type, 'data')
      t.same(ofType(events, 'step').map(({ step }) => step), Array.from({ length: 24 }, (_, i) => i + 1))
      t.equal(events.at(-1)!.type, 'finished')
      t.equal(weightsOf(request.outputDir), adapter)
    })

    t.test('one run at a time: a second is refused, and the place is free again after the first', async (t) => {
      const first = collect(engine, newRequest())
      await until(async () => {
        const refused = await collect(engine, newRequest()).catch((error: unknown) => error)
        return (refused as { code?: string }).code === 'TRAINING_BUSY' || undefined
      })
      await first
      t.equal((await collect(engine, newRequest())).at(-1)!.type, 'finished')
    })

    t.test('the signal ends a run with its last events, and the same request goes on', async (t) => {
      const request = newRequest()
      const controller = new AbortController()
      const events = await collect(engine, request, controller.signal, (event) => {
        if (event.type === 'step' && event.step === 7) controller.abort()
      })
      const last = events.at(-1)!
      t.match(events.slice(-2), [{ type: 'checkpoint' }, { type: 'stopped' }])
      t.ok(last.type === 'stopped' && last.step >= 7)
      const resumed = await collect(engine, request)
      t.match(resumed[0], { type: 'data', resumedFrom: (last as { step: number }).step })
      t.equal(weightsOf(request.outputDir), adapter)
      const aborted = AbortSignal.abort()
      t.same(await collect(engine, newRequest(), aborted), [{ type: 'stopped', step: 0 }])
    })

    t.test('a reader that leaves ends the run, and its place is free', async (t) => {
      const request = newRequest()
      for await (const event of engine.train(request)) if (event.type === 'step' && event.step === 5) break
      await until(async () => {
        const events = await collect(engine, request).catch(() => [])
        return events.at(-1)?.type === 'finished' || undefined
      })
      t.equal(weightsOf(request.outputDir), adapter)
    })

    t.test('requests are answered while a run goes on', async (t) => {
      const alone = await ask(engine, { prompt: { tokenIds: ids(10) } })
      const run = collect(engine, newRequest())
      for (let i = 0; i < 5; i++) {
        t.same((await ask(engine, { prompt: { tokenIds: ids(10) } })).choices[0]!.tokenIds, alone.choices[0]!.tokenIds)
      }
      t.equal((await run).at(-1)!.type, 'finished')
    })

    t.test('what is wrong with a request comes from next(), with its code', async (t) => {
      await t.rejects(collect(engine, { ...newRequest(), trainFiles: ['absent.jsonl'] }), { code: 'DATA_INVALID', message: /absent/ })
      const occupied = folder.write('occupied', 'a file')
      await t.rejects(collect(engine, { ...newRequest(), outputDir: occupied }), { code: 'INTERNAL', message: /occupied/ })
    })
  })
}

t.test('closing an engine in the midst of a run leaves a checkpoint to go on from', async (t) => {
  const adapter = await expectedAdapter()
  const { engine } = fakeEngine()
  const request = newRequest()
  await collect(engine, request, undefined, (event) => {
    if (event.type === 'step' && event.step === 4) void engine.close()
  })
  await t.rejects(collect(engine, request), { code: 'ENGINE_UNAVAILABLE' })
  const { engine: next } = fakeEngine()
  t.teardown(() => next.close())
  t.ok(ofType(await collect(next, request), 'data')[0]!.resumedFrom >= 4)
  t.equal(weightsOf(request.outputDir), adapter)
})

t.test('a process that dies in the midst of a run ends it with ENGINE_RESTARTED, and the next one goes on', async (t) => {
  const adapter = await expectedAdapter()
  const engine = await startFake({}, { backoffMs: 20, maxBackoffMs: 100 })
  t.teardown(() => engine.close())
  const request = newRequest()
  const run = collect(engine, request, undefined, (event) => {
    if (event.type === 'step' && event.step === 5) process.kill(engine.pid!, 'SIGKILL')
  })
  await t.rejects(run, { code: 'ENGINE_RESTARTED' })
  await t.rejects(collect(engine, request), { code: 'ENGINE_UNAVAILABLE', retryAfterMs: Number })
  await until(async () => engine.state === 'ready' || undefined)
  t.ok(ofType(await collect(engine, request), 'data')[0]!.resumedFrom >= 3)
  t.equal(weightsOf(request.outputDir), adapter)
})

t.test('a model without a tokenizer is not trained', async (t) => {
  const { TrainingSlot } = await import('../../engine/train/training-slot.js')
  const slot = new TrainingSlot(undefined)
  await t.rejects(slot.run(newRequest()).next(), { code: 'TEXT_WITHOUT_TOKENIZER' })
})
