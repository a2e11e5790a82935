// Which adapter version sits in which device slot, and how many requests use it.

import type { AdapterHandle, AdapterInfo, LoadAdapterRequest } from './api.js'
import { EngineError } from './errors.js'
import { type NativeModel, toEngineError } from './native.js'

interface Resident {
  readonly version: string
  state: 'loading' | 'ready' | 'leaving'
  info: AdapterInfo | undefined
  pins: number
  onUnpinned: () => void
}

export class AdapterTable {
  readonly #model: NativeModel
  readonly #maxLoras: number
  readonly #residents = new Map<number, Resident>()

  constructor(model: NativeModel, maxLoras: number) {
    this.#model = model
    this.#maxLoras = maxLoras
  }

  /**
   * Loading what the slot holds already is no error: after a restart both sides may do it.
   * @throws EngineError ADAPTER_EXISTS for a slot in use, ADAPTER_*
   */
  async load({ slot, version, path }: LoadAdapterRequest): Promise<AdapterInfo> {
    if (!Number.isInteger(slot) || slot < 0 || slot >= this.#maxLoras) {
      throw new EngineError('INVALID_REQUEST', `slot: expected an integer in [0, ${this.#maxLoras}), got ${slot}`, { param: 'slot' })
    }
    const present = this.#residents.get(slot)
    if (present?.state === 'ready' && present.version === version && present.info !== undefined) return present.info
    if (present !== undefined) throw new EngineError('ADAPTER_EXISTS', `adapter slot ${slot} is in use`)
    const resident: Resident = { version, state: 'loading', info: undefined, pins: 0, onUnpinned: () => {} }
    this.#residents.set(slot, resident)
    try {
      const info = await this.#model.loadAdapter(slot, path)
      resident.state = 'ready'
      resident.info = info
      return info
    } catch (error) {
      this.#residents.delete(slot)
      throw toEngineError(error)
    }
  }

  /** Refuses new requests at once, waits for the last one, then frees the slot. */
  async unload(slot: number): Promise<void> {
    const resident = this.#residents.get(slot)
    if (resident?.state !== 'ready') throw new EngineError('ADAPTER_NOT_FOUND', `no adapter is ready in slot ${slot}`)
    resident.state = 'leaving'
    if (resident.pins > 0) await new Promise<void>((resolve) => { resident.onUnpinned = resolve })
    try {
      await this.#model.unloadAdapter(slot)
    } catch (error) {
      throw toEngineError(error)
    } finally {
      this.#residents.delete(slot)
    }
  }

  /** @throws EngineError ADAPTER_NOT_FOUND when the slot does not hold exactly this version, ready */
  pin(handle: AdapterHandle | null): void {
    if (handle === null) return
    const resident = this.#residents.get(handle.slot)
    if (resident?.state !== 'ready' || resident.version !== handle.version) {
      throw new EngineError('ADAPTER_NOT_FOUND', `adapter version ${handle.version} is not in slot ${handle.slot}`, { param: 'model' })
    }
    resident.pins++
  }

  unpin(handle: AdapterHandle | null): void {
    const resident = handle === null ? undefined : this.#residents.get(handle.slot)
    if (resident !== undefined && --resident.pins === 0) resident.onUnpinned()
  }
}
