import { readdirSync, writeFileSync } from 'node:fs'
import { rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { asDiskFull } from '../../adapters/durable.js'
import { FakeEngine, openRegistry, peftFolder, temporaryFolder } from './adapters-fixtures.js'

async function withAdapters(root: string, engine: FakeEngine, names: readonly string[], options = {}) {
  const registry = await openRegistry(root, engine, options)
  for (const name of names) await registry.publishFolder(name, await peftFolder(root, name), true)
  return registry
}

t.test('the base needs no slot, and an unknown name is never the base', async (t) => {
  const registry = await openRegistry(temporaryFolder(t), new FakeEngine())
  t.equal((await registry.resolve('gemma')).adapter, null)
  for (const model of ['sql', 'gemma:sql', 'gemma2', '', '../x', '__proto__', 'constructor', 'gemma@1234']) {
    await t.rejects(registry.resolve(model), { code: 'UNKNOWN_MODEL' }, JSON.stringify(model))
  }
})

t.test('fifty requests that miss at once load once', async (t) => {
  const engine = new FakeEngine()
  engine.loadMs = 20
  const registry = await withAdapters(temporaryFolder(t), engine, ['sql'])
  const leases = await Promise.all(Array.from({ length: 50 }, () => registry.resolve('sql')))
  t.equal(engine.loads, 1)
  t.equal(registry.stats().pins, 50)
  for (const lease of leases) {
    lease.release()
    lease.release()
  }
  t.equal(registry.stats().pins, 0, 'releasing twice counts once')
})

t.test('the least recently used version gives way, and a pinned one never does', async (t) => {
  const engine = new FakeEngine(2)
  const registry = await withAdapters(temporaryFolder(t), engine, ['a', 'b', 'c'], { drainAfterMs: 10_000 })
  const a = await registry.resolve('a')
  ;(await registry.resolve('b')).release()
  ;(await registry.resolve('c')).release()
  t.same([...engine.slots.values()].map(({ content }) => content).sort(), ['a', 'c'])
  const c = await registry.resolve('c')
  await t.rejects(registry.resolve('b', undefined, { waitMs: 50 }), { code: 'ADAPTER_SLOTS_BUSY', retryAfterMs: 1000 })
  a.release()
  const b = await registry.resolve('b')
  t.equal(await engine.generate(b.adapter!, 0), 'b')
  t.equal(await engine.generate(c.adapter!, 0), 'c')
  t.same(engine.faults, [])
  t.equal(registry.stats().busy, 1)
})

t.test('an adapter that waits for a slot is brought near the device meanwhile, one that gets a slot at once is not', async (t) => {
  const engine = new FakeEngine(1)
  const registry = await withAdapters(temporaryFolder(t), engine, ['a', 'b'], { drainAfterMs: 10_000 })
  const a = await registry.resolve('a')
  const b = registry.resolve('b')
  while (engine.prefetched.length === 0) await sleep(1)
  t.same(engine.prefetched, ['b'])
  t.equal(engine.loads, 1)
  a.release()
  const lease = await b
  t.equal(await engine.generate(lease.adapter!, 0), 'b')
  t.same(engine.prefetched, ['b'])
})

t.test('whoever waits for a slot gets the next one, in order, and a request that gave up gets none', async (t) => {
  const engine = new FakeEngine(1)
  const registry = await withAdapters(temporaryFolder(t), engine, ['a', 'b', 'c', 'd'], { drainAfterMs: 10_000 })
  const a = await registry.resolve('a')
  const order: string[] = []
  const gone = new AbortController()
  const wait = (name: string, signal?: AbortSignal) => registry.resolve(name, signal).then((lease) => { order.push(name); lease.release() })
  const [b, c, d] = [wait('b'), wait('c', gone.signal), wait('d')]
  await sleep(20)
  t.same([...registry.waiting()], [['b', 1], ['c', 1], ['d', 1]])
  gone.abort()
  await t.rejects(c, { code: 'ABORTED' })
  a.release()
  await Promise.all([b, d])
  t.same(order, ['b', 'd'])
  t.equal(engine.loads, 3, 'c was never loaded')
})

t.test('one adapter under steady load cannot keep another from the only slot', async (t) => {
  const engine = new FakeEngine(1)
  const registry = await withAdapters(temporaryFolder(t), engine, ['busy', 'quiet'], { drainAfterMs: 30 })
  let isOver = false
  const client = async () => {
    while (!isOver) {
      const lease = await registry.resolve('busy')
      await engine.generate(lease.adapter!, 5)
      lease.release()
    }
  }
  const clients = [client(), sleep(2).then(client), sleep(4).then(client)]
  await sleep(10)
  const startedAt = performance.now()
  const lease = await registry.resolve('quiet')
  const waitedMs = performance.now() - startedAt
  lease.release()
  isOver = true
  await Promise.all(clients)
  t.ok(waitedMs < 1_500, `${waitedMs} ms`)
  t.same(engine.faults, [])
})

t.test('a request keeps its version while its name moves on', async (t) => {
  const root = temporaryFolder(t)
  const engine = new FakeEngine()
  const registry = await openRegistry(root, engine)
  const one = await registry.publishFolder('sql', await peftFolder(root, 'one'), true)
  const old = await registry.resolve('sql')
  await registry.publishFolder('sql', await peftFolder(root, 'two'), true)
  const current = await registry.resolve('sql')
  const fixed = await registry.resolve(`sql@${one.version.slice(0, 8)}`)
  t.same(await Promise.all([old, current, fixed].map(({ adapter }) => engine.generate(adapter!, 5))), ['one', 'two', 'one'])
  await registry.rollback('sql')
  t.equal(await engine.generate((await registry.resolve('gemma:sql')).adapter!, 0), 'one')
})

t.test('a deleted adapter is unknown at once, its slot free after its last request', async (t) => {
  const engine = new FakeEngine()
  const registry = await withAdapters(temporaryFolder(t), engine, ['sql'])
  const lease = await registry.resolve('sql')
  await registry.remove('sql')
  await t.rejects(registry.resolve('sql'), { code: 'UNKNOWN_MODEL' })
  t.equal(await engine.generate(lease.adapter!, 1), 'sql')
  lease.release()
  await sleep(5)
  t.equal(engine.slots.size, 0)
  t.same(engine.faults, [])
})

t.test('an unserved adapter is unknown but kept, and publishing serves it again', async (t) => {
  const root = temporaryFolder(t)
  const registry = await withAdapters(root, new FakeEngine(), ['sql'])
  await registry.unserve('sql')
  await t.rejects(registry.resolve('sql'), { code: 'UNKNOWN_MODEL' })
  t.same((await registry.list()).map(({ id }) => id), ['gemma'])
  await registry.publishFolder('sql', await peftFolder(root, 'sql'), true)
  t.match((await registry.list())[1], { id: 'sql', parent: 'gemma', root: /adapters\/sql/ })
})

t.test('a refused adapter is not published and evicts nothing', async (t) => {
  const root = temporaryFolder(t)
  const engine = new FakeEngine(1)
  engine.refuse = (content) => (content === 'bad' ? 'shape: lora_A has 5 rows' : undefined)
  const registry = await withAdapters(root, engine, ['good'])
  await registry.warm('good')
  await t.rejects(registry.publishFolder('bad', await peftFolder(root, 'bad'), true), { code: 'ADAPTER_INVALID', message: /^shape/ })
  await t.rejects(registry.publishFolder('gemma', await peftFolder(root, 'x'), true), { code: 'ADAPTER_EXISTS' })
  await t.rejects(registry.publishFolder('../x', await peftFolder(root, 'x'), true), { code: 'INVALID_REQUEST' })
  t.same(registry.store.names(), ['good'])
  t.same(readdirSync(join(root, 'adapters')), ['good'])
  t.equal(registry.stats().evictions, 0)
})

t.test('300 refused and missing adapters hurt none of 500 requests', async (t) => {
  const root = temporaryFolder(t)
  const engine = new FakeEngine(2)
  engine.refuse = (content) => (content === 'bad' ? 'shape: lora_A has 5 rows' : undefined)
  const good = Array.from({ length: 10 }, (_, i) => `good-${i}`)
  const registry = await withAdapters(root, engine, good)
  const bad = await peftFolder(root, 'bad')
  const refusals = Promise.all(Array.from({ length: 150 }, (_, i) => Promise.allSettled([
    registry.publishFolder(good[i % 10]!, bad, true), registry.publishFolder('new', join(root, 'missing'), true),
      registry.resolve('missing'),
  ])))
  const answers = await Promise.all(Array.from({ length: 500 }, async (_, i) => {
    const lease = await registry.resolve(good[i % 10]!)
    return engine.generate(lease.adapter!, 1).finally(() => lease.release())
  }))
  t.same(answers, answers.map((_, i) => good[i % 10]))
  t.ok((await refusals).flat().every(({ status }) => status === 'rejected'))
  t.same(registry.store.names(), good)
  t.equal(registry.stats().pins, 0)
})

t.test('a full disk is told as such', async (t) => {
  t.match(asDiskFull(Object.assign(new Error('x'), { code: 'ENOSPC' })), { code: 'DISK_FULL', message: /data directory is full/ })
  const other = new Error('x')
  t.equal(asDiskFull(other), other)
})

t.test('a version damaged on disk is refused before it costs another one its slot', async (t) => {
  const root = temporaryFolder(t)
  const engine = new FakeEngine(1)
  const registry = await withAdapters(root, engine, ['good', 'sql'])
  await registry.warm('good')
  writeFileSync(join(registry.store.find('sql').path, 'adapter_model.safetensors'), 'sqI')
  await t.rejects(registry.resolve('sql'), { code: 'ADAPTER_INVALID', message: /set aside/ })
  t.equal(registry.status('good').versions[0]?.tier, 'device')
})

t.test('a version published for another base is checked against this one before it is loaded', async (t) => {
  const root = temporaryFolder(t)
  await withAdapters(root, new FakeEngine(), ['sql'])
  const engine = new FakeEngine()
  engine.info.hash = 'base-2'
  engine.refuse = () => 'shape: made for another base'
  const registry = await openRegistry(root, engine)
  await t.rejects(registry.resolve('sql'), { code: 'ADAPTER_INVALID' })
  t.equal(engine.slots.size, 0)
})

t.test('policy "error" answers at once when the adapter is not resident', async (t) => {
  const registry = await withAdapters(temporaryFolder(t), new FakeEngine(), ['sql'])
  await t.rejects(registry.resolve('sql', undefined, { policy: 'error' }), { code: 'ADAPTER_NOT_FOUND' })
  await registry.warm('sql')
  ;(await registry.resolve('sql', undefined, { policy: 'error' })).release()
})

for (const isReplayed of [true, false]) {
  t.test(`after a restart ${isReplayed ? 'with' : 'without'} replay by the engine, everything resident is there again`, async (t) => {
    const engine = new FakeEngine(2)
    const registry = await withAdapters(temporaryFolder(t), engine, ['a', 'b'])
    const a = await registry.resolve('a')
    await registry.warm('b')
    engine.restart(isReplayed)
    const handle = await a.renew()
    t.equal(await engine.generate(handle!, 0), 'a')
    t.equal(await engine.generate((await registry.resolve('b')).adapter!, 0), 'b')
    a.release()
    t.equal(engine.slots.size, 2)
    t.same(engine.faults, [])
  })
}

t.test('what an engine brings back into a slot that was being emptied gives way to the next load', async (t) => {
  const engine = new FakeEngine(1)
  const registry = await withAdapters(temporaryFolder(t), engine, ['a'])
  engine.slots.set(0, { version: 'stale', content: 'stale', running: 0 })
  const lease = await registry.resolve('a')
  t.equal(await engine.generate(lease.adapter!, 0), 'a')
})

t.test('an engine that restarts during a load leaves nobody waiting and no slot lost', async (t) => {
  const engine = new FakeEngine(1)
  engine.loadMs = 20
  const registry = await withAdapters(temporaryFolder(t), engine, ['a', 'b'])
  const waiting = registry.resolve('a')
  await sleep(10)
  engine.restart()
  engine.state = 'restarting'
  setTimeout(() => { engine.state = 'ready' }, 30)
  const lease = await waiting
  t.equal(await engine.generate(lease.adapter!, 0), 'a')
  lease.release()
  const b = await registry.resolve('b')
  t.equal(await engine.generate(b.adapter!, 0), 'b')
})

t.test('a pinned adapter stays resident through any traffic and follows its name', async (t) => {
  const root = temporaryFolder(t)
  const engine = new FakeEngine(2)
  const registry = await withAdapters(root, engine, ['kept', 'a', 'b', 'c'], { drainAfterMs: 5 })
  await registry.pin('kept')
  await t.rejects(registry.pin('a'), { code: 'INVALID_REQUEST' }, 'one slot is left for the others')
  for (const name of ['a', 'b', 'c']) await registry.warm(name)
  const held = await registry.resolve('a')
  await t.rejects(registry.resolve('b', undefined, { waitMs: 50 }), { code: 'ADAPTER_SLOTS_BUSY' })
  held.release()
  t.equal(registry.status('kept').versions[0]?.tier, 'device')
  await registry.publishFolder('kept', await peftFolder(root, 'newer'), true)
  t.match(registry.status('kept').versions, [{ isCurrent: false, pins: 0 }, { isCurrent: true, pins: 1, tier: 'device' }])
})

t.test('load requests read only under the allowed roots, links followed', async (t) => {
  const inside = temporaryFolder(t)
  const outside = temporaryFolder(t)
  const registry = await openRegistry(inside, new FakeEngine())
  const secret = await peftFolder(outside, 'secret')
  await symlink(secret, join(inside, 'link'))
  const mixed = await peftFolder(inside, 'mixed')
  const halfway = await peftFolder(inside, 'halfway')
  await rm(join(halfway, 'adapter_model.safetensors'))
  await symlink(join(secret, 'adapter_model.safetensors'), join(halfway, 'adapter_model.safetensors'))
  for (const path of [secret, halfway, join(inside, 'link'), '/etc', '/nowhere', `${inside}/../x`, 'link', '..', 'a\0b']) {
    await t.rejects(registry.publishFolder('sql', path, false), { code: 'INVALID_REQUEST', param: 'lora_path' }, path)
  }
  await t.rejects(registry.publishFolder('sql', join(inside, 'missing'), false), { code: 'ADAPTER_NOT_FOUND' })
  await registry.publishFolder('sql', mixed, false)
  await registry.publishFolder('sql', 'peft-mixed', false)
  t.equal(registry.store.versions('sql').length, 1)
})
