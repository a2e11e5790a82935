// Small adapters whose content names them, and an engine that answers with the content of the slot it was told to use.

import { mkdtempSync, rmSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { AdapterRegistry, type RegistryOptions } from '../../adapters/registry.js'
import { AdapterStore } from '../../adapters/store.js'
import type { AdapterHandle, AdapterInfo, LoadAdapterRequest } from '../../engine/api.js'
import { EngineError } from '../../engine/errors.js'

export function temporaryFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'lorikeet-adapters-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A folder in PEFT's layout whose weights are just a word. */
export async function peftFolder(parent: string, content: string): Promise<string> {
  const folder = join(parent, `peft-${content}`)
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'adapter_config.json'), JSON.stringify({ peft_type: 'LORA', r: 8 }))
  await writeFile(join(folder, 'adapter_model.safetensors'), content)
  return folder
}

/** Refuses misuse that a real engine would answer with wrong output: a taken slot, a slot freed under a request. */
export class FakeEngine {
  readonly info = { hash: 'base-1', maxLoras: 8, source: 'fake' }
  state: 'ready' | 'restarting' = 'ready'
  restarts = 0
  loadMs = 0
  loads = 0
  readonly slots = new Map<number, { version: string; content: string; running: number }>()
  readonly faults: string[] = []
  readonly prefetched: string[] = []
  readonly #unloading = new Set<number>()
  refuse: (content: string) => string | undefined = () => undefined

  constructor(maxLoras = 8) {
    this.info.maxLoras = maxLoras
  }

  async validateAdapter(path: string): Promise<AdapterInfo> {
    const content = await readFile(join(path, 'adapter_model.safetensors'), 'utf8')
    const reason = this.refuse(content)
    if (reason !== undefined) throw new EngineError('ADAPTER_INVALID', reason)
    return { rank: 8, bytes: content.length, nTensors: 1, warnings: [] }
  }

  async loadAdapter({ slot, version, path }: LoadAdapterRequest): Promise<AdapterInfo> {
    const { restarts } = this
    if (this.state !== 'ready') throw new EngineError('ENGINE_UNAVAILABLE', 'restarting')
    const present = this.slots.get(slot)
    if (present?.version === version && present.content !== '(loading)') return { rank: 8, bytes: present.content.length, nTensors: 1,
      warnings: [] }
    if (present !== undefined) {
      this.faults.push(`slot ${slot} loaded while taken`)
      throw new EngineError('ADAPTER_EXISTS', `slot ${slot} is taken`)
    }
    if (slot < 0 || slot >= this.info.maxLoras) this.faults.push(`no slot ${slot}`)
    this.slots.set(slot, { version, content: '(loading)', running: 0 })
    if (this.loadMs > 0) await sleep(this.loadMs)
    const content = await readFile(join(path, 'adapter_model.safetensors'), 'utf8').catch(() => undefined)
    if (restarts !== this.restarts) throw new EngineError('ENGINE_RESTARTED', 'restarted')
    if (content === undefined) {
      this.slots.delete(slot)
      throw new EngineError('ADAPTER_NOT_FOUND', `no adapter at ${path}`)
    }
    this.slots.set(slot, { version, content, running: 0 })
    this.loads += 1
    return { rank: 8, bytes: content.length, nTensors: 1, warnings: [] }
  }

  async prefetchAdapter(path: string): Promise<void> {
    this.prefetched.push(await readFile(join(path, 'adapter_model.safetensors'), 'utf8'))
  }

  async unloadAdapter(slot: number): Promise<void> {
    const { restarts } = this
    const loaded = this.slots.get(slot)
    if (loaded === undefined) this.faults.push(`slot ${slot} unloaded while free`)
    if (loaded !== undefined && loaded.running > 0) this.faults.push(`slot ${slot} unloaded under ${loaded.running} requests`)
    this.#unloading.add(slot)
    await sleep(0)
    if (restarts !== this.restarts) throw new EngineError('ENGINE_RESTARTED', 'restarted')
    this.#unloading.delete(slot)
    this.slots.delete(slot)
  }

  /** What the adapter in the slot says, read at the start and at the end of the request. */
  async generate(handle: AdapterHandle, ms: number): Promise<string> {
    const { restarts } = this
    const loaded = this.slots.get(handle.slot)
    if (loaded?.version !== handle.version) throw new Error(`slot ${handle.slot} holds ${loaded?.version}, not ${handle.version}`)
    loaded.running += 1
    await (ms > 0 ? sleep(ms) : undefined)
    loaded.running -= 1
    if (restarts !== this.restarts) throw new EngineError('ENGINE_RESTARTED', 'restarted')
    const after = this.slots.get(handle.slot)
    return after?.content === loaded.content ? loaded.content : `${loaded.content} then ${after?.content}`
  }

  /** A new process: what was loaded is loaded again (or not), what was being loaded or unloaded is gone. */
  restart(isReplayed = true): void {
    this.restarts += 1
    for (const [slot, { content, version }] of this.slots) {
      if (isReplayed && content !== '(loading)' && !this.#unloading.has(slot)) this.slots.set(slot, { version, content, running: 0 })
      else this.slots.delete(slot)
    }
    this.#unloading.clear()
  }
}

export async function openRegistry(root: string, engine: FakeEngine, options: Partial<RegistryOptions> = {}): Promise<AdapterRegistry> {
  const store = await AdapterStore.open(join(root, 'adapters'))
  return new AdapterRegistry({ engine, store, baseNames: ['gemma'], hostBytes: 1 << 20, waitMs: 2_000, allowedRoots: [root], ...options })
}
