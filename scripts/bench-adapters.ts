// What adapters cost: decode with and without, many clients on one or many adapters, and moving an adapter into a slot. One engine
// in this process; every comparison is made within one run.

import { spawnSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { AdapterRegistry } from '../adapters/registry.js'
import { AdapterStore } from '../adapters/store.js'
import { ADAPTER_FILES } from '../adapters/manifest.js'
import type { Engine } from '../engine/api.js'
import { createLocalEngine } from '../engine/create-engine.js'
import { shapeOf, writeRandomAdapter } from '../adapters/random-adapter.js'
import { fixed, formatTable, percentile } from '../server/bench/statistics.js'

const USAGE = `usage: npm run bench-adapters -- --model PATH [--clients 8] [--rank 16] [--slots 16] [--adapters 64] [--seconds 6]
         [--threads 0] [--device auto]
  --clients   requests at once    --slots    device slots    --adapters  how many are stored
  --seconds   of each load        --cache-dir DIR  keeps the NF4 form of the model between runs`

const PROMPT_TOKENS = 32
const OUTPUT_TOKENS = 64
const N_SWAPS = 8
const N_ROUNDS = 2
const HOST_BYTES = 2 ** 32

type Pick = (client: number, round: number) => string

interface LoadResult {
  readonly tokensPerSecond: number
  readonly ttftMs: readonly number[]
  readonly itlMs: readonly number[]
}

class Bench {
  readonly #engine: Engine
  readonly #registry: AdapterRegistry
  #serial = 0

  constructor(engine: Engine, registry: AdapterRegistry) {
    this.#engine = engine
    this.#registry = registry
  }

  /** One request on what `model` names; times of its tokens since it was sent, ms. */
  async request(model: string, maxTokens: number): Promise<number[]> {
    const startedAt = performance.now()
    const lease = await this.#registry.resolve(model)
    try {
      const tokenIds = [2, ...Array.from({ length: PROMPT_TOKENS - 1 }, (_, i) => 300 + ((i * 31 + this.#serial * 7) % 150))]
      const request = { id: `bench-${this.#serial++}`, prompt: { tokenIds }, adapter: lease.adapter, maxTokens, ignoreEos: true,
        sampling: { temperature: 0 } }
      const times: number[] = []
      for await (const event of this.#engine.generate(request)) {
        if (event.type === 'delta') times.push(...event.tokenIds.map(() => performance.now() - startedAt))
      }
      return times
    } finally {
      lease.release()
    }
  }

  /** Decode rate of one sequence, tokens a second; best of `repeat`. */
  async decode(model: string, repeat = 3): Promise<number> {
    let best = 0
    for (let i = 0; i < repeat; i++) {
      const times = await this.request(model, 2 * OUTPUT_TOKENS)
      best = Math.max(best, ((times.length - 1) / (times.at(-1)! - times[0]!)) * 1000)
    }
    return best
  }

  /** Clients that send one request after another for some seconds. */
  async load(nClients: number, seconds: number, pick: Pick): Promise<LoadResult> {
    const startedAt = performance.now()
    const endAt = startedAt + seconds * 1000
    const ttftMs: number[] = []
    const itlMs: number[] = []
    let nTokens = 0
    let lastAt = startedAt
    await Promise.all(Array.from({ length: nClients }, async (_, client) => {
      for (let round = 0; performance.now() < endAt; round++) {
        const times = await this.request(pick(client, round), OUTPUT_TOKENS)
        ttftMs.push(times[0]!)
        for (let i = 1; i < times.length; i++) itlMs.push(times[i]! - times[i - 1]!)
        nTokens += times.length
        lastAt = performance.now()
      }
    }))
    return { tokensPerSecond: (nTokens / (lastAt - startedAt)) * 1000, ttftMs, itlMs }
  }

  /** Milliseconds until an adapter that is not resident is in its slot. */
  async swapIn(name: string): Promise<number> {
    const startedAt = performance.now()
    await this.#registry.warm(name)
    return performance.now() - startedAt
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      model: { type: 'string' }, clients: { type: 'string', default: '8' }, rank: { type: 'string', default: '16' },
        slots: { type: 'string', default: '16' },
      adapters: { type: 'string', default: '64' }, seconds: { type: 'string', default: '6' }, threads: { type: 'string', default: '0' },
      device: { type: 'string', default: 'auto' }, 'cache-dir': { type: 'string', default: '' }, help: { type: 'boolean' },
    },
  })
  if (values.help || values.model === undefined) return console.log(USAGE)
  const [nClients, rank, nSlots, nAdapters, seconds, nThreads] = [values.clients, values.rank, values.slots, values.adapters,
    values.seconds, values.threads].map(Number) as
    [number, number, number, number, number, number]
  const folder = await mkdtemp(join(tmpdir(), 'lorikeet-bench-'))
  const engine = await createLocalEngine({
    model: values.model, dataDir: values['cache-dir'] || folder, device: values.device, compute: 'auto', weights: 'nf4', head: 'auto',
    isa: 'auto', nThreads,
    maxModelLen: 2_048, kvCacheBytes: 0, maxNumSeqs: Math.max(16, nClients), maxBatchTokens: 512, maxQueue: 1_024, maxLoras: nSlots,
    maxLoraRank: Math.max(8, rank), adapterHostBytes: HOST_BYTES, prefixCache: false,
  })
  try {
    const store = await AdapterStore.open(join(folder, 'adapters'))
    const registry = new AdapterRegistry({ engine, store, baseNames: ['base'], hostBytes: HOST_BYTES, waitMs: 60_000, allowedRoots: [] })
    const { name, device, compute, head } = engine.info
    console.log(`${name} on ${device}, ${compute}, head ${head}; ${nClients} clients, ${nSlots} slots`)
    console.log(`adapters of rank ${rank} on every linear layer\n`)
    const bench = new Bench(engine, registry)
    await bench.decode('base', 1)                      // warm-up
    const baseAlone = await bench.decode('base')       // before any adapter is there
    await publishAll(registry, folder, { nAdapters, rank, hiddenSize: engine.info.hiddenSize })
    await swaps(bench, registry, nSlots, nAdapters)
    await swapsBesideStream(bench, nSlots, nAdapters)
    await costOfOne(bench, baseAlone)
    await loads(bench, { nClients, nAdapters, seconds })
  } finally {
    await engine.close()
    await rm(folder, { recursive: true, force: true })
  }
}

const adapterName = (i: number): string => `a${i}`

async function publishAll(registry: AdapterRegistry, folder: string,
  { nAdapters, rank, hiddenSize }: { nAdapters: number; rank: number; hiddenSize: number }) {
  const startedAt = performance.now()
  for (let i = 0; i < nAdapters; i++) {
    const source = join(folder, 'source')
    await writeRandomAdapter(source, { shape: shapeOf(hiddenSize), rank })
    await registry.publishFolder(adapterName(i), source, true)
    await rm(source, { recursive: true })
  }
  const { bytes } = registry.store.find(adapterName(0))
  const seconds = (performance.now() - startedAt) / 1000
  console.log(`published ${nAdapters} adapters of ${(bytes / 1e6).toFixed(1)} MB in ${seconds.toFixed(1)} s\n`)
}

async function costOfOne(bench: Bench, baseAlone: number): Promise<void> {
  await bench.request('a0', 1)
  const rates = { base: 0, adapter: 0 }
  for (let round = 0; round < 4; round++) {            // in turn, so that a machine that slows down slows both
    rates.base = Math.max(rates.base, await bench.decode('base', 1))
    rates.adapter = Math.max(rates.adapter, await bench.decode('a0', 1))
  }
  printTable(['decode, 1 sequence', 'tok/s', 'of base'], [
    ['base, before any adapter', fixed(baseAlone), percent(baseAlone, rates.base)],
    ['base, adapters resident', fixed(rates.base), percent(rates.base, rates.base)],
    ['one adapter', fixed(rates.adapter), percent(rates.adapter, rates.base)],
  ])
}

interface LoadOptions {
  readonly nClients: number
  readonly nAdapters: number
  readonly seconds: number
}

async function loads(bench: Bench, { nClients, nAdapters, seconds }: LoadOptions): Promise<void> {
  const counts = [1, 4, 8, 16, 64].filter((n) => n <= nAdapters)
  const cases: Array<[label: string, pick: Pick]> = [['base', () => 'base'], ['1 adapter, all clients', () => 'a0']]
  for (const n of counts.slice(1)) cases.push([`${n} adapters, distinct`, (client, round) => adapterName((client + round * nClients) % n)])
  cases.push([`${counts.at(-1)} adapters, zipf`, (client, round) => adapterName(zipf(counts.at(-1)!, client * 7_919 + round * 104_729))])
  cases.push(['base and 8 adapters mixed', (client, round) => ((client + round) % 2 === 0 ? 'base' : adapterName(client % 8))])
  const best = new Map<string, LoadResult>()
  for (let round = 0; round < N_ROUNDS; round++) {     // in turn, so that a machine that slows down slows all
    for (const [label, pick] of cases) {
      const result = await bench.load(nClients, seconds / N_ROUNDS, pick)
      if (result.tokensPerSecond > (best.get(label)?.tokensPerSecond ?? 0)) best.set(label, result)
    }
  }
  const ofOne = best.get(cases[1]![0])!.tokensPerSecond
  printTable([`${nClients} clients`, 'tok/s', 'of 1 adapter', 'ttft p50 ms', 'p99', 'inter-token p50 ms', 'p99'],
    [...best].map(([label, result]) =>
    [label, fixed(result.tokensPerSecond), percent(result.tokensPerSecond, ofOne),
      ...[result.ttftMs, result.itlMs].flatMap((times) => [fixed(percentile(times, 0.5)), fixed(percentile(times, 0.99))])]))
}

async function swaps(bench: Bench, registry: AdapterRegistry, nSlots: number, nAdapters: number): Promise<void> {
  const names = Array.from({ length: nAdapters }, (_, i) => adapterName(i))
  const fromDisk: number[] = []
  const fromHost: number[] = []
  for (const name of names.slice(0, N_SWAPS)) {
    dropFromPageCache(registry.store.find(name).path)
    fromDisk.push(await bench.swapIn(name))
  }
  for (const name of names.slice(N_SWAPS, N_SWAPS + nSlots)) await bench.swapIn(name)    // the first ones leave their slots
  for (const name of names.slice(0, N_SWAPS)) fromHost.push(await bench.swapIn(name))
  const row = (label: string, times: number[]) => [label, String(times.length), fixed(percentile(times, 0.5)), fixed(Math.max(...times))]
  printTable(['swap-in', 'n', 'median ms', 'worst ms'], [row('from disk', fromDisk), row('from host memory', fromHost)])
}

/** What a stream of the base notices of adapters that come and go all the time. */
async function swapsBesideStream(bench: Bench, nSlots: number, nAdapters: number): Promise<void> {
  if (nAdapters <= nSlots) return
  const alone = gapsOf(await bench.request('base', 4 * OUTPUT_TOKENS))
  let isOver = false
  const stream = bench.request('base', 4 * OUTPUT_TOKENS).finally(() => { isOver = true })
  const swapMs: number[] = []
  for (let i = 0; !isOver; i++) swapMs.push(await bench.swapIn(adapterName(i % nAdapters)))   // the least recently used leaves: never there
  const row = (label: string, times: readonly number[]) =>
    [label, String(times.length), fixed(percentile(times, 0.5)), fixed(percentile(times, 0.99)), fixed(Math.max(...times))]
  printTable(['one stream of the base', 'n', 'median ms', 'p99', 'worst'], [
    row('between tokens, alone', alone), row('between tokens, beside swaps', gapsOf(await stream)), row('swap-in beside it', swapMs),
  ])
}

function gapsOf(times: readonly number[]): number[] {
  return times.slice(1).map((time, i) => time - times[i]!)
}

/** By posix_fadvise, which dd can call; without it "from disk" is from the page cache, unverified. */
function dropFromPageCache(folder: string): void {
  for (const file of ADAPTER_FILES) spawnSync('dd', [`if=${join(folder, file)}`, 'iflag=nocache', 'count=0', 'status=none'])
}

/** Adapter k is asked for in proportion to 1 / (k + 1). */
function zipf(n: number, seed: number): number {
  const total = Array.from({ length: n }, (_, k) => 1 / (k + 1)).reduce((sum, weight) => sum + weight, 0)
  let rest = (((Math.imul(seed, 2_654_435_761) >>> 0) / 2 ** 32) * total)
  for (let k = 0; k < n; k++) {
    rest -= 1 / (k + 1)
    if (rest <= 0) return k
  }
  return n - 1
}

function printTable(head: readonly string[], rows: ReadonlyArray<readonly string[]>): void {
  console.log(`${formatTable(head, rows)}\n`)
}

const percent = (value: number, of: number): string => `${((100 * value) / of).toFixed(0)} %`

await main()
