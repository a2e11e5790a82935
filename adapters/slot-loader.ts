// The engine as slots use it: filled, emptied, and waited for while it restarts.

import { setTimeout as sleep } from 'node:timers/promises'
import type { AdapterInfo, Engine } from '../engine/api.js'
import { EngineError } from '../engine/errors.js'
import type { StoredVersion } from './stored-version.js'

export type SlotEngine = Pick<Engine, 'state' | 'restarts' | 'loadAdapter' | 'prefetchAdapter' | 'unloadAdapter'>

/** What a client that found no slot or no engine is told, ms. */
export const RETRY_AFTER_MS = 1_000
const POLL_MS = 20

export class SlotLoader {
  readonly #engine: SlotEngine
  readonly #waitMs: number

  constructor(engine: SlotEngine, waitMs: number) {
    this.#engine = engine
    this.#waitMs = waitMs
  }

  /** @throws EngineError ENGINE_UNAVAILABLE when it is not back in time, or for good */
  async ready(): Promise<void> {
    const deadline = performance.now() + this.#waitMs
    while (this.#engine.state !== 'ready') {
      const isHopeless = this.#engine.state === 'failed' || this.#engine.state === 'closed'
      if (isHopeless || performance.now() > deadline) {
        throw new EngineError('ENGINE_UNAVAILABLE', 'The engine is not running', { retryAfterMs: RETRY_AFTER_MS })
      }
      await sleep(POLL_MS)
    }
  }

  /** The slot is ours: what an engine that restarted in the midst of an unload may have brought back to it goes first. */
  async fill(slot: number, { version, path }: StoredVersion): Promise<AdapterInfo> {
    try {
      return await this.#engine.loadAdapter({ slot, version, path })
    } catch (error) {
      if (!(error instanceof EngineError) || error.code !== 'ADAPTER_EXISTS') throw error
      await this.#engine.unloadAdapter(slot)
      return this.#engine.loadAdapter({ slot, version, path })
    }
  }

  /** The engine brings it near while it waits for a slot. Without a fault: what is wrong shows when a slot is filled. */
  async prefetch({ path }: StoredVersion): Promise<void> {
    await this.#engine.prefetchAdapter(path).catch(() => {})
  }

  /** An engine that died has freed the slot as well; any other fault shows when it is filled again. */
  async empty(slot: number): Promise<void> {
    await this.#engine.unloadAdapter(slot).catch(() => {})
  }
}

export function isRestart(error: unknown): boolean {
  return error instanceof EngineError && (error.code === 'ENGINE_RESTARTED' || error.code === 'ENGINE_UNAVAILABLE')
}
