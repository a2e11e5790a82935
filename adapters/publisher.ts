// From files to a version: checked against the base, then published under a name. Two at a time: the loads of running requests stand
// in the same queue of file operations.

import type { AdapterInfo, Engine } from '../engine/api.js'
import { EngineError } from '../engine/errors.js'
import { asDiskFull } from './durable.js'
import { checkAdapterName } from './names.js'
import { folderUnderRoots } from './roots.js'
import type { Staging } from './staging.js'
import type { AdapterStore, StoredVersion } from './store.js'
import { Turns } from './turns.js'

export interface PublisherOptions {
  readonly engine: Pick<Engine, 'validateAdapter'> & { readonly info: Pick<Engine['info'], 'hash'> }
  readonly store: AdapterStore
  readonly baseNames: readonly string[]
  /** Folders that load requests may read. */
  readonly allowedRoots: readonly string[]
}

const AT_ONCE = 2

export class Publisher {
  readonly #options: PublisherOptions
  readonly #turns = new Turns(AT_ONCE)
  readonly #validated = new Set<string>()             // versions checked against this base

  constructor(options: PublisherOptions) {
    this.#options = options
  }

  /** Takes the staging over, whatever happens. @throws EngineError INVALID_REQUEST, ADAPTER_*, DISK_FULL */
  publish(name: string, staging: Staging, source: string, promote = true): Promise<StoredVersion> {
    return this.#turns.take(() => this.#publishStaged(name, staging, source, promote))
  }

  async publishFolder(name: string, folder: string, isTrusted: boolean): Promise<StoredVersion> {
    this.#checkFree(name)
    const path = isTrusted ? folder : await folderUnderRoots(folder, this.#options.allowedRoots)
    return this.publish(name, await this.#turns.take(() => this.#stageCopy(path)), path)
  }

  /** A version that was published over another base fits this one too, or is refused. @throws EngineError ADAPTER_* */
  async checkBase({ base, version, path }: StoredVersion): Promise<void> {
    if (base === this.#options.engine.info.hash || this.#validated.has(version)) return
    await this.#validate(path)
    this.#validated.add(version)
  }

  async #publishStaged(name: string, staging: Staging, source: string, promote: boolean): Promise<StoredVersion> {
    const { engine, store } = this.#options
    try {
      this.#checkFree(name)
      staging.checkComplete()
      const { rank, nTensors, warnings } = await this.#validate(staging.path)
      const version = await store.publish(name, staging, { base: engine.info.hash, source, rank, nTensors, warnings, promote })
      this.#validated.add(version.version)
      return version
    } catch (error) {
      throw asDiskFull(error)
    } finally {
      await staging.dispose()
    }
  }

  async #stageCopy(folder: string): Promise<Staging> {
    const staging = await this.#options.store.stage()
    try {
      await staging.copyFrom(folder)
      return staging
    } catch (error) {
      await staging.dispose()
      throw asDiskFull(error)
    }
  }

  async #validate(path: string): Promise<AdapterInfo> {
    return this.#options.engine.validateAdapter(path)
  }

  #checkFree(name: string): void {
    checkAdapterName(name)
    if (this.#options.baseNames.includes(name)) throw new EngineError('ADAPTER_EXISTS', `'${name}' is the name of the base`,
      { param: 'name' })
  }
}
