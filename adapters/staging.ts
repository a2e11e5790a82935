// A folder that is being filled before it gets a name: an upload, a copy of a PEFT folder, the result of a training job.

import { createReadStream } from 'node:fs'
import { readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { EngineError } from '../engine/errors.js'
import { flushPath, type FileDigest } from '../engine/durable.js'
import { FileTooLarge, writeDurable } from './durable.js'
import { ADAPTER_FILES, MANIFEST_FILE, MAX_FILE_BYTES, versionOf } from './manifest.js'
import type { AdapterFileName, Manifest } from './manifest.js'

export class Staging {
  readonly path: string
  readonly #files = new Map<AdapterFileName, FileDigest>()

  constructor(path: string) {
    this.path = path
  }

  /** Writes one of PEFT's two files. @throws EngineError ADAPTER_INVALID for another file, a second one of a name, or too many bytes */
  async write(name: string, source: AsyncIterable<Uint8Array>): Promise<void> {
    if (!isAdapterFile(name)) {
      throw new EngineError('ADAPTER_INVALID',
        `unsupported format: ${JSON.stringify(name).slice(0, 80)}; an adapter is ${ADAPTER_FILES.join(' and ')}`)
    }
    if (this.#files.has(name)) throw new EngineError('ADAPTER_INVALID', `container: ${name} came twice`)
    try {
      this.#files.set(name, await writeDurable(join(this.path, name), source, MAX_FILE_BYTES[name]))
    } catch (error) {
      if (!(error instanceof FileTooLarge)) throw error
      throw new EngineError('ADAPTER_INVALID', `container: ${name} is larger than ${MAX_FILE_BYTES[name]} bytes`)
    }
  }

  /** Copies the two files of a PEFT folder; others in it are not looked at. @throws EngineError ADAPTER_NOT_FOUND, ADAPTER_INVALID */
  async copyFrom(folder: string): Promise<void> {
    const present = await readdir(folder).catch(() => undefined)
    if (present === undefined) throw new EngineError('ADAPTER_NOT_FOUND', `There is no adapter folder at ${folder}`)
    for (const name of ADAPTER_FILES) {
      const path = join(folder, name)
      if ((await stat(path).catch(() => undefined))?.isFile()) await this.write(name, createReadStream(path, { highWaterMark: 1 << 20 }))
      else throw missingFile(name, present)
    }
  }

  /** Fixes the content: writes the manifest, last, and flushes the folder. @throws EngineError ADAPTER_INVALID when a file is missing */
  async seal(facts: Omit<Manifest, 'format' | 'version' | 'createdAt' | 'files'>): Promise<Manifest> {
    const { base, source, rank, nTensors, warnings } = facts
    const files = this.#complete()
    const createdAt = new Date().toISOString()
    const manifest: Manifest = { format: 1, version: versionOf(files), base, createdAt, source, rank, nTensors, warnings, files }
    await writeDurable(join(this.path, MANIFEST_FILE), [Buffer.from(JSON.stringify(manifest, null, 2))], Infinity)
    await flushPath(this.path)
    return manifest
  }

  /** @throws EngineError ADAPTER_INVALID when a file is missing */
  checkComplete(): void {
    this.#complete()
  }

  async dispose(): Promise<void> {
    await rm(this.path, { recursive: true, force: true })
  }

  #complete(): Record<AdapterFileName, FileDigest> {
    const missing = ADAPTER_FILES.find((name) => !this.#files.has(name))
    if (missing !== undefined) throw missingFile(missing, [])
    return Object.fromEntries(this.#files) as Record<AdapterFileName, FileDigest>
  }
}

function isAdapterFile(name: string): name is AdapterFileName {
  return (ADAPTER_FILES as readonly string[]).includes(name)
}

function missingFile(name: AdapterFileName, present: readonly string[]): EngineError {
  const pickle = present.find((file) => /^adapter_model\.(?:bin|pt|pth)$/.test(file))
  if (name === 'adapter_model.safetensors' && pickle !== undefined) {
    return new EngineError('ADAPTER_INVALID',
      `unsupported format: ${pickle} is a pickle, which can run code; save the adapter as safetensors`)
  }
  return new EngineError('ADAPTER_INVALID', `missing file: ${name}`)
}
