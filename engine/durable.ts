// Files that survive a crash: flushed, then named; and the folder that names them flushed too.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import { EngineError } from './errors.js'

export interface FileDigest {
  readonly bytes: number
  readonly sha256: string
}

/** Writes a whole file and flushes it. The folder that names it is the caller's to flush. @throws EngineError DISK_FULL */
export async function writeFlushed(path: string, content: string | Uint8Array): Promise<void> {
  try {
    const file = await open(path, 'w', 0o644)
    try {
      await file.writeFile(content)
      await file.sync()
    } finally {
      await file.close()
    }
  } catch (error) {
    throw toDiskError(error)
  }
}

/** Flushes a file or a folder (new entries, renames, removals). */
export async function flushPath(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Gives what is at `temporary`, flushed already, its final name. */
export async function renameFlushed(temporary: string, path: string): Promise<void> {
  await rename(temporary, path)
  await flushPath(dirname(path))
}

/** Reading it also brings the file into the page cache. */
export async function digestFile(path: string): Promise<FileDigest> {
  const hash = createHash('sha256')
  let bytes = 0
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
    bytes += chunk.length
    hash.update(chunk)
  }
  return { bytes, sha256: hash.digest('hex') }
}

/** Whether the disk or the quota is full. */
export function isDiskFull(error: unknown): boolean {
  const { code } = error as { code?: string }
  return code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG'
}

/** A full disk or quota under its own code; anything else as it was. */
export function toDiskError(error: unknown): unknown {
  if (!isDiskFull(error)) return error
  const { path, message } = error as NodeJS.ErrnoException
  const where = path === undefined ? '' : ` of ${path}`
  return new EngineError('DISK_FULL', `no space is left on the disk${where} (${message})`, { cause: error })
}
