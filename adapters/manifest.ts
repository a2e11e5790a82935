// What a version is: its two files by digest, and the manifest written beside them, last and for good.

import { createHash } from 'node:crypto'
import type { FileDigest } from '../engine/durable.js'

export const ADAPTER_FILES = ['adapter_config.json', 'adapter_model.safetensors'] as const
export type AdapterFileName = (typeof ADAPTER_FILES)[number]
export const MANIFEST_FILE = 'manifest.json'

/** Largest files taken, bytes. */
export const MAX_FILE_BYTES: Readonly<Record<AdapterFileName, number>> = {
  'adapter_config.json': 1 << 20,
  'adapter_model.safetensors': 2 ** 31,
}

export interface Manifest {
  readonly format: 1
  readonly version: string
  /** Hash of the base that it was validated against. */
  readonly base: string
  readonly createdAt: string              // ISO 8601, UTC
  /** Where it came from: "upload", a path, a job id. */
  readonly source: string
  readonly rank: number
  readonly nTensors: number
  readonly warnings: readonly string[]
  readonly files: Readonly<Record<AdapterFileName, FileDigest>>
}

/** A version is named by its content: config and weights, whatever their name, origin or date. */
export function versionOf(files: Readonly<Record<AdapterFileName, FileDigest>>): string {
  const hash = createHash('sha256').update('lorikeet-adapter-1\n')
  for (const name of ADAPTER_FILES) hash.update(`${name} ${files[name].sha256}\n`)
  return hash.digest('hex')
}

/** @throws Error when the text is not a manifest, or its version is not that of its files */
export function parseManifest(text: string): Manifest {
  const manifest = JSON.parse(text) as Manifest
  const complete = manifest.format === 1 && ADAPTER_FILES.every((name) => /^[0-9a-f]{64}$/.test(manifest.files?.[name]?.sha256))
  if (!complete || versionOf(manifest.files) !== manifest.version) throw new Error('not a manifest of this format')
  return manifest
}
