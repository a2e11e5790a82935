// What the server needs to know of adapters. adapters/ implements it; here is only what a server without adapters does.

import type { MissPolicy } from '../adapters/slot-types.js'
import type { AdapterHandle } from '../engine/api.js'
import { EngineError } from '../engine/errors.js'

/** One name that `model` may take. */
export interface ModelEntry {
  readonly id: string
  /** Unix seconds. */
  readonly created: number
  /** Path or source, as vLLM's `root`. */
  readonly root: string
  /** The base's name for an adapter, null for the base. */
  readonly parent: string | null
}

/** An adapter version held resident (or the base, `adapter` null) from resolve() to release(). */
export interface ModelLease {
  readonly adapter: AdapterHandle | null
  /** The adapter's name, whatever way `model` was written; null for the base. */
  readonly name: string | null
  /** Makes the same version resident again after the engine restarted; its slot may differ. */
  renew(): Promise<AdapterHandle | null>
  /** Idempotent. */
  release(): void
}

export interface AdapterDirectory {
  list(): Promise<readonly ModelEntry[]>
  /**
   * The base or adapter that `model` names, resident and pinned. Aborting the signal gives up waiting.
   * @throws EngineError UNKNOWN_MODEL, ADAPTER_SLOTS_BUSY, ADAPTER_NOT_FOUND by policy 'error', ADAPTER_*.
   */
  resolve(model: string, signal?: AbortSignal, options?: { readonly policy?: MissPolicy }): Promise<ModelLease>
  /** Display name of a device slot, for metrics; undefined when it is free. */
  nameOfSlot(slot: number): string | undefined
  /** Requests that wait until their adapter is resident, by its name. */
  waiting(): ReadonlyMap<string, number>
}

const BASE_LEASE: ModelLease = { adapter: null, name: null, renew: async () => null, release: () => {} }

/** A server with nothing but its base, under one name or several. */
export class BaseOnlyDirectory implements AdapterDirectory {
  readonly #names: readonly string[]
  readonly #root: string
  readonly #created = Math.floor(Date.now() / 1000)

  constructor(names: readonly string[], root: string) {
    this.#names = names
    this.#root = root
  }

  async list(): Promise<readonly ModelEntry[]> {
    return this.#names.map((id) => ({ id, created: this.#created, root: this.#root, parent: null }))
  }

  async resolve(model: string): Promise<ModelLease> {
    if (this.#names.includes(model)) return BASE_LEASE
    throw new EngineError('UNKNOWN_MODEL', `The model '${model}' does not exist on this server; it serves ${this.#names.map((name) => `'${name}'`).join(', ')}.`)
  }

  nameOfSlot(): undefined {
    return undefined
  }

  waiting(): ReadonlyMap<string, number> {
    return new Map()
  }
}
