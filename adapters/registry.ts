// Adapters as the server sees them: what `model` means, who holds what, and every change of it. Joins store, host tier and slots.

import type { AdapterHandle, Engine } from '../engine/api.js'
import { EngineError } from '../engine/errors.js'
import { HostTier, type HostTierStats } from './host-tier.js'
import { checkAdapterName, checkVersionPrefix, parseModel } from './names.js'
import { PinnedNames } from './pinned-names.js'
import { Publisher } from './publisher.js'
import type { AcquireOptions, LoadSource, MissPolicy, SlotsStats } from './slot-types.js'
import { AdapterSlots } from './slots.js'
import type { Staging } from './staging.js'
import type { AdapterStatus, VersionStatus } from './status.js'
import { AdapterStore, type StoredVersion } from './store.js'


export type RegistryEngine = Pick<Engine, 'state' | 'restarts' | 'loadAdapter' | 'prefetchAdapter' | 'unloadAdapter' | 'validateAdapter'> & {
  readonly info: Pick<Engine['info'], 'hash' | 'maxLoras' | 'source'>
}

export interface RegistryOptions {
  readonly engine: RegistryEngine
  readonly store: AdapterStore
  /** Names of the base, the first being its display name. */
  readonly baseNames: readonly string[]
  /** Host tier, bytes. */
  readonly hostBytes: number
  /** Longest wait of a request for a slot, ms. */
  readonly waitMs: number
  readonly drainAfterMs?: number
  /** Folders that load requests may read. */
  readonly allowedRoots: readonly string[]
  /** What a request does that finds its adapter not resident, unless it says otherwise. Default: wait. */
  readonly missPolicy?: MissPolicy
}

/** One load into a slot, for a histogram. */
export interface LoadSample {
  readonly seconds: number
  readonly from: LoadSource
}

/** One name that `model` may take. */
export interface ModelEntry {
  readonly id: string
  readonly created: number                // Unix seconds
  readonly root: string
  readonly parent: string | null
}

export interface ModelLease {
  readonly adapter: AdapterHandle | null
  readonly name: string | null
  readonly version: string | null
  renew(): Promise<AdapterHandle | null>
  release(): void
}

const BASE_LEASE: ModelLease = { adapter: null, name: null, version: null, renew: async () => null, release: () => {} }
const DRAIN_AFTER_MS = 1_000
const MAX_LOAD_SAMPLES = 1_024

export class AdapterRegistry {
  readonly store: AdapterStore
  readonly #options: RegistryOptions
  readonly #host: HostTier
  readonly #slots: AdapterSlots
  readonly #pinned: PinnedNames
  readonly #publisher: Publisher
  #loadSamples: LoadSample[] = []
  readonly #createdS = Math.floor(Date.now() / 1000)

  constructor(options: RegistryOptions) {
    const { engine, store, hostBytes, waitMs, drainAfterMs = DRAIN_AFTER_MS } = options
    this.#options = options
    this.store = store
    this.#host = new HostTier({ maxBytes: hostBytes, verify: (version) => store.verify(version) })
    this.#slots = new AdapterSlots({
      engine, nSlots: engine.info.maxLoras, waitMs, drainAfterMs,
      prepare: (version) => this.#prepare(version),
      onLoad: (seconds, from) => { if (this.#loadSamples.length < MAX_LOAD_SAMPLES) this.#loadSamples.push({ seconds, from }) },
    })
    this.#publisher = new Publisher(options)
    this.#pinned = new PinnedNames(this.#slots, store, engine.info.maxLoras)
  }

