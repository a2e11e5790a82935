// Many adapters on few slots under constant change, on a real engine: every answer must be that of the version that the request
// named when it was sent. Each version's answers are recorded beforehand and all differ: an answer names its version.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { fileURLToPath } from 'node:url'
import { AdapterRegistry } from '../adapters/registry.js'
import { AdapterStore } from '../adapters/store.js'
import { createLocalEngine } from '../engine/create-engine.js'
import type { GenerateEvent } from '../engine/api.js'
import type { LocalEngine } from '../engine/engine.js'
import { EngineError } from '../engine/errors.js'
import { readShape, writeRandomAdapter, type LinearShape } from '../adapters/random-adapter.js'
import { compareAnswers, saidIn, type SaidToken } from './same-answer.js'

const USAGE = `usage: npm run adapter-storm -- [--requests 20000] [--adapters 64] [--slots 8] [--clients 24] [--seed 1] [--device cpu]
  Random requests on the embedded model while adapters are published, replaced, promoted, rolled back, unloaded and deleted.
  Fails when an answer is not its version's, a pin or a slot is left, or memory does not come back to where it was.`

export interface StormOptions {
  readonly nRequests: number
  readonly nAdapters: number
  readonly nSlots: number
  readonly nClients: number
  readonly seed: number
  /** "cpu", where answers must be equal to the bit; or "cuda", where they must be as alike as bf16 is. */
  readonly device: string
  readonly say?: (line: string) => void
}

export interface StormReport {
  readonly answers: Record<'right' | 'base' | 'unserved' | 'deleted' | 'left', number>
  readonly changes: Record<Change, number>
  /** Answers that were not their version's, in words. */
  readonly wrong: readonly string[]
  readonly loads: number
  readonly evictions: number
  readonly cachedTokens: number
  /** What is left after the last request, and after every adapter is deleted. */
  readonly pinsLeft: number
  readonly slotsLeft: number
  readonly adapterBytesLeft: number
  /** Resident memory of the process at its end less that after a first pass over all adapters, bytes. */
  readonly rssGrowth: number
}

type Change = 'publish' | 'promote' | 'rollback' | 'unload' | 'delete' | 'deleteVersion'

const N_TOKENS = 6
const N_VERSIONS = 3                       // of each adapter
const MODULES = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
/** One long beginning, so that the prefix cache is used all the time. */
const BEGINNING = Array.from({ length: 64 }, (_, i) => 300 + ((i * 37) % 150))
const PROMPTS = [[2, ...BEGINNING, 310], [2, ...BEGINNING, 355, 320], [2, ...BEGINNING.slice(0, 40), 371]]
/** Hot, with one seed: the slightest difference of two models shows, and the same model says the same. */
const SAMPLING = { temperature: 2, topK: 0, topP: 1, seed: 7 }
const SETTLE_MS = 200
/** Small, so that the first pass has touched all of it: memory of a larger cache would come in with use, and look like a leak. */
const KV_CACHE_BYTES = 8 * 2 ** 20
/** Of resident memory between the first pass over all adapters and the end, bytes: the allocator's slack, not adapters. */
export const MAX_RSS_GROWTH = 64 * 2 ** 20

/** One published content of an adapter: where its files are, and what it answers to each prompt. */
interface Version {
  readonly owner: string
  readonly folder: string
  readonly answers: readonly Answer[]
}

type Answer = readonly SaidToken[]

export class AdapterStorm {
  readonly #options: StormOptions
  readonly #engine: LocalEngine
  readonly #registry: AdapterRegistry
  readonly #folder: string
  readonly #contents = new Map<string, Version[]>()      // by adapter
  readonly #byHash = new Map<string, Version>()
  readonly #answers = { right: 0, base: 0, unserved: 0, deleted: 0, left: 0 }
  readonly #changes: Record<Change, number> = { publish: 0, promote: 0, rollback: 0, unload: 0, delete: 0, deleteVersion: 0 }
  readonly #wrong: string[] = []
  #state: number
  #serial = 0
  #left: number

  constructor(options: StormOptions, engine: LocalEngine, registry: AdapterRegistry, folder: string) {
    this.#options = options
    this.#engine = engine
    this.#registry = registry
    this.#folder = folder
    this.#state = options.seed
    this.#left = options.nRequests
  }

