// Resident versions by their last use, in lru-cache: which of them leaves when another needs its slot.

import { LRUCache } from 'lru-cache'
import type { Entry } from './slot-entry.js'

export class Recency {
  readonly #entries: LRUCache<string, Entry>

  constructor(nSlots: number) {
    this.#entries = new LRUCache({ max: Math.max(1, nSlots) })
  }

  add(entry: Entry): void {
    this.#entries.set(entry.version.version, entry)
  }

  touch({ version }: Entry): void {
    this.#entries.get(version.version)
  }

  delete({ version }: Entry): void {
    this.#entries.delete(version.version)
  }

  clear(): void {
    this.#entries.clear()
  }

  leastRecentUnpinned(): Entry | undefined {
    return this.#leastRecent(({ pins }) => pins === 0)
  }

  /** For when all are pinned: the one that the fewest requests hold, never one that the configuration does. */
  leastPinned(): Entry | undefined {
    const candidates = [...this.#entries.values()].filter(({ isPermanent }) => !isPermanent)
    const fewestPins = Math.min(...candidates.map(({ pins }) => pins))
    return this.#leastRecent(({ isPermanent, pins }) => !isPermanent && pins === fewestPins)
  }

  #leastRecent(isCandidate: (entry: Entry) => boolean): Entry | undefined {
    for (const entry of this.#entries.rvalues()) if (entry !== undefined && isCandidate(entry)) return entry
    return undefined
  }
}
