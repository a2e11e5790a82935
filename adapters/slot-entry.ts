// One version on its way into, in, or out of a device slot.

import type { AdapterHandle, AdapterInfo } from '../engine/api.js'
import { Gate } from './gate.js'
import type { StoredVersion } from './stored-version.js'

/** preparing -> queued -> loading -> resident -> leaving; back to loading when the engine restarts. */
export type EntryState = 'preparing' | 'queued' | 'loading' | 'resident' | 'leaving'

export interface Entry {
  readonly version: StoredVersion
  state: EntryState
  slot: number
  pins: number
  isPermanent: boolean
  gate: Gate
  fromHost: boolean
  queuedAt: number
  usedAt: number
  info: AdapterInfo | undefined
}

export function newEntry(version: StoredVersion): Entry {
  return {
    version, state: 'preparing', slot: -1, pins: 0, isPermanent: false, gate: new Gate(), fromHost: false, queuedAt: 0, usedAt: Date.now(),
      info: undefined,
  }
}

export function handleOf({ slot, version }: Entry): AdapterHandle {
  return { slot, version: version.version }
}