  async run(): Promise<StormReport> {
    const { nRequests, nClients, say = () => {} } = this.#options
    const base = await this.#record()
    say(`${this.#byHash.size} versions recorded, every answer its own`)
    const rssBefore = settledRss()
    const client = async () => {
      while (this.#left-- > 0) await this.#request(base)
    }
    const changes = async () => {
      while (this.#left > 0) await this.#change()
    }
    const timer = setInterval(() => say(`${nRequests - this.#left} requests, ${JSON.stringify(this.#answers)}`), 10_000)
    await Promise.all([changes(), changes(), ...Array.from({ length: nClients }, client)])
    clearInterval(timer)
    return this.#finish(rssBefore)
  }

  /** Writes every version and what it answers when it is alone. */
  async #record(): Promise<readonly Answer[]> {
    const shape = await readShape('engine/embedded')
    const base = await this.#answersOf('base')
    const seen = [...base]
    for (let i = 0; i < this.#options.nAdapters; i++) {
      const name = `adapter-${i}`
      const versions: Version[] = []
      for (let v = 0; v < N_VERSIONS; v++) versions.push(await this.#recordOne(name, `${name}.${v}`, shape, seen))
      this.#contents.set(name, versions)
      await this.#registry.remove(name)
      await this.#publish(name, 0)
    }
    return base
  }

  async #recordOne(owner: string, id: string, shape: LinearShape, seen: Answer[]): Promise<Version> {
    const folder = join(this.#folder, id)
    for (;;) {
      const modules = MODULES.filter(() => this.#below(3) > 0)
      await writeRandomAdapter(folder, { shape, rank: [2, 4, 8][this.#below(3)]!, amplitude: 0.1, modules: [...modules, 'down_proj'] })
      const { version } = await this.#registry.publishFolder(owner, folder, true)
      const answers = await this.#answersOf(owner)
      const isOwn = answers.every((answer, i) => [...seen, ...answers.slice(0, i)].every((other) => !this.#isSame(answer, other)))
      if (!isOwn) continue
      seen.push(...answers)
      const recorded = { owner, folder, answers }
      this.#byHash.set(version, recorded)
      return recorded
    }
  }

  async #answersOf(model: string): Promise<Answer[]> {
    const lease = await this.#registry.resolve(model)
    try {
      const answers: Answer[] = []
      for (let prompt = 0; prompt < PROMPTS.length; prompt++) answers.push(await this.#generate(lease.adapter, prompt))
      return answers
    } finally {
      lease.release()
    }
  }

  async #generate(adapter: { slot: number; version: string } | null, prompt: number, nTokens = N_TOKENS): Promise<Answer> {
    const events: GenerateEvent[] = []
    const request = { id: `storm-${this.#serial++}`, prompt: { tokenIds: PROMPTS[prompt]! }, adapter, maxTokens: N_TOKENS, ignoreEos: true,
      sampling: SAMPLING, ...(this.#isExact ? {} : { logprobs: 20 }) }
    for await (const event of this.#engine.generate(request)) {
      events.push(event)
      if (nTokens < N_TOKENS && saidIn(events).length >= nTokens) break      // a client that leaves
    }
    return saidIn(events)
  }

  async #request(base: readonly Answer[]): Promise<void> {
    const prompt = this.#below(PROMPTS.length)
    if (this.#below(16) === 0) return this.#judge('base', base[prompt]!, await this.#generate(null, prompt))
    const name = this.#someName()
    const model = this.#below(4) === 0 ? this.#pinnedModel(name) : name
    const expected = model === name ? this.#registry.store.current(name) : model.slice(name.length + 1)
    try {
      const lease = await this.#registry.resolve(model)
      try {
        if (lease.version !== expected) this.#wrong.push(`${model} got version ${lease.version}, expected ${expected}`)
        const right = this.#byHash.get(expected!)!.answers[prompt]!
        if (this.#below(12) > 0) this.#judge(model, right, await this.#generate(lease.adapter, prompt))
        else await this.#generate(lease.adapter, prompt, 2).then(() => this.#answers.left++)
      } finally {
        lease.release()
      }
    } catch (error) {
      this.#refused(error)
    }
  }

  #judge(model: string, expected: Answer, answer: Answer): void {
    if (this.#isSame(answer, expected)) this.#answers[model === 'base' ? 'base' : 'right'] += 1
    else this.#wrong.push(`${model} answered ${idsOf(answer)} (${this.#whose(answer)}), expected ${idsOf(expected)}`)
  }

  #whose(answer: Answer): string {
    const versions = [...this.#byHash.values()]
    return versions.find(({ answers }) => answers.some((recorded) => this.#isSame(answer, recorded)))?.folder ?? 'nobody\'s'
  }

  get #isExact(): boolean {
    return !this.#options.device.startsWith('cuda')
  }

  #isSame(a: Answer, b: Answer): boolean {
    return this.#isExact ? idsOf(a) === idsOf(b) : compareAnswers(a, b, false).fault === undefined
  }

  /** Unloaded or deleted before it was sent, or deleted while it waited for its load. */
  #refused(error: unknown): void {
    const code = error instanceof EngineError ? error.code : undefined
    if (code === 'UNKNOWN_MODEL') this.#answers.unserved += 1
    else if (code === 'ADAPTER_NOT_FOUND' || code === 'ADAPTER_INVALID') this.#answers.deleted += 1
    else throw error
  }

  async #change(): Promise<void> {
    const name = `adapter-${this.#below(this.#options.nAdapters)}`
    const { store } = this.#registry
    const versions = store.versions(name)
    const some = versions[this.#below(versions.length)]
    const kind = this.#below(20)
    if (some === undefined || kind < 8) return this.#publish(name, this.#below(N_VERSIONS))
    if (kind < 13) await this.#done('promote', this.#registry.promote(name, some.version))
    else if (kind < 16) await this.#done('rollback', this.#registry.rollback(name))
    else if (kind < 18) await this.#done('unload', this.#registry.unserve(name))
    else if (kind < 19) await this.#done('deleteVersion', this.#registry.removeVersion(name, some.version))
    else await this.#done('delete', this.#registry.remove(name))
  }

  async #publish(name: string, version: number): Promise<void> {
    await this.#done('publish', this.#registry.publishFolder(name, this.#contents.get(name)![version]!.folder, true))
  }

  /** Counts a change; one that another has overtaken is refused, and that is right. */
  async #done(change: Change, promise: Promise<unknown>): Promise<void> {
    try {
      await promise
      this.#changes[change] += 1
    } catch (error) {
      const isOvertaken = error instanceof EngineError && (error.code === 'INVALID_REQUEST' || error.code === 'ADAPTER_NOT_FOUND')
      if (!isOvertaken) throw error
    }
  }

  async #finish(rssBefore: number): Promise<StormReport> {
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS))
    const { pins, loads, evictions } = this.#registry.stats()
    for (const name of this.#registry.store.names()) await this.#registry.remove(name)
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS))
    const { memory, prefixHits } = await this.#engine.stats()
    return {
      answers: this.#answers, changes: this.#changes, wrong: this.#wrong, loads, evictions, cachedTokens: prefixHits, pinsLeft: pins,
      slotsLeft: this.#registry.stats().resident, adapterBytesLeft: memory['adapters'] ?? NaN, rssGrowth: settledRss() - rssBefore,
    }
  }

  /** Some are asked for more than others. */
  #someName(): string {
    return `adapter-${Math.min(this.#below(this.#options.nAdapters), this.#below(this.#options.nAdapters))}`
  }

  #pinnedModel(name: string): string {
    const versions = this.#registry.store.versions(name)
    const version = versions[this.#below(versions.length)]
    return version === undefined ? name : `${name}@${version.version}`
  }

  /** The same choices every run; their timing is the machine's. */
  #below(n: number): number {
    this.#state = (Math.imul(this.#state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((this.#state / 2 ** 32) * n)
  }
}

function idsOf(answer: Answer): string {
  return answer.map(({ token }) => token).join()
}

function settledRss(): number {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  collect()
  return process.memoryUsage().rss
}

export async function runStorm(options: StormOptions): Promise<StormReport> {
  const folder = await mkdtemp(join(tmpdir(), 'lorikeet-storm-'))
  const engine = await createLocalEngine({
    model: '', dataDir: '', device: options.device, compute: 'auto', weights: 'nf4', head: 'auto', isa: 'auto', nThreads: 0, maxModelLen: 512,
    kvCacheBytes: KV_CACHE_BYTES, maxNumSeqs: options.nClients, maxBatchTokens: 512, maxQueue: 1_024, maxLoras: options.nSlots, maxLoraRank: 16,
    prefixCache: true,
  })
  try {
    const store = await AdapterStore.open(join(folder, 'adapters'))
    const registry = new AdapterRegistry({ engine, store, baseNames: ['base'], hostBytes: 2 ** 28, waitMs: 120_000, drainAfterMs: 50,
      allowedRoots: [] })
    return await new AdapterStorm(options, engine, registry, folder).run()
  } finally {
    await engine.close()
    await rm(folder, { recursive: true, force: true })
  }
}

async function main(): Promise<void> {
  const number = (fallback: number) => ({ type: 'string', default: String(fallback) }) as const
  const { values } = parseArgs({ options: { requests: number(20_000), adapters: number(64), slots: number(8), clients: number(24),
    seed: number(1), device: { type: 'string', default: 'cpu' }, help: { type: 'boolean' } } })
  if (values.help) return console.log(USAGE)
  const [nRequests, nAdapters, nSlots, nClients, seed] = [values.requests, values.adapters, values.slots, values.clients, values.seed]
    .map(Number) as [number, number, number, number, number]
  const startedAt = performance.now()
  const report = await runStorm({ nRequests, nAdapters, nSlots, nClients, seed, device: values.device, say: console.log })
  const { wrong, pinsLeft, slotsLeft, adapterBytesLeft, rssGrowth, ...counts } = report
  console.log(JSON.stringify(counts))
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(0)
  console.log(`${nRequests} requests in ${seconds} s: ${wrong.length} wrong, ${pinsLeft} pins left, ${slotsLeft} slots and ` +
    `${adapterBytesLeft} adapter bytes left, resident memory ${(rssGrowth / 2 ** 20).toFixed(1)} MiB more than at the start`)
  for (const line of wrong.slice(0, 20)) console.log(line)
  process.exitCode = wrong.length + pinsLeft + slotsLeft + adapterBytesLeft > 0 || rssGrowth > MAX_RSS_GROWTH ? 1 : 0
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main()
