// Jobs, their events, checkpoints and metrics in SQLite. Knows nothing of engines, files or HTTP.

import { randomBytes } from 'node:crypto'
import { EngineError } from '../../engine/errors.js'
import type { SqlDatabase, SqlValue } from '../sqlite.js'
import { pageOf, transaction, type Page, type PageOptions } from './database.js'
import type { Job, JobCheckpoint, JobEvent, JobEventLevel, JobStatus, StepMetrics } from './job-types.js'

interface Row {
  readonly body: string
}

/** A key of the caller's, and the digest of the request that it stands for. */
export interface Idempotency {
  readonly key: string
  readonly digest: string
}

export interface JobFilter extends PageOptions {
  /** Absent = of every owner. */
  readonly owner?: string
  /** Metadata that a job must have; null = none at all. */
  readonly metadata?: Readonly<Record<string, string>> | null
}

export class JobStore {
  readonly #database: SqlDatabase

  constructor(database: SqlDatabase) {
    this.#database = database
  }

  /** Writes that belong together, flushed once. */
  together<T>(change: () => T): T {
    return transaction(this.#database, change)
  }

  /** In one transaction with the key by which the same request is known again. */
  add(job: Job, idempotency?: Idempotency): void {
    transaction(this.#database, () => {
      if (idempotency !== undefined) {
        const { key, digest } = idempotency
        this.#run('INSERT INTO idempotency (owner, key, digest, job) VALUES (?, ?, ?, ?)', job.owner ?? '', key, digest, job.id)
      }
      this.#run('INSERT INTO jobs (id, status, owner, body) VALUES (?, ?, ?, ?)', job.id, job.status, job.owner, JSON.stringify(job))
    })
  }

  /** The job that the same request made before. @throws EngineError INVALID_REQUEST when the key came with another request */
  findAgain(owner: string | null, { key, digest }: Idempotency): Job | undefined {
    const sql = 'SELECT digest, job FROM idempotency WHERE owner = ? AND key = ?'
    const earlier = this.#database.prepare(sql).get(owner ?? '', key) as { digest: string; job: string } | undefined
    if (earlier === undefined) return undefined
    const job = this.get(earlier.job)
    if (earlier.digest === digest && job !== undefined) return job
    const reason = job === undefined ? 'made a job that was deleted' : 'was used for another request'
    throw new EngineError('INVALID_REQUEST', `This Idempotency-Key ${reason}`, { param: 'Idempotency-Key' })
  }

  get(id: string): Job | undefined {
    return parse<Job>(this.#database.prepare('SELECT body FROM jobs WHERE id = ?').get(id))
  }

  /** Writes what changed; undefined when the job is gone, or not in one of the states that the change is for. */
  update(id: string, change: Partial<Job>, onlyIn?: readonly JobStatus[]): Job | undefined {
    return transaction(this.#database, () => {
      const job = this.get(id)
      if (job === undefined || (onlyIn !== undefined && !onlyIn.includes(job.status))) return undefined
      const next = { ...job, ...change }
      this.#run('UPDATE jobs SET status = ?, body = ? WHERE id = ?', next.status, JSON.stringify(next), id)
      return next
    })
  }

