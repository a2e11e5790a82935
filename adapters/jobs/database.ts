// The database of jobs and files: one SQLite file in the data directory. What a call returned has survived every crash from then on.

import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { isDiskFull } from '../../engine/durable.js'
import { EngineError } from '../../engine/errors.js'
import { openSqlite, type SqlDatabase } from '../sqlite.js'

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, owner TEXT, body TEXT NOT NULL);
  CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, seq);
  CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, job TEXT NOT NULL, body TEXT NOT NULL);
  CREATE INDEX IF NOT EXISTS events_by_job ON events (job, seq);
  CREATE TABLE IF NOT EXISTS checkpoints (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, job TEXT NOT NULL, step INTEGER NOT NULL, body TEXT NOT NULL,
    UNIQUE (job, step));
  CREATE TABLE IF NOT EXISTS metrics (job TEXT NOT NULL, step INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (job, step));
  CREATE TABLE IF NOT EXISTS idempotency (
    owner TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL, job TEXT NOT NULL, PRIMARY KEY (owner, key));
  CREATE TABLE IF NOT EXISTS files (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT, body TEXT NOT NULL);`

export interface JobDatabase {
  readonly database: SqlDatabase
  close(): void
}

/**
 * One process at a time: two servers over one data directory would run each other's jobs.
 * @throws EngineError ENGINE_UNAVAILABLE when another process has it; Error of SQLite when it is damaged or cannot be written
 */
export async function openJobDatabase(dataDir: string): Promise<JobDatabase> {
  await mkdir(dataDir, { recursive: true })
  const lock = await lockOf(join(dataDir, 'jobs.lock'))
  try {
    const database = await openSqlite(join(dataDir, 'jobs.sqlite'))
    database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL')
    database.exec(SCHEMA)
    return { database, close: () => { database.close(); release(lock) } }
  } catch (error) {
    release(lock)
    throw error
  }
}

/** A transaction that is never committed: the system ends it with the process, however that ends. */
async function lockOf(path: string): Promise<SqlDatabase> {
  const lock = await openSqlite(path)
  try {
    lock.exec('BEGIN EXCLUSIVE')
    return lock
  } catch (error) {
    lock.close()
    if (!/locked|busy/i.test((error as Error).message)) throw error
    throw new EngineError('ENGINE_UNAVAILABLE', `${path} is held by another server: give this one a --data-dir of its own`)
  }
}

function release(lock: SqlDatabase): void {
  lock.exec('ROLLBACK')
  lock.close()
}

const inside = new WeakSet<SqlDatabase>()

/** All of it or nothing; within another transaction, part of that one. */
export function transaction<T>(database: SqlDatabase, change: () => T): T {
  if (inside.has(database)) return change()
  database.exec('BEGIN IMMEDIATE')
  inside.add(database)
  try {
    const result = change()
    database.exec('COMMIT')
    return result
  } catch (error) {
    database.exec('ROLLBACK')
    throw error
  } finally {
    inside.delete(database)
  }
}

/** Wherever it was noticed: by the engine, the file system or SQLite. */
export function meansDiskFull(error: unknown): boolean {
  const { code, message = '' } = error as { code?: string; message?: string }
  return code === 'DISK_FULL' || isDiskFull(error) || /database or disk is full|disk I\/O error/.test(message)
}

/** A page of rows, newest or oldest first, after the row that `after` names. */
export interface PageOptions {
  readonly after?: string
  readonly limit: number
  readonly order?: 'asc' | 'desc'
}

export interface Page<T> {
  readonly data: readonly T[]
  readonly hasMore: boolean
}

export const pageOf = <T>(rows: readonly T[], limit: number): Page<T> => ({ data: rows.slice(0, limit), hasMore: rows.length > limit })
