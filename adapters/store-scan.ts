// The store as a start finds it: every record and version, and what a crash left half done, removed by the one who owns the store.

import { existsSync } from 'node:fs'
import { readFile, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { MANIFEST_FILE, parseManifest } from './manifest.js'
import { isAdapterName, isVersion } from './names.js'
import { RECORD_FILE, parseRecord, rebuiltRecord, type NameRecord } from './record.js'
import { storedVersion, type StoredVersion } from './stored-version.js'

export const TEMPORARY = '.tmp-'
export const TRASH = '.trash-'

export interface NameState {
  readonly record: NameRecord
  readonly versions: ReadonlyMap<string, StoredVersion>
}

export interface StoreScan {
  readonly names: Map<string, NameState>
  /** What was removed, rebuilt or left alone, in words. */
  readonly swept: string[]
}

/** A guest (not the owner) reads only. */
export async function scanStore(root: string, isOwner: boolean): Promise<StoreScan> {
  const scan = new Scan(root, isOwner)
  for (const entry of await readdir(root, { withFileTypes: true })) {
    if (entry.name.startsWith(TEMPORARY) || entry.name.startsWith(TRASH)) await scan.sweep(join(root, entry.name))
    else if (entry.isDirectory() && isAdapterName(entry.name)) await scan.readName(entry.name)
  }
  return scan
}

class Scan implements StoreScan {
  readonly names = new Map<string, NameState>()
  readonly swept: string[] = []
  readonly #root: string
  readonly #isOwner: boolean

  constructor(root: string, isOwner: boolean) {
    this.#root = root
    this.#isOwner = isOwner
  }

  async readName(name: string): Promise<void> {
    const folder = join(this.#root, name)
    for (const entry of await readdir(folder)) if (entry.startsWith(TEMPORARY)) await this.sweep(join(folder, entry))
    if (!existsSync(join(folder, RECORD_FILE))) return this.#sweepUnnamed(name, folder)
    const record = await readFile(join(folder, RECORD_FILE), 'utf8').then(parseRecord).catch(() => undefined)
    const found = new Map<string, StoredVersion>()
    for (const entry of (await readdir(folder)).filter(isVersion)) {
      if (record?.versions.includes(entry) === false) {
        await this.sweep(join(folder, entry))        // renamed into place, but the publish was never acknowledged
        continue
      }
      const manifest = await readFile(join(folder, entry, MANIFEST_FILE), 'utf8').then(parseManifest).catch(() => undefined)
      if (manifest?.version === entry) found.set(entry, storedVersion(name, join(folder, entry), manifest))
    }
    if (record === undefined) this.swept.push(`${name}: record unreadable, rebuilt from its versions`)
    const effective = record ?? rebuiltRecord(name, [...found.values()])
    this.names.set(name, { record: effective, versions: keep(found, effective.versions) })
  }

  /** A first publish that did not finish; a folder with anything else in it is not ours to delete. */
  async #sweepUnnamed(name: string, folder: string): Promise<void> {
    if ((await readdir(folder)).every(isVersion)) return this.sweep(folder)
    this.swept.push(`${name}: not written by this store, left alone (publish it with: lorikeet adapters add ${name} ${folder})`)
  }

  async sweep(path: string): Promise<void> {
    if (!this.#isOwner) return
    await rm(path, { recursive: true, force: true })
    this.swept.push(`${path.slice(this.#root.length + 1)}: left by an interrupted run, removed`)
  }
}

/** In the order of the keys. */
export function keep<V>(map: ReadonlyMap<string, V>, keys: readonly string[]): Map<string, V> {
  return new Map(keys.flatMap((key) => (map.has(key) ? [[key, map.get(key)!] as const] : [])))
}
