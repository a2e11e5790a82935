import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { AdapterRegistry, ModelLease } from '../../adapters/registry.js'
import { EngineError } from '../../engine/errors.js'
import { FakeEngine, openRegistry, peftFolder, temporaryFolder } from './adapters-fixtures.js'

t.setTimeout(120_000)

const N_ADAPTERS = 64
const N_SLOTS = 8
const N_REQUESTS = 20_000
const N_CLIENTS = 48
const N_RESTARTS = 12

/** The same choices every run; their timing is the machine's. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

/** Runs until stop() says so; every change is remembered as version -> content. */
class Storm {
  readonly contentOf = new Map<string, string>()
  readonly done = { publish: 0, promote: 0, rollback: 0, unserve: 0, remove: 0 }
  readonly #registry: AdapterRegistry
  readonly #root: string
  readonly #below: (n: number) => number
  #serial = 0

  constructor(registry: AdapterRegistry, root: string, below: (n: number) => number) {
    this.#registry = registry
    this.#root = root
    this.#below = below
  }

  async publish(name: string): Promise<void> {
    const content = `${name}.${this.#serial++}`
    const { version } = await this.#registry.publishFolder(name, await peftFolder(this.#root, content), true)
    this.contentOf.set(version, content)
    this.done.publish += 1
  }

  async change(): Promise<void> {
    const name = `adapter-${this.#below(N_ADAPTERS)}`
    const versions = this.#registry.store.versions(name)
    const kind = this.#below(20)
    if (kind < 8 || versions.length === 0) return this.publish(name)
    if (kind < 13) await this.#registry.promote(name, versions[this.#below(versions.length)]!.version).then(() => this.done.promote++)
    else if (kind < 17) await this.#registry.rollback(name).then(() => this.done.rollback++, ignoreNothingToGoBackTo)
    else if (kind < 19) await this.#registry.unserve(name).then(() => this.done.unserve++)
    else await this.#registry.remove(name).then(() => this.done.remove++)
  }
}

function ignoreNothingToGoBackTo(error: unknown): void {
  if (!(error instanceof EngineError) || error.code !== 'INVALID_REQUEST') throw error
}

const SETTING = `${N_ADAPTERS} adapters, ${N_SLOTS} slots, ${N_REQUESTS} requests under constant change`

t.test(`${SETTING}: never a wrong adapter or version, no pin left`, async (t) => {
  const root = temporaryFolder(t)
  const engine = new FakeEngine(N_SLOTS)
  const registry = await openRegistry(root, engine, { waitMs: 20_000, drainAfterMs: 20 })
  const below = randomNumbers(20_261_124)
  const storm = new Storm(registry, join(root), below)
  for (let i = 0; i < N_ADAPTERS; i++) await storm.publish(`adapter-${i}`)
  const outcomes = { right: 0, unknown: 0, unserved: 0, resumed: 0 }
  const wrong: string[] = []
  let left = N_REQUESTS

  const generate = async (lease: ModelLease): Promise<string> => {
    for (let { adapter } = lease; ; adapter = await lease.renew()) {
      const { restarts } = engine
      try {
        return await engine.generate(adapter!, below(3))
      } catch (error) {
        if (!(error instanceof EngineError) || error.code !== 'ENGINE_RESTARTED' || restarts === engine.restarts) throw error
        outcomes.resumed += 1
      }
    }
  }
  const request = async (): Promise<void> => {
    const name = `adapter-${Math.min(below(N_ADAPTERS), below(N_ADAPTERS))}`     // some are asked for more than others
    const expected = registry.store.current(name)
    try {
      const lease = await registry.resolve(name)
      try {
        const content = await generate(lease)
        if (lease.version !== expected || content !== storm.contentOf.get(lease.version!)) wrong.push(`${name}: ${content}, expected ${expected}`)
        else outcomes.right += 1
      } finally {
        lease.release()
      }
    } catch (error) {
      const { code } = error as EngineError
      if (code !== 'UNKNOWN_MODEL' && code !== 'ADAPTER_NOT_FOUND' && code !== 'ADAPTER_INVALID') throw error
      outcomes[code === 'UNKNOWN_MODEL' ? 'unserved' : 'unknown'] += 1         // deleted before, or while, it was loaded
    }
  }
  const client = async (): Promise<void> => {
    while (left-- > 0) await request()
  }
  const changes = async (): Promise<void> => {
    while (left > 0) await storm.change()
  }
  const restarts = async (): Promise<void> => {
    for (let i = 1; i <= N_RESTARTS && left > 0; i++) {
      while (left > N_REQUESTS * (1 - i / (N_RESTARTS + 1))) await sleep(1)
      engine.restart(i % 2 === 0)
    }
  }
  await Promise.all([changes(), restarts(), ...Array.from({ length: N_CLIENTS }, client)])

  t.same(wrong, [])
  t.same(engine.faults, [])
  t.equal(outcomes.right + outcomes.unserved + outcomes.unknown, N_REQUESTS)
  t.ok(outcomes.right > N_REQUESTS * 0.8, JSON.stringify(outcomes))
  t.ok(Object.values(storm.done).every((count) => count > 0), JSON.stringify(storm.done))
  await sleep(20)
  const { pins, pinned, waiting, busy, resident } = registry.stats()
  t.same({ pins, pinned, waiting, busy }, { pins: 0, pinned: 0, waiting: 0, busy: 0 })
  t.equal(engine.slots.size, resident)
  for (const name of registry.store.names()) await registry.remove(name)
  await sleep(20)
  t.equal(registry.stats().residentBytes, 0, 'with every adapter deleted every slot is empty again')
  t.comment(JSON.stringify({ ...outcomes, ...storm.done, restarts: engine.restarts, loads: engine.loads,
    evictions: registry.stats().evictions }))
})
