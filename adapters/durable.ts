// Streams into files that survive a crash, bounded and hashed on the way. Flushing folders and renaming are engine/durable.ts's.

import { createHash } from 'node:crypto'
import { open } from 'node:fs/promises'
import { isDiskFull, type FileDigest } from '../engine/durable.js'
import { EngineError } from '../engine/errors.js'

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

/** A full disk is the server's trouble, and has a name; its paths are not for callers. */
export function asDiskFull(error: unknown): unknown {
  return isDiskFull(error) ? new EngineError('DISK_FULL', 'The data directory is full: nothing was published', { cause: error }) : error
}