  remove(id: string): void {
    transaction(this.#database, () => {
      for (const table of ['events', 'checkpoints', 'metrics']) this.#run(`DELETE FROM ${table} WHERE job = ?`, id)
      this.#run('DELETE FROM jobs WHERE id = ?', id)
    })
  }

  /** Newest first. */
  list({ owner, metadata, after, limit }: JobFilter): Page<Job> {
    const rows = this.#database.prepare(
      `SELECT body FROM jobs WHERE (?1 IS NULL OR owner = ?1) AND (?2 IS NULL OR seq < (SELECT seq FROM jobs WHERE id = ?2))
       ORDER BY seq DESC LIMIT ?3`,
    ).all(owner ?? null, after ?? null, metadata === undefined ? limit + 1 : -1)
    return pageOf(rows.map((row) => parse<Job>(row)!).filter((job) => hasMetadata(job, metadata)), limit)
  }

  /** In the order of their creation. */
  inStates(...states: readonly JobStatus[]): Job[] {
    const marks = states.map(() => '?').join(', ')
    const rows = this.#database.prepare(`SELECT body FROM jobs WHERE status IN (${marks}) ORDER BY seq`).all(...states)
    return rows.map((row) => parse<Job>(row)!)
  }

  counts(): Record<JobStatus, number> {
    const sql = 'SELECT status, count(*) AS n FROM jobs GROUP BY status'
    const rows = this.#database.prepare(sql).all() as { status: JobStatus; n: number }[]
    const none = { validating_files: 0, queued: 0, running: 0, paused: 0, succeeded: 0, failed: 0, cancelled: 0 }
    return { ...none, ...Object.fromEntries(rows.map(({ status, n }) => [status, n])) }
  }

  addEvent(jobId: string, level: JobEventLevel, message: string, data: JobEvent['data'] = null): JobEvent {
    const event: JobEvent = {
      id: newId('ft-event-'), jobId, createdAt: unixSeconds(), level, message, type: data === null ? 'message' : 'metrics', data,
    }
    this.#run('INSERT INTO events (id, job, body) VALUES (?, ?, ?)', event.id, jobId, JSON.stringify(event))
    return event
  }

  /** Newest first unless asked otherwise. */
  events(jobId: string, { after, limit, order = 'desc' }: PageOptions): Page<JobEvent> {
    const [sign, direction] = order === 'desc' ? ['<', 'DESC'] : ['>', 'ASC']
    const rows = this.#database.prepare(
      `SELECT body FROM events WHERE job = ?1 AND (?2 IS NULL OR seq ${sign} (SELECT seq FROM events WHERE id = ?2))
       ORDER BY seq ${direction} LIMIT ?3`,
    ).all(jobId, after ?? null, limit + 1)
    return pageOf(rows.map((row) => parse<JobEvent>(row)!), limit)
  }

  /** The same step again replaces what was known of it. */
  putCheckpoint(checkpoint: JobCheckpoint): void {
    const { id, jobId, step } = checkpoint
    this.#run(`INSERT INTO checkpoints (id, job, step, body) VALUES (?1, ?2, ?3, ?4)
      ON CONFLICT (job, step) DO UPDATE SET id = ?1, body = ?4`, id, jobId, step, JSON.stringify(checkpoint))
  }

  checkpoints(jobId: string, { after, limit }: PageOptions): Page<JobCheckpoint> {
    const rows = this.#database.prepare(
      `SELECT body FROM checkpoints WHERE job = ?1 AND (?2 IS NULL OR step < (SELECT step FROM checkpoints WHERE id = ?2))
       ORDER BY step DESC LIMIT ?3`,
    ).all(jobId, after ?? null, limit + 1)
    return pageOf(rows.map((row) => parse<JobCheckpoint>(row)!), limit)
  }

  /** Adds to what is known of a step. */
  putMetrics(jobId: string, metrics: StepMetrics): void {
    const sql = 'SELECT body FROM metrics WHERE job = ? AND step = ?'
    const known = parse<StepMetrics>(this.#database.prepare(sql).get(jobId, metrics.step))
    const body = JSON.stringify({ ...known, ...metrics })
    this.#run('INSERT OR REPLACE INTO metrics (job, step, body) VALUES (?, ?, ?)', jobId, metrics.step, body)
  }

  metrics(jobId: string): StepMetrics[] {
    const rows = this.#database.prepare('SELECT body FROM metrics WHERE job = ? ORDER BY step').all(jobId)
    return rows.map((row) => parse<StepMetrics>(row)!)
  }

  #run(sql: string, ...parameters: readonly SqlValue[]): void {
    this.#database.prepare(sql).run(...parameters)
  }
}

function hasMetadata({ metadata = {} }: Job, wanted: JobFilter['metadata']): boolean {
  if (wanted === undefined) return true
  if (wanted === null) return Object.keys(metadata).length === 0
  return Object.entries(wanted).every(([key, value]) => Object.hasOwn(metadata, key) && metadata[key] === value)
}

const parse = <T>(row: unknown): T | undefined => (row === undefined ? undefined : (JSON.parse((row as Row).body) as T))

export const newId = (prefix: string): string => prefix + randomBytes(12).toString('hex')
export const unixSeconds = (): number => Math.floor(Date.now() / 1000)
