// The device tier: which adapter version is in which slot. lru-cache keeps the order of use, the engine obeys. A version is pinned
// from acquire() to release() and never leaves before; loads of one version coalesce; who waits longest gets the next slot.

import { EngineError } from '../engine/errors.js'
import { Gate } from './gate.js'
import { Recency } from './recency.js'
import { handleOf, newEntry, type Entry } from './slot-entry.js'
import { RETRY_AFTER_MS, SlotLoader, isRestart } from './slot-loader.js'
import type { AcquireOptions, SlotLease, SlotsOptions, SlotsStats } from './slot-types.js'
import type { StoredVersion } from './stored-version.js'

export class AdapterSlots {
  readonly #options: SlotsOptions
  readonly #loader: SlotLoader
  readonly #entries = new Map<string, Entry>()         // what a new request for a version joins
  readonly #placed = new Set<Entry>()                  // everything that owns a slot
  readonly #recent: Recency                            // resident, by last use
  #free: number[]
  #queue: Entry[] = []
  #evicting = 0
  #epoch: number
  #drainTimer: NodeJS.Timeout | undefined
  readonly #counts = { loads: 0, loadFailures: 0, evictions: 0, hits: 0, misses: 0, busy: 0 }

  constructor(options: SlotsOptions) {
    this.#options = options
    this.#loader = new SlotLoader(options.engine, options.waitMs)
    this.#recent = new Recency(options.nSlots)
    this.#free = slotsDownFrom(options.nSlots)
    this.#epoch = options.engine.restarts
  }

