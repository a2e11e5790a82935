// What the device tier is asked for and what it gives: options, leases, counters.

import type { AdapterHandle } from '../engine/api.js'
import type { SlotEngine } from './slot-loader.js'
import type { StoredVersion } from './stored-version.js'

/** Where the bytes of a load were: in host memory as a GPU takes them, in files held in host memory, or in files. */
export type LoadSource = 'image' | 'host' | 'disk'

export type MissPolicy = 'wait' | 'error'

export interface SlotsOptions {
  readonly engine: SlotEngine
  readonly nSlots: number
  /** Checks and reads the files before a slot is taken, so that a bad adapter costs no good one its place. True: from host memory. */
  readonly prepare: (version: StoredVersion) => Promise<boolean>
  /** Longest wait of one acquire, ms. */
  readonly waitMs: number
  /** With every slot pinned, a load that waited this long makes the least pinned version leave after its last request. */
  readonly drainAfterMs: number
  readonly onLoad?: (seconds: number, from: LoadSource) => void
}

export interface AcquireOptions {
  readonly policy?: MissPolicy
  readonly waitMs?: number
  readonly signal?: AbortSignal
  /** Held for good, by configuration: never chosen to leave for those that wait. */
  readonly isPermanent?: boolean
}

/** A version held in its slot. */
export interface SlotLease {
  readonly handle: AdapterHandle
  readonly version: StoredVersion
  /** The same version in the engine that runs now. @throws EngineError */
  renew(): Promise<AdapterHandle>
  /** Idempotent. */
  release(): void
}

export interface SlotsStats {
  readonly nSlots: number
  readonly resident: number
  readonly residentBytes: number
  readonly pinned: number                 // versions with a pin
  readonly pins: number                   // requests that hold one
  readonly waiting: number                // loads that wait for a slot
  readonly loads: number
  readonly loadFailures: number
  readonly evictions: number
  readonly hits: number
  readonly misses: number
  readonly busy: number                   // acquires that gave up waiting
}
