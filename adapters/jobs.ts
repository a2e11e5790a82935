// Training jobs: created by two HTTP surfaces, kept in SQLite, run by one queue. Whatever a job's state says is true from the moment
// a call returns.

import { EngineError } from '../engine/errors.js'
import type { Page, PageOptions } from './jobs/database.js'
import type { FileStore } from './jobs/file-store.js'
import { JobQueue } from './jobs/job-queue.js'
import { newId, unixSeconds, type Idempotency, type JobFilter, type JobStore } from './jobs/job-store.js'
import { isOver, type Job, type JobCheckpoint, type JobEvent, type JobStatus, type NewJob } from './jobs/job-types.js'
import type { JobsOptions } from './jobs/jobs-options.js'

const ACTIVE: readonly JobStatus[] = ['validating_files', 'queued', 'running']

export class Jobs {
  readonly files: FileStore
  readonly store: JobStore
  readonly #options: JobsOptions
  readonly #queue: JobQueue
  #closed: Promise<void> | undefined

  constructor(options: JobsOptions) {
    this.#options = options
    this.store = options.store
    this.files = options.files
    this.#queue = new JobQueue(options)
  }

  start(): void {
    this.#queue.start()
  }

  /** Stops what runs, at a checkpoint; it goes on when a server is started again. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#queue.close().then(() => this.#options.onClosed?.())
    return this.#closed
  }

  /** Whether this server's engine trains at all. */
  get canTrain(): boolean {
    return typeof this.#options.engine.train === 'function'
  }

  /** Jobs by state. */
  counts(): Readonly<Record<JobStatus, number>> | undefined {
    return this.#closed === undefined ? this.store.counts() : undefined
  }

  /** The job that runs now. */
  get running(): Job | undefined {
    const id = this.#queue.currentId
    return id === undefined || this.#closed !== undefined ? undefined : this.store.get(id)
  }

  /**
   * Adds a job, or finds the one that the same request made before.
   * @throws EngineError INVALID_REQUEST, UNSUPPORTED, QUEUE_FULL
   */
  create(wanted: NewJob, idempotency?: Idempotency): { readonly job: Job; readonly isNew: boolean } {
    if (!this.canTrain) throw new EngineError('UNSUPPORTED', 'The engine of this server does not train')
    const { engine, maxActive, baseName } = this.#options
    const job: Job = {
      ...wanted, id: newId('ftjob-'), status: 'validating_files', createdAt: unixSeconds(), startedAt: null, finishedAt: null,
      baseHash: engine.info.hash, baseName, error: null, version: null, fineTunedModel: null, resultFiles: [], trainedTokens: null,
      progress: null, evaluation: null, crashes: 0,
    }
    const known = this.again(wanted.owner, idempotency)
    if (known !== undefined) return known
    const active = this.store.inStates(...ACTIVE).filter(({ owner }) => owner === wanted.owner).length
    if (active >= maxActive) {
      throw new EngineError('QUEUE_FULL', `${active} jobs wait or run already, of ${maxActive} at most`, { retryAfterMs: 60_000 })
    }
    this.store.add(job, idempotency)
    this.store.addEvent(job.id, 'info', `Created fine-tuning job: ${job.id}`)
    this.#queue.validate(job)
    return { job, isNew: true }
  }

  /** What the same request made before. @throws EngineError INVALID_REQUEST when the key came with another one */
  again(owner: string | null, idempotency: Idempotency | undefined): { readonly job: Job; readonly isNew: false } | undefined {
    const job = idempotency === undefined ? undefined : this.store.findAgain(owner, idempotency)
    return job === undefined ? undefined : { job, isNew: false }
  }

  get(id: string): Job | undefined {
    return this.store.get(id)
  }

  list(filter: JobFilter): Page<Job> {
    return this.store.list(filter)
  }

  events(id: string, page: PageOptions): Page<JobEvent> {
    return this.store.events(id, page)
  }

  checkpoints(id: string, page: PageOptions): Page<JobCheckpoint> {
    return this.store.checkpoints(id, page)
  }

  /** Ends a job for good; nothing of it is published. @throws EngineError INVALID_REQUEST when it has ended otherwise */
  async cancel(id: string): Promise<Job> {
    const job = await this.#stop(id, 'cancelled', 'The job was cancelled')
    this.#queue.discard(id)
    return job
  }

  /** Stops a job at a checkpoint until it is resumed. @throws EngineError INVALID_REQUEST when it has ended */
  async pause(id: string): Promise<Job> {
    return this.#stop(id, 'paused', 'The job was paused')
  }

  /** Queues a paused job again. @throws EngineError INVALID_REQUEST when it has ended */
  resume(id: string): Job {
    const job = this.#existing(id)
    if (isOver(job.status)) throw ended(job, 'resumed')
    const queued = this.store.update(id, { status: 'queued', crashes: 0 }, ['paused'])
    if (queued === undefined) return job
    this.store.addEvent(id, 'info', 'The job was resumed and queued')
    this.#queue.wake()
    return queued
  }

  /** Removes a job that has ended, with its events and logs. Its published version stays. @throws EngineError INVALID_REQUEST */
  async remove(id: string): Promise<void> {
    const job = this.#existing(id)
    if (!isOver(job.status)) throw new EngineError('INVALID_REQUEST', `Job ${id} is ${job.status}: cancel it first`)
    this.store.remove(id)
    this.#queue.discard(id)
  }

  /** Checkpoints and logs of a job. */
  folderOf(id: string): string {
    return this.#queue.folderOf(id)
  }

  async #stop(id: string, status: 'cancelled' | 'paused', message: string): Promise<Job> {
    await this.#queue.whenDecided(id)
    const job = this.#existing(id)
    if (job.status === status) return job
    const finishedAt = status === 'cancelled' ? unixSeconds() : null
    const stopped = this.store.update(id, { status, finishedAt }, [...ACTIVE, 'paused'])
    if (stopped === undefined) throw ended(job, status)
    this.store.addEvent(id, 'info', message)
    this.#queue.abort(id)
    this.#queue.wake()
    return stopped
  }

  #existing(id: string): Job {
    const job = this.store.get(id)
    if (job === undefined) throw new EngineError('INVALID_REQUEST', `There is no job ${id}`)
    return job
  }
}

function ended({ id, status }: Job, wanted: string): EngineError {
  return new EngineError('INVALID_REQUEST', `Job ${id} has ${status === 'cancelled' ? 'been cancelled' : status}: it cannot be ${wanted}`)
}
