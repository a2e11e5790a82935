// Adapters on disk: <root>/<name>/<version>/{adapter_config.json, adapter_model.safetensors, manifest.json} and <root>/<name>/adapter.json.
// A version never changes; a publish that returned has survived every crash from then on. Knows nothing of engines and slots.

import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { EngineError } from '../engine/errors.js'
import { flushPath, renameFlushed } from '../engine/durable.js'
import { writeDurable } from './durable.js'
import type { Manifest } from './manifest.js'
import { checkAdapterName } from './names.js'
import { RECORD_FILE, emptyRecord, logged, promotedRecord, publishedRecord, without, type NameRecord } from './record.js'
import { Staging } from './staging.js'
import { TEMPORARY, TRASH, keep, scanStore, type NameState, type StoreScan } from './store-scan.js'
import { faultOf, storedVersion, type StoredVersion } from './stored-version.js'

export type { StoredVersion }

export interface PublishOptions {
  readonly base: string
  readonly source: string
  readonly rank: number
  readonly nTensors: number
  readonly warnings: readonly string[]
  /** Make it the current version. Default true. */
  readonly promote?: boolean
}

const QUARANTINE = '.quarantine'

export class AdapterStore {
  readonly root: string
  readonly #names: Map<string, NameState>
  readonly #queues = new Map<string, Promise<unknown>>()
  /** What the start-up sweep found: shown in the log. */
  readonly swept: string[]

  private constructor(root: string, { names, swept }: StoreScan) {
    this.root = root
    this.#names = names
    this.swept = swept
  }

  /** Reads every record, and removes what a crash left half done; not so a guest, who may stand beside a server at work. */
  static async open(root: string, { isOwner = true } = {}): Promise<AdapterStore> {
    await mkdir(root, { recursive: true })
    return new AdapterStore(root, await scanStore(root, isOwner))
  }

  names(): string[] {
    return [...this.#names.keys()].sort()
  }

  record(name: string): NameRecord | undefined {
    return this.#names.get(name)?.record
  }

  versions(name: string): StoredVersion[] {
    return [...(this.#names.get(name)?.versions.values() ?? [])]
  }

  /** Version that a name stands for; undefined when there is none. */
  current(name: string): string | undefined {
    return this.#names.get(name)?.record.stack.at(-1)
  }

  /**
   * The current version of a name, or the one version that begins with a prefix.
   * @throws EngineError ADAPTER_NOT_FOUND; ADAPTER_INVALID when it was set aside as damaged; INVALID_REQUEST for an ambiguous prefix
   */
  find(name: string, versionPrefix?: string): StoredVersion {
    const state = this.#names.get(name)
    if (state === undefined) throw notFound(`There is no adapter '${name}'`)
    if (versionPrefix !== undefined) return onlyMatch(state, versionPrefix)
    const current = state.record.stack.at(-1)
    if (current === undefined) throw notFound(`Adapter '${name}' has no current version: promote one`)
    const version = state.versions.get(current)
    if (version !== undefined) return version
    throw new EngineError('ADAPTER_INVALID',
      `The current version of adapter '${name}' (${current.slice(0, 12)}) was damaged on disk and set aside: ` +
      'upload it again, promote another version or roll back')
  }

  /** A folder to fill, on the same file system. Whatever is not published from it goes with dispose(). */
  async stage(): Promise<Staging> {
    const path = join(this.root, `${TEMPORARY}${process.pid}-${randomBytes(6).toString('hex')}`)
    await mkdir(path)
    return new Staging(path)
  }

  /**
   * Names the staged files. Returns after files, folders and record are durable; the same content again is the same version.
   * Takes the staging over.
   */
  async publish(name: string, staging: Staging, options: PublishOptions): Promise<StoredVersion> {
    checkAdapterName(name)
    const manifest = await staging.seal(options)
    return this.#exclusive(name, async () => {
      const folder = join(this.root, name)
      if (!existsSync(folder)) {
        await mkdir(folder)
        await flushPath(this.root)
      }
      const known = this.#names.get(name)?.versions.get(manifest.version)
      const version = known ?? (await this.#place(name, staging, manifest))
      if (known !== undefined) await staging.dispose()
      await this.#write(name, publishedRecord(this.record(name) ?? emptyRecord(name), manifest.version, options.promote !== false), version)
      return version
    })
  }

  /** Makes a version the current one. Idempotent. */
  async promote(name: string, versionPrefix: string): Promise<StoredVersion> {
    return this.#exclusive(name, async () => {
      const version = this.find(name, versionPrefix)
      await this.#write(name, promotedRecord(this.#existing(name), version.version, 'promote'))
      return version
    })
  }

