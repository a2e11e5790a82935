// The host tier: versions whose files were read, compared with their manifest and are in the page cache, within a budget of bytes.
// A device load of such a version reads memory only. Verification happens here, once per file state, never per request.

import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { LRUCache } from 'lru-cache'
import { ADAPTER_FILES } from './manifest.js'
import type { StoredVersion } from './stored-version.js'

export interface HostTierOptions {
  /** Largest total of the versions kept, bytes. */
  readonly maxBytes: number
  /** Reads every byte. @throws EngineError ADAPTER_INVALID when they are not those that were published */
  readonly verify: (version: StoredVersion) => Promise<void>
}

export interface HostTierStats {
  readonly versions: number
  readonly bytes: number
  readonly hits: number
  readonly misses: number
  readonly evictions: number
}

interface HostEntry {
  readonly bytes: number
  /** Inode, size and time of each file when it was verified. */
  readonly fileStates: string
}

export class HostTier {
  readonly #cache: LRUCache<string, HostEntry>
  readonly #verify: HostTierOptions['verify']
  readonly #reading = new Map<string, Promise<void>>()
  #hits = 0
  #misses = 0
  #evictions = 0

  constructor({ maxBytes, verify }: HostTierOptions) {
    this.#verify = verify
    this.#cache = new LRUCache({
      maxSize: Math.max(1, maxBytes),
      sizeCalculation: ({ bytes }) => Math.max(1, bytes),
      dispose: (_entry, _version, reason) => { if (reason === 'evict') this.#evictions += 1 },
    })
  }

  has(version: string): boolean {
    return this.#cache.has(version)
  }

  /** Verifies and reads a version, or finds it here. Calls for the same version coalesce. True: it was here. */
  async admit(version: StoredVersion): Promise<boolean> {
    const fileStates = await fileStatesOf(version)
    if (fileStates !== undefined && this.#cache.get(version.version)?.fileStates === fileStates) {
      this.#hits += 1
      return true
    }
    const reading = this.#reading.get(version.version) ?? this.#read(version, fileStates)
    await reading
    return false
  }

  forget(version: string): void {
    this.#cache.delete(version)
  }

  stats(): HostTierStats {
    const { size: versions, calculatedSize: bytes } = this.#cache
    return { versions, bytes, hits: this.#hits, misses: this.#misses, evictions: this.#evictions }
  }

  #read(version: StoredVersion, fileStates: string | undefined): Promise<void> {
    this.#misses += 1
    this.#cache.delete(version.version)
    const reading = this.#verify(version)
      .then(() => { if (fileStates !== undefined) this.#cache.set(version.version, { bytes: version.bytes, fileStates }) })
      .finally(() => this.#reading.delete(version.version))
    this.#reading.set(version.version, reading)
    return reading
  }
}

async function fileStatesOf(version: StoredVersion): Promise<string | undefined> {
  const states = ADAPTER_FILES.map(async (file) => {
    const { ino, size, mtimeMs } = await stat(join(version.path, file))
    return `${ino}:${size}:${mtimeMs}`
  })
  return (await Promise.all(states).catch(() => undefined))?.join(' ')
}
