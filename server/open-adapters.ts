// The adapters of one server: the store in the data directory, what --adapter names published into it, pinned ones resident.

import { join } from 'node:path'
import { checkAdapterName } from '../adapters/names.js'
import { AdapterRegistry } from '../adapters/registry.js'
import { AdapterStore } from '../adapters/store.js'
import type { Engine } from '../engine/api.js'
import { EngineError } from '../engine/errors.js'
import type { AdapterDirectory } from './adapter-directory.js'
import type { ServerConfig } from './config.js'

export type Say = (message: string) => void

/** @throws EngineError when an adapter that the command line names cannot be served */
export async function openAdapters(config: ServerConfig, engine: Engine, say: Say = () => {}): Promise<AdapterRegistry> {
  const store = await AdapterStore.open(join(config.dataDir, 'adapters'))
  for (const line of store.swept) say(`adapters: ${line}`)
  const registry = new AdapterRegistry({
    engine,
    store,
    baseNames: config.modelNames,
    hostBytes: config.adapterHostBytes,
    waitMs: config.adapterWait,
    allowedRoots: config.adapterRoot,
    missPolicy: config.adapterMiss,
  })
  for (const { name, path } of config.adapter) {
    const { version } = await registry.publishFolder(checkAdapterName(name, '--adapter'), path, true)
    say(`adapters: ${name} is version ${version.slice(0, 12)}, from ${path}`)
  }
  for (const name of config.adapterPin) {
    await registry.pin(name)
    if (!registry.status(name).served) say(`adapters: ${name} is unloaded; it will be pinned once it is loaded again`)
  }
  const pinned = new Set(config.adapterPin)
  const nSlotsLeft = Math.max(0, engine.info.maxLoras - pinned.size)
  const warm = config.adapter.map(({ name }) => name).filter((name) => !pinned.has(name)).slice(0, nSlotsLeft)
  for (const name of warm) await registry.warm(name)
  return registry
}

/** The registry behind the routes that change adapters. @throws EngineError UNSUPPORTED when the server has none */
export function adapterRegistry(directory: AdapterDirectory): AdapterRegistry {
  if (directory instanceof AdapterRegistry) return directory
  throw new EngineError('UNSUPPORTED', 'This server serves its base only')
}