  /** The base and every served adapter, for /v1/models. */
  async list(): Promise<ModelEntry[]> {
    const { baseNames, engine } = this.#options
    const base = baseNames.map((id) => ({ id, created: this.#createdS, root: engine.info.source, parent: null }))
    const adapters = this.store.names().flatMap((name) => {
      const current = this.#servedCurrent(name)
      if (current === undefined) return []
      return [{ id: name, created: secondsOf(current.createdAt), root: current.path, parent: baseNames[0] ?? null }]
    })
    return [...base, ...adapters]
  }

  /** The entry of a version that `model` pins; undefined where it names none. */
  pinnedEntry(model: string): ModelEntry | undefined {
    const reference = parseModel(model, this.#options.baseNames)
    if (reference?.kind !== 'adapter' || reference.versionPrefix === undefined) return undefined
    if (this.store.record(reference.name)?.served !== true) return undefined
    try {
      const { createdAt, path } = this.store.find(reference.name, reference.versionPrefix)
      return { id: model, created: secondsOf(createdAt), root: path, parent: this.#options.baseNames[0] ?? null }
    } catch {
      return undefined
    }
  }

  /**
   * The base or adapter that `model` names, resident and pinned until release().
   * @throws EngineError UNKNOWN_MODEL, ADAPTER_SLOTS_BUSY, ADAPTER_*: never the base for an adapter that is not there
   */
  async resolve(model: string, signal?: AbortSignal, options: AcquireOptions = {}): Promise<ModelLease> {
    const reference = parseModel(model, this.#options.baseNames)
    if (reference?.kind === 'base') return BASE_LEASE
    if (reference === null || this.store.record(reference.name)?.served !== true) throw this.#unknown(model)
    const version = this.#find(model, reference.name, reference.versionPrefix)
    const policy = options.policy ?? this.#options.missPolicy ?? 'wait'
    const lease = await this.#slots.acquire(version, { ...options, policy, signal })
    return {
      get adapter() { return lease.handle },
      name: version.name,
      version: version.version,
      renew: () => lease.renew(),
      release: () => lease.release(),
    }
  }

  /** Display name of a device slot, for metrics; undefined when it is free. */
  nameOfSlot(slot: number): string | undefined {
    return this.#slots.versionInSlot(slot)?.name
  }

  /** Requests that wait until their adapter is resident, by its name. */
  waiting(): Map<string, number> {
    const byName = new Map<string, number>()
    for (const { version: { name }, pins } of this.#slots.waiting()) byName.set(name, (byName.get(name) ?? 0) + pins)
    return byName
  }

  stats(): SlotsStats & { readonly host: HostTierStats; readonly stored: number } {
    this.#slots.followEngine()
    return { ...this.#slots.stats(), host: this.#host.stats(), stored: this.store.names().length }
  }

  /** Loads since the last call. */
  takeLoadSamples(): LoadSample[] {
    const samples = this.#loadSamples
    this.#loadSamples = []
    return samples
  }

  /**
   * Validates staged files against the base and publishes them under a name. Takes the staging over, whatever happens.
   * @throws EngineError INVALID_REQUEST, ADAPTER_*, DISK_FULL
   */
  async publish(name: string, staging: Staging, source: string, promote = true): Promise<StoredVersion> {
    const version = await this.#publisher.publish(name, staging, source, promote)
    if (promote) await this.#pinned.follow(name)
    return version
  }

  /** Publishes a PEFT folder. `isTrusted`: the operator named it; otherwise it must lie under an allowed root. */
  async publishFolder(name: string, folder: string, isTrusted: boolean): Promise<StoredVersion> {
    const version = await this.#publisher.publishFolder(name, folder, isTrusted)
    await this.#pinned.follow(name)
    return version
  }

  async promote(name: string, version: string): Promise<StoredVersion> {
    const promoted = await this.store.promote(checkAdapterName(name), checkVersionPrefix(version))
    await this.#pinned.follow(name)
    return promoted
  }

  async rollback(name: string): Promise<StoredVersion> {
    const version = await this.store.rollback(checkAdapterName(name))
    await this.#pinned.follow(name)
    return version
  }

  /**
   * vLLM's unload: unknown to requests from now on, after a restart too, until a version is published, promoted or rolled back to.
   * Requests that run keep their version; its files stay.
   */
  async unserve(name: string): Promise<void> {
    await this.store.setServed(checkAdapterName(name), false)
    this.#pinned.release(name)
    for (const { version } of this.store.versions(name)) this.#discard(version)
  }

  async remove(name: string): Promise<void> {
    const versions = await this.store.remove(checkAdapterName(name))
    this.#pinned.release(name)
    for (const { version } of versions) this.#discard(version)
  }

  /**
   * What `model` names: a name with all its versions, or one version. A current one makes way for the one that was before; where
   * there is none, the name goes with it.
   * @throws EngineError UNKNOWN_MODEL; INVALID_REQUEST for the base
   */
  async removeModel(model: string): Promise<void> {
    const reference = parseModel(model, this.#options.baseNames)
    if (reference?.kind === 'base') throw new EngineError('INVALID_REQUEST', 'The base cannot be deleted', { param: 'model' })
    if (reference === null || this.store.record(reference.name) === undefined) throw this.#unknown(model)
    const { name, versionPrefix } = reference
    const { version } = this.#find(model, name, versionPrefix)
    const isCurrent = this.store.current(name) === version
    const hasEarlier = (this.store.record(name)?.stack.length ?? 0) > 1
    if (versionPrefix === undefined || (isCurrent && !hasEarlier)) return this.remove(name)
    if (isCurrent) await this.rollback(name)
    await this.removeVersion(name, version)
  }

  async removeVersion(name: string, version: string): Promise<void> {
    const removed = await this.store.removeVersion(checkAdapterName(name), checkVersionPrefix(version))
    this.#discard(removed.version)
  }

  status(name: string): AdapterStatus {
    const record = this.store.record(checkAdapterName(name))
    if (record === undefined) throw new EngineError('ADAPTER_NOT_FOUND', `There is no adapter '${name}'`)
    const current = record.stack.at(-1) ?? null
    const versions = this.store.versions(name).map((version) => this.#versionStatus(version, current))
    return { name, served: record.served, pinned: this.#pinned.isHeld(name), current, versions }
  }

  statuses(): AdapterStatus[] {
    return this.store.names().map((name) => this.status(name))
  }

  /** Makes an adapter resident ahead of its first request. */
  async warm(name: string): Promise<void> {
    const lease = await this.resolve(name, undefined, { policy: 'wait' })
    lease.release()
  }

  /** Keeps the current version of a name resident, whichever it becomes. @throws EngineError INVALID_REQUEST when no slot would be left */
  async pin(name: string): Promise<void> {
    await this.#pinned.add(checkAdapterName(name))
  }

  /** Before a slot is taken: the bytes are those that were published, and they fit this base. */
  async #prepare(version: StoredVersion): Promise<boolean> {
    const fromHost = await this.#host.admit(version)
    await this.#publisher.checkBase(version)
    return fromHost
  }

  /** A version that no name has any more needs no memory. */
  #discard(version: string): void {
    const served = this.store.names().filter((name) => this.store.record(name)?.served)
    if (served.some((name) => this.store.versions(name).some((other) => other.version === version))) return
    this.#slots.discard(version)
    this.#host.forget(version)
  }

  #find(model: string, name: string, versionPrefix: string | undefined): StoredVersion {
    try {
      return this.store.find(name, versionPrefix)
    } catch (error) {
      if (error instanceof EngineError && error.code === 'ADAPTER_NOT_FOUND') throw this.#unknown(model)
      throw error
    }
  }

  #servedCurrent(name: string): StoredVersion | undefined {
    const record = this.store.record(name)
    const current = record?.stack.at(-1)
    return record?.served === true ? this.store.versions(name).find(({ version }) => version === current) : undefined
  }

  #versionStatus(version: StoredVersion, current: string | null): VersionStatus {
    const tier = this.#slots.isResident(version.version) ? 'device' : this.#host.has(version.version) ? 'host' : 'disk'
    const usedAt = this.#slots.lastUsedAt(version.version)
    return {
      ...version, isCurrent: version.version === current, tier, pins: this.#slots.pinsOf(version.version),
      lastUsedAt: usedAt === undefined ? null : new Date(usedAt).toISOString(),
    }
  }

  #unknown(model: string): EngineError {
    return new EngineError('UNKNOWN_MODEL', `The model ${JSON.stringify(model).slice(0, 120)} does not exist on this server`,
      { param: 'model' })
  }
}

function secondsOf(iso: string): number {
  return Math.floor(Date.parse(iso) / 1000)
}
