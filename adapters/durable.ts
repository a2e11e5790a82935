// Files that survive a crash: written, flushed, then renamed into place, and the folder that names them flushed too.

import { createHash } from 'node:crypto'
import { open, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import { type FileDigest, digestFile } from '../engine/durable.js'
import { EngineError } from '../engine/errors.js'

export { type FileDigest, digestFile }

export class FileTooLarge extends Error {}

/** Writes a new file and flushes it. @throws FileTooLarge past maxBytes, or EEXIST */
export async function writeDurable(path: string, source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  maxBytes: number): Promise<FileDigest> {
  const file = await open(path, 'wx', 0o644)
  try {
    const hash = createHash('sha256')
    let bytes = 0
    for await (const chunk of source) {
      bytes += chunk.length
      if (bytes > maxBytes) throw new FileTooLarge(`more than ${maxBytes} bytes`)
      hash.update(chunk)
      await writeAll(file, chunk)
    }
    await file.sync()
    return { bytes, sha256: hash.digest('hex') }
  } finally {
    await file.close()
  }
}

async function writeAll(file: Awaited<ReturnType<typeof open>>, chunk: Uint8Array): Promise<void> {
  for (let offset = 0; offset < chunk.length;) {
    const { bytesWritten } = await file.write(chunk, offset, chunk.length - offset)
    offset += bytesWritten
  }
}

/** Makes renames, new entries and removals in a folder last. */
export async function flushFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** Gives `temporary` (flushed already) its final name, replacing what was there: readers see the old or the new, never a mix. */
export async function renameDurable(temporary: string, path: string): Promise<void> {
  await rename(temporary, path)
  await flushFolder(dirname(path))
}

/** A full disk is the server's trouble, and has a name. */
export function asDiskFull(error: unknown): unknown {
  const { code } = error as { code?: string }
  if (code !== 'ENOSPC' && code !== 'EDQUOT') return error
  return new EngineError('DISK_FULL', 'The data directory is full: nothing was published', { cause: error })
}
