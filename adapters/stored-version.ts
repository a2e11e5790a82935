// One version on disk, as everyone outside the store sees it, and whether its files still are those that were published.

import { join } from 'node:path'
import { digestFile } from '../engine/durable.js'
import { ADAPTER_FILES, type Manifest } from './manifest.js'

export interface StoredVersion extends Manifest {
  readonly name: string
  /** Folder with PEFT's two files. */
  readonly path: string
  readonly bytes: number
}

export function storedVersion(name: string, path: string, manifest: Manifest): StoredVersion {
  const bytes = ADAPTER_FILES.reduce((sum, file) => sum + manifest.files[file].bytes, 0)
  return { ...manifest, name, path, bytes }
}

/** In words; undefined where every byte is as published. */
export async function faultOf(version: StoredVersion): Promise<string | undefined> {
  for (const file of ADAPTER_FILES) {
    const digest = await digestFile(join(version.path, file)).catch((error: Error) => error)
    if (digest instanceof Error) return `${file} cannot be read`
    const expected = version.files[file]
    if (digest.bytes !== expected.bytes) return `${file} has ${digest.bytes} bytes instead of ${expected.bytes}`
    if (digest.sha256 !== expected.sha256) return `${file} has other content than was published`
  }
  return undefined
}