  /**
   * Pins a version in a slot, loading it where needed.
   * @throws EngineError ADAPTER_SLOTS_BUSY past the deadline, ADAPTER_NOT_FOUND by policy 'error', ABORTED, or why it cannot be loaded
   */
  async acquire(version: StoredVersion, options: AcquireOptions = {}): Promise<SlotLease> {
    const { policy = 'wait', waitMs = this.#options.waitMs, signal, isPermanent = false } = options
    this.followEngine()
    const known = this.#entries.get(version.version)
    const isHit = known?.state === 'resident'
    this.#counts[isHit ? 'hits' : 'misses'] += 1
    if (!isHit && policy === 'error') throw notResident(version)
    if (this.#options.nSlots === 0) throw new EngineError('UNSUPPORTED', 'This server has no adapter slots (set --max-loras)')
    const entry = known ?? this.#begin(version)
    entry.pins += 1
    try {
      await this.#settled(entry, waitMs, signal)
    } catch (error) {
      this.#unpin(entry)
      throw error
    }
    entry.isPermanent ||= isPermanent
    this.#touch(entry)
    return this.#lease(entry, isPermanent)
  }

  /** No new request joins a version any more; its slot is free after the last. */
  discard(version: string): void {
    const entry = this.#entries.get(version)
    if (entry?.state === 'resident') this.#leave(entry)
  }

  isResident(version: string): boolean {
    return this.#entries.get(version)?.state === 'resident'
  }

  /** Requests that hold a version, those on a leaving copy too. */
  pinsOf(version: string): number {
    let pins = this.#entries.get(version)?.pins ?? 0
    for (const entry of this.#placed) if (entry.version.version === version && entry.state === 'leaving') pins += entry.pins
    return pins
  }

  /** Milliseconds since 1970 of the last use; undefined when it is not resident. */
  lastUsedAt(version: string): number | undefined {
    return this.#entries.get(version)?.usedAt
  }

  versionInSlot(slot: number): StoredVersion | undefined {
    for (const entry of this.#placed) if (entry.slot === slot) return entry.version
    return undefined
  }

  /** Versions that are not resident yet, and how many requests wait for each. */
  waiting(): Pick<Entry, 'version' | 'pins'>[] {
    return [...this.#entries.values()].filter(({ state, pins }) => pins > 0 && state !== 'resident')
  }

  stats(): SlotsStats {
    const placed = [...this.#placed]
    const resident = placed.filter(({ state }) => state === 'resident' || state === 'leaving')
    const all = new Set([...placed, ...this.#entries.values()])
    return {
      nSlots: this.#options.nSlots,
      resident: resident.length,
      residentBytes: resident.reduce((sum, { info }) => sum + (info?.bytes ?? 0), 0),
      pinned: [...all].filter(({ pins }) => pins > 0).length,
      pins: [...all].reduce((sum, { pins }) => sum + pins, 0),
      waiting: this.#queue.length,
      ...this.#counts,
    }
  }

  /**
   * Notices that the engine was started anew: everything resident is loaded again into its slot, where the engine has not done so
   * itself. Requests that hold a version find it there by renew().
   */
  followEngine(): void {
    if (this.#options.engine.restarts === this.#epoch) return
    this.#epoch = this.#options.engine.restarts
    const lost = [...this.#placed]
    this.#placed.clear()
    this.#recent.clear()
    this.#evicting = 0
    const isWanted = (entry: Entry) => entry.pins > 0 || entry.state === 'resident'
    for (const entry of lost) if (!isWanted(entry)) this.#fail(entry, abandoned())
    const again = lost.filter(isWanted)
    const taken = new Set(again.map(({ slot }) => slot))
    this.#free = slotsDownFrom(this.#options.nSlots).filter((slot) => !taken.has(slot))
    for (const entry of again) {
      if (entry.state !== 'loading') entry.gate = new Gate()
      void this.#load(entry, entry.slot)
    }
    this.#pump()
  }

  #begin(version: StoredVersion): Entry {
    const entry = newEntry(version)
    this.#entries.set(version.version, entry)
    void this.#prepare(entry)
    return entry
  }

  async #prepare(entry: Entry): Promise<void> {
    try {
      entry.fromHost = await this.#options.prepare(entry.version)
    } catch (error) {
      return this.#fail(entry, error)
    }
    if (entry.pins === 0) return this.#fail(entry, abandoned())
    entry.state = 'queued'
    entry.queuedAt = performance.now()
    this.#queue.push(entry)
    this.#pump()
    if (entry.state === 'queued') void this.#loader.prefetch(entry.version)
  }

  /** Gives slots to the queue: free ones first, then those of unpinned versions, longest unused first. */
  #pump(): void {
    while (this.#queue.length > 0 && this.#free.length > 0) void this.#load(this.#queue.shift()!, this.#free.pop()!)
    while (this.#queue.length > this.#evicting) {
      const victim = this.#recent.leastRecentUnpinned()
      if (victim === undefined) break
      this.#leave(victim)
    }
    this.#drainIfStarving()
  }

  async #load(entry: Entry, slot: number): Promise<void> {
    const epoch = this.#epoch
    entry.state = 'loading'
    entry.slot = slot
    this.#placed.add(entry)
    const startedAt = performance.now()
    try {
      await this.#loader.ready()
      if (epoch === this.#epoch) entry.info = await this.#loader.fill(slot, entry.version)
    } catch (error) {
      if (isRestart(error)) await this.#loader.ready().catch(() => {})
      this.followEngine()
      if (epoch === this.#epoch) this.#loadFailed(entry, error)
      return
    }
    this.followEngine()
    if (epoch !== this.#epoch) return                  // that engine is gone; followEngine loads the entry again
    this.#counts.loads += 1
    const from = entry.info?.fromImage === true ? 'image' : entry.fromHost ? 'host' : 'disk'
    this.#options.onLoad?.((performance.now() - startedAt) / 1000, from)
    this.#loaded(entry)
  }

  #loaded(entry: Entry): void {
    if (this.#entries.get(entry.version.version) === entry) {
      entry.state = 'resident'
      this.#recent.add(entry)
    } else {
      entry.state = 'leaving'                          // was leaving before the engine restarted
      this.#evicting += 1
      if (entry.pins === 0) void this.#evict(entry)
    }
    entry.gate.open()
    this.#pump()
  }

  #loadFailed(entry: Entry, error: unknown): void {
    this.#counts.loadFailures += 1
    this.#placed.delete(entry)
    this.#free.push(entry.slot)
    this.#fail(entry, error)
    this.#pump()
  }

  #fail(entry: Entry, error: unknown): void {
    if (this.#entries.get(entry.version.version) === entry) this.#entries.delete(entry.version.version)
    entry.gate.fail(error)
  }

  /** New requests start over with a new entry; this one goes with its last pin. */
  #leave(entry: Entry): void {
    this.#entries.delete(entry.version.version)
    this.#recent.delete(entry)
    entry.state = 'leaving'
    this.#evicting += 1
    if (entry.pins === 0) void this.#evict(entry)
  }

  async #evict(entry: Entry): Promise<void> {
    const epoch = this.#epoch
    await this.#loader.empty(entry.slot)
    this.followEngine()
    if (epoch !== this.#epoch) return
    this.#placed.delete(entry)
    this.#free.push(entry.slot)
    this.#evicting = Math.max(0, this.#evicting - 1)
    this.#counts.evictions += 1
    this.#pump()
  }

  #drainIfStarving(): void {
    clearTimeout(this.#drainTimer)
    const head = this.#queue[this.#evicting]           // each version that leaves already serves one before it
    if (head === undefined) return
    const waitedMs = performance.now() - head.queuedAt
    const leftMs = this.#options.drainAfterMs - waitedMs
    if (leftMs > 0) {
      this.#drainTimer = setTimeout(() => this.#pump(), leftMs + 1)
      this.#drainTimer.unref()
      return
    }
    const victim = this.#recent.leastPinned()
    if (victim === undefined) return
    this.#leave(victim)
    this.#drainIfStarving()
  }

  #lease(entry: Entry, isPermanent: boolean): SlotLease {
    let isHeld = true
    return {
      get handle() { return handleOf(entry) },
      version: entry.version,
      renew: async () => {
        this.followEngine()
        await this.#settled(entry, this.#options.waitMs)
        return handleOf(entry)
      },
      release: () => {
        if (!isHeld) return
        isHeld = false
        if (isPermanent) entry.isPermanent = false
        this.#touch(entry)
        this.#unpin(entry)
      },
    }
  }

  /** Waits until the entry is in its slot; a restart of the engine meanwhile gives it a new gate to wait at. */
  async #settled(entry: Entry, waitMs: number, signal?: AbortSignal): Promise<void> {
    const deadline = performance.now() + waitMs
    while (entry.state !== 'resident' && entry.state !== 'leaving') {
      const inTime = await entry.gate.wait(deadline - performance.now(), signal)
      if (!inTime) {
        this.#counts.busy += 1
        throw new EngineError('ADAPTER_SLOTS_BUSY',
          `Every adapter slot is in use; adapter '${entry.version.name}' waited ${waitMs} ms for one`,
          { retryAfterMs: RETRY_AFTER_MS })
      }
    }
  }

  #touch(entry: Entry): void {
    entry.usedAt = Date.now()
    this.#recent.touch(entry)
  }

  #unpin(entry: Entry): void {
    entry.pins -= 1
    if (entry.pins > 0) return
    if (entry.state === 'leaving') void this.#evict(entry)
    else if (entry.state === 'queued') this.#abandon(entry)
    else this.#pump()
  }

  /** Nobody waits for it any more, so it needs no slot. */
  #abandon(entry: Entry): void {
    this.#queue = this.#queue.filter((other) => other !== entry)
    this.#fail(entry, abandoned())
  }
}

function slotsDownFrom(nSlots: number): number[] {
  return Array.from({ length: nSlots }, (_, i) => nSlots - 1 - i)
}

function notResident({ name, version }: StoredVersion): EngineError {
  return new EngineError('ADAPTER_NOT_FOUND',
    `Adapter '${name}' (${version.slice(0, 12)}) is not resident, and this request does not wait for a load`, { param: 'model' })
}

function abandoned(): EngineError {
  return new EngineError('ABORTED', 'Nobody waits for this adapter any more')
}
