// The folder of a stored adapter, for commands that run beside a server: the store is only read, never swept.

import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { EngineError } from '../engine/errors.js'
import { ADAPTER_FILES } from './manifest.js'
import { parseModel } from './names.js'
import { parseRecord, RECORD_FILE } from './record.js'

/** A PEFT folder, or NAME or NAME@VERSION of the store below `dataDir`. @throws EngineError ADAPTER_NOT_FOUND */
export async function adapterFolder(reference: string, dataDir: string): Promise<string> {
  if (existsSync(join(reference, ADAPTER_FILES[0]))) return reference
  const parsed = parseModel(reference, [])
  if (parsed?.kind === 'adapter') {
    const folder = join(dataDir, 'adapters', parsed.name)
    const record = await readFile(join(folder, RECORD_FILE), 'utf8').then(parseRecord).catch(() => undefined)
    const { versionPrefix } = parsed
    const version = versionPrefix === undefined ? record?.stack.at(-1) : record?.versions.find((name) => name.startsWith(versionPrefix))
    if (version !== undefined && existsSync(join(folder, version))) return join(folder, version)
  }
  throw new EngineError('ADAPTER_NOT_FOUND',
    `"${reference}" is neither a folder with ${ADAPTER_FILES[0]} nor an adapter stored below ${dataDir}`)
}