  /** Goes back to the version that was current before. @throws EngineError INVALID_REQUEST when there was none */
  async rollback(name: string): Promise<StoredVersion> {
    return this.#exclusive(name, async () => {
      const record = this.#existing(name)
      const stack = record.stack.slice(0, -1)
      while (stack.length > 0 && !this.#names.get(name)?.versions.has(stack.at(-1)!)) stack.pop()
      const version = stack.at(-1)
      if (version === undefined) throw new EngineError('INVALID_REQUEST', `Adapter '${name}' has no earlier version to go back to`,
        { param: 'name' })
      await this.#write(name, { ...record, served: true, stack, history: logged(record, 'rollback', version) })
      return this.find(name)
    })
  }

  /** Shows a name to requests, or hides it and keeps its versions. */
  async setServed(name: string, served: boolean): Promise<void> {
    await this.#exclusive(name, async () => {
      const record = this.#existing(name)
      if (record.served === served) return
      await this.#write(name, { ...record, served, history: logged(record, served ? 'load' : 'unload', record.stack.at(-1) ?? null) })
    })
  }

  /** Deletes a name with all its versions. Returns what they were. */
  async remove(name: string): Promise<StoredVersion[]> {
    return this.#exclusive(name, async () => {
      this.#existing(name)
      const versions = this.versions(name)
      this.#names.delete(name)
      await this.#discard(join(this.root, name))
      return versions
    })
  }

  /** Deletes one version. @throws EngineError INVALID_REQUEST for the current one */
  async removeVersion(name: string, versionPrefix: string): Promise<StoredVersion> {
    return this.#exclusive(name, async () => {
      const version = this.find(name, versionPrefix)
      const record = this.#existing(name)
      if (record.stack.at(-1) === version.version) {
        throw new EngineError('INVALID_REQUEST',
          `${version.version.slice(0, 12)} is the current version of '${name}': promote another one first`, { param: 'version' })
      }
      await this.#write(name, without(record, version.version))
      await this.#discard(version.path)
      return version
    })
  }

  /** Reads a version's files and compares them with its manifest. @throws EngineError ADAPTER_INVALID after setting a damaged one aside */
  async verify(version: StoredVersion): Promise<void> {
    const fault = await faultOf(version)
    if (fault === undefined) return
    await this.#exclusive(version.name, () => this.#quarantine(version, fault))
    throw new EngineError('ADAPTER_INVALID',
      `Version ${version.version.slice(0, 12)} of adapter '${version.name}' is damaged on disk and was set aside: ${fault}`)
  }

  async #quarantine(version: StoredVersion, fault: string): Promise<void> {
    const record = this.record(version.name)
    if (record === undefined || !record.versions.includes(version.version)) return
    await mkdir(join(this.root, QUARANTINE), { recursive: true })
    const place = join(this.root, QUARANTINE, `${version.name}-${version.version}-${randomBytes(4).toString('hex')}`)
    await rename(version.path, place).catch(() => {})
    this.swept.push(`${version.name}@${version.version.slice(0, 12)}: ${fault}`)
    const versions = record.versions.filter((other) => other !== version.version)
    await this.#write(version.name, { ...record, versions, history: logged(record, 'quarantine', version.version) })
  }

  async #place(name: string, staging: Staging, manifest: Manifest): Promise<StoredVersion> {
    const path = join(this.root, name, manifest.version)
    // What stands there under no record is the rest of an earlier attempt that nobody was told of.
    await rm(path, { recursive: true, force: true })
    await renameFlushed(staging.path, path)
    return storedVersion(name, path, manifest)
  }

  /** Makes a record durable, then visible. */
  async #write(name: string, record: NameRecord, added?: StoredVersion): Promise<void> {
    const folder = join(this.root, name)
    const temporary = join(folder, `${TEMPORARY}${randomBytes(6).toString('hex')}`)
    await writeDurable(temporary, [Buffer.from(JSON.stringify(record, null, 2))], Infinity)
    await renameFlushed(temporary, join(folder, RECORD_FILE))
    const known = new Map(this.#names.get(name)?.versions)
    if (added !== undefined) known.set(added.version, added)
    this.#names.set(name, { record, versions: keep(known, record.versions) })
  }

  /** Out of sight at once and for good, then deleted. */
  async #discard(path: string): Promise<void> {
    const trash = join(this.root, `${TRASH}${randomBytes(6).toString('hex')}`)
    await rename(path, trash)
    await flushPath(this.root)
    await rm(trash, { recursive: true, force: true })
  }

  #existing(name: string): NameRecord {
    const record = this.record(name)
    if (record === undefined) throw notFound(`There is no adapter '${name}'`)
    return record
  }

  /** One change at a time to a name. */
  async #exclusive<T>(name: string, change: () => Promise<T>): Promise<T> {
    const before = this.#queues.get(name) ?? Promise.resolve()
    const mine = before.then(change, change)
    const settled = mine.catch(() => {})
    this.#queues.set(name, settled)
    try {
      return await mine
    } finally {
      if (this.#queues.get(name) === settled) this.#queues.delete(name)
    }
  }
}

function onlyMatch(state: NameState, prefix: string): StoredVersion {
  const matches = [...state.versions.values()].filter(({ version }) => version.startsWith(prefix))
  if (matches.length === 1) return matches[0]!
  const { name } = state.record
  if (matches.length === 0) throw notFound(`Adapter '${name}' has no version ${prefix}`)
  throw new EngineError('INVALID_REQUEST', `${prefix} begins ${matches.length} versions of adapter '${name}': give more digits`,
    { param: 'version' })
}

function notFound(message: string): EngineError {
  return new EngineError('ADAPTER_NOT_FOUND', message)
}
