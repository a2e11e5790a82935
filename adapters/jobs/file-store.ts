// Uploaded files: content in <data>/files, what is known of them in the database. A file is whole or not there.

import { createReadStream, type ReadStream } from 'node:fs'
import { mkdir, readdir, rm } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { EngineError } from '../../engine/errors.js'
import { renameFlushed } from '../../engine/durable.js'
import { asDiskFull, FileTooLarge, writeDurable } from '../durable.js'
import type { SqlDatabase } from '../sqlite.js'
import { pageOf, type Page, type PageOptions } from './database.js'
import { newId, unixSeconds } from './job-store.js'

export type FilePurpose = 'fine-tune' | 'fine-tune-results' | 'evals' | 'user_data'

export interface StoredFile {
  readonly id: string                     // "file-..."
  readonly owner: string | null
  readonly bytes: number
  readonly sha256: string
  readonly createdAt: number
  readonly expiresAt: number | null
  readonly filename: string
  readonly purpose: FilePurpose
  readonly path: string
}

export interface NewFile {
  readonly owner: string | null
  readonly filename: string
  readonly purpose: FilePurpose
  readonly expiresAfterS?: number
}

/** Content on disk that has no name yet: keep() or drop() it. */
export interface ReceivedFile {
  readonly path: string
  readonly bytes: number
  readonly sha256: string
}

/** Endings that a reader of data knows, and those of results and databases; any other is kept as .bin. */
const ENDINGS = ['.jsonl', '.csv', '.parquet', '.sqlite', '.db', '.json', '.txt']
const TEMPORARY = '.tmp-'

export interface FileFilter extends PageOptions {
  readonly owner?: string
  readonly purpose?: string
}

export class FileStore {
  readonly #database: SqlDatabase
  readonly #folder: string

  private constructor(database: SqlDatabase, folder: string) {
    this.#database = database
    this.#folder = folder
  }

  /** Removes uploads that a crash cut off. */
  static async open(database: SqlDatabase, dataDir: string): Promise<FileStore> {
    const folder = join(dataDir, 'files')
    await mkdir(folder, { recursive: true })
    const store = new FileStore(database, folder)
    const known = new Set(store.#rows().map(({ path }) => path))
    for (const name of await readdir(folder)) if (!known.has(join(folder, name))) await rm(join(folder, name), { force: true })
    return store
  }

  /** Streams content to disk under no name yet. @throws EngineError FILE_INVALID when it is empty or too large, DISK_FULL */
  async receive(content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, maxBytes: number): Promise<ReceivedFile> {
    const path = join(this.#folder, `${TEMPORARY}${newId('')}`)
    try {
      const { bytes, sha256 } = await writeDurable(path, content, maxBytes)
      if (bytes === 0) throw new EngineError('FILE_INVALID', 'The file is empty', { param: 'file' })
      return { path, bytes, sha256 }
    } catch (error) {
      await rm(path, { force: true })
      if (!(error instanceof FileTooLarge)) throw asDiskFull(error)
      throw new EngineError('FILE_INVALID', `The file is larger than ${maxBytes} bytes`, { param: 'file' })
    }
  }

  /** Makes a file of what was received. */
  async keep({ path: temporary, bytes, sha256 }: ReceivedFile, file: NewFile): Promise<StoredFile> {
    const id = newId('file-')
    const ending = extname(file.filename).toLowerCase()
    const path = join(this.#folder, `${id}${ENDINGS.includes(ending) ? ending : '.bin'}`)
    await renameFlushed(temporary, path)
    const createdAt = unixSeconds()
    const { owner, filename, purpose, expiresAfterS } = file
    const expiresAt = expiresAfterS === undefined ? null : createdAt + expiresAfterS
    const stored: StoredFile = { id, owner, bytes, sha256, createdAt, expiresAt, filename, purpose, path }
    this.#database.prepare('INSERT INTO files (id, owner, body) VALUES (?, ?, ?)').run(id, owner, JSON.stringify(stored))
    return stored
  }

  async drop({ path }: ReceivedFile): Promise<void> {
    await rm(path, { force: true })
  }

  get(id: string): StoredFile | undefined {
    const row = this.#database.prepare('SELECT body FROM files WHERE id = ?').get(id) as { body: string } | undefined
    const file = row === undefined ? undefined : (JSON.parse(row.body) as StoredFile)
    return file === undefined || isExpired(file) ? undefined : file
  }

  /** Newest first unless asked otherwise. */
  list({ owner, purpose, after, limit, order = 'desc' }: FileFilter): Page<StoredFile> {
    const matches = this.#rows().filter((file) =>
      !isExpired(file) && (owner === undefined || file.owner === owner) && (purpose === undefined || file.purpose === purpose))
    if (order === 'desc') matches.reverse()
    const from = after === undefined ? 0 : matches.findIndex(({ id }) => id === after) + 1
    return pageOf(matches.slice(from, from + limit + 1), limit)
  }

  async remove(file: StoredFile): Promise<void> {
    this.#database.prepare('DELETE FROM files WHERE id = ?').run(file.id)
    await rm(file.path, { force: true })
  }

  read(file: StoredFile): ReadStream {
    return createReadStream(file.path)
  }

  /** Bytes and number of an owner's files. */
  usage(owner: string | null): { readonly bytes: number; readonly files: number } {
    const mine = this.#rows().filter((file) => file.owner === owner)
    return { bytes: mine.reduce((sum, { bytes }) => sum + bytes, 0), files: mine.length }
  }

  /** Removes what has expired. */
  async sweep(): Promise<void> {
    for (const file of this.#rows().filter(isExpired)) await this.remove(file)
  }

  #rows(): StoredFile[] {
    const rows = this.#database.prepare('SELECT body FROM files ORDER BY seq').all() as { body: string }[]
    return rows.map(({ body }) => JSON.parse(body) as StoredFile)
  }
}

const isExpired = ({ expiresAt }: StoredFile): boolean => expiresAt !== null && expiresAt <= unixSeconds()
