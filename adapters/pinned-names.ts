// Names that the configuration keeps resident: whatever version is current holds a slot for good, from the moment the name has one.

import { EngineError } from '../engine/errors.js'
import type { AdapterSlots } from './slots.js'
import type { AdapterStore } from './store.js'

interface Hold {
  readonly version: string
  release(): void
}

export class PinnedNames {
  readonly #slots: AdapterSlots
  readonly #store: AdapterStore
  readonly #nSlots: number
  readonly #holds = new Map<string, Hold | undefined>()   // undefined: unloaded or deleted, pinned again when it comes back

  constructor(slots: AdapterSlots, store: AdapterStore, nSlots: number) {
    this.#slots = slots
    this.#store = store
    this.#nSlots = nSlots
  }

  isHeld(name: string): boolean {
    return this.#holds.get(name) !== undefined
  }

  /**
   * Resolves when the current version is resident; at once while the name is unloaded.
   * @throws EngineError INVALID_REQUEST when no slot would be left
   */
  async add(name: string): Promise<void> {
    if (!this.#holds.has(name) && this.#holds.size + 1 >= this.#nSlots) {
      throw new EngineError('INVALID_REQUEST', `${this.#holds.size + 1} pinned adapters leave none of ${this.#nSlots} slots to others`)
    }
    const version = this.#store.find(name)
    if (!this.#holds.has(name)) this.#holds.set(name, undefined)
    if (this.#store.record(name)?.served === true) await this.#hold(name, version.version)
  }

  /** The name may stand for another version now, or be served again: that one is held, the old one let go. */
  async follow(name: string): Promise<void> {
    if (!this.#holds.has(name)) return
    const current = this.#store.current(name)
    if (current === undefined || this.#holds.get(name)?.version === current) return
    this.release(name)
    await this.#hold(name, current)
  }

  /** Unloaded or deleted. */
  release(name: string): void {
    this.#holds.get(name)?.release()
    if (this.#holds.has(name)) this.#holds.set(name, undefined)
  }

  async #hold(name: string, version: string): Promise<void> {
    const lease = await this.#slots.acquire(this.#store.find(name, version), { isPermanent: true })
    const isStill = this.#store.record(name)?.served === true && this.#store.current(name) === version
    if (!isStill) return lease.release()                // unloaded or replaced while it was being loaded
    this.#holds.get(name)?.release()
    this.#holds.set(name, { version, release: () => lease.release() })
  }
}
