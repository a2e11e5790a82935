// Which folders a request may have read: those under the configured roots, in truth and not only by name.

import { readdir, realpath, stat } from 'node:fs/promises'
import { join, resolve, sep } from 'node:path'
import { EngineError } from '../engine/errors.js'
import { ADAPTER_FILES } from './manifest.js'

/**
 * The real path of an adapter's folder under one of the roots; a relative path is taken from there. Links are followed, and the
 * folder and both files have to be inside after that, too.
 * @throws EngineError ADAPTER_NOT_FOUND, INVALID_REQUEST
 */
export async function folderUnderRoots(folder: string, roots: readonly string[]): Promise<string> {
  for (const root of roots) {
    const path = resolve(root, folder)
    if (!isInside(resolve(root), path) || folder.includes('\0')) continue
    const paths = [root, path, ...ADAPTER_FILES.map((file) => join(path, file))]
    const [realRoot, realFolder, ...files] = await Promise.all(paths.map(realPathOf))
    if (realFolder === undefined) throw new EngineError('ADAPTER_NOT_FOUND', 'There is no adapter folder at this path',
      { param: 'lora_path' })
    const isContained = realRoot !== undefined && [realFolder, ...files].every((part) => part === undefined || isInside(realRoot, part))
    if (isContained) return realFolder
  }
  throw new EngineError('INVALID_REQUEST',
    'Adapters are loaded only from folders under --adapter-root; any other can be sent to POST /admin/adapters',
    { param: 'lora_path' })
}

/**
 * The real path of a data file or folder under one of the roots. Links are followed, and what they lead to has to be inside too,
 * as has every file of a folder.
 * @throws EngineError INVALID_REQUEST
 */
export async function dataUnderRoots(path: string, roots: readonly string[], param: string): Promise<string> {
  for (const root of roots) {
    const named = resolve(root, path)
    if (!isInside(resolve(root), named) || path.includes('\0')) continue
    const [realRoot, found] = await Promise.all([realPathOf(root), realPathOf(named)])
    if (found === undefined) {
      throw new EngineError('INVALID_REQUEST', `There is no data at ${JSON.stringify(path).slice(0, 200)}`, { param })
    }
    if (realRoot === undefined || !isInside(realRoot, found)) continue
    const entries = (await stat(found)).isDirectory() ? await readdir(found) : []
    const files = await Promise.all(entries.map((name) => realPathOf(join(found, name))))
    if (files.every((file) => file !== undefined && isInside(realRoot, file))) return found
  }
  throw new EngineError('INVALID_REQUEST',
    'Data is read only from folders under --train-root; any other file can be sent to POST /v1/files', { param })
}

function realPathOf(path: string): Promise<string | undefined> {
  return realpath(path).catch(() => undefined)
}

function isInside(root: string, path: string): boolean {
  return path === root || path.startsWith(root.endsWith(sep) ? root : root + sep)
}
