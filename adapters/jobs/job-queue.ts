// What becomes of jobs: their data looked at, run one at a time in the order of their creation, published, or failed with a reason.
// The engine may die and the server may stop at any moment; the states in the store are what the next one goes on from.

import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { EngineError } from '../../engine/errors.js'
import { listDataFiles, readDataFile } from '../../engine/train/data-files.js'
import type { TrainingEngine } from '../../engine/train/types.js'
import { fineTunedModelName } from '../names.js'
import { meansDiskFull } from './database.js'
import { isEngineGone, JobRun, type RunOutcome } from './job-runner.js'
import { unixSeconds, type JobStore } from './job-store.js'
import type { Job, JobError, JobStatus } from './job-types.js'
import type { JobsOptions } from './jobs-options.js'
import { publishCheckpoints, publishResult, removeCheckpoints } from './publication.js'
import { formatResultCsv } from './result-csv.js'

/** Deaths of the engine in one job without a new step between them; then the job fails. */
const MAX_CRASHES = 3
const POLL_MS = 200
/** After TRAINING_BUSY or a dead engine, before the next try. */
const RETRY_MS = 1_000

interface Current {
  readonly id: string
  readonly controller: AbortController
  readonly ended: Promise<void>
  /** The version is being made current: from here on the job cannot be stopped. */
  isPublishing: boolean
}

export class JobQueue {
  readonly #options: JobsOptions
  readonly #store: JobStore
  readonly #tasks = new Set<Promise<void>>()
  #current: Current | undefined
  #isClosed = false
  /** The job that was last said to wait for another run. */
  #waitingId: string | undefined
  #wake: () => void = () => {}
  #isAwake = false

  constructor(options: JobsOptions) {
    this.#options = options
    this.#store = options.store
  }

  /** Takes up what an earlier process left: jobs that ran go on first, from their checkpoints. */
  start(): void {
    for (const job of this.#store.inStates('running')) {
      this.#store.update(job.id, { status: 'queued' })
      this.#store.addEvent(job.id, 'warn', 'The server was restarted; the job goes on from its last checkpoint')
    }
    for (const job of this.#store.inStates('validating_files')) this.validate(job)
    this.#background('', this.#run())
  }

  /** Stops what runs, at a checkpoint, and waits for it. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#current?.controller.abort()
    this.wake()
    while (this.#tasks.size > 0) await Promise.allSettled(this.#tasks)
  }

  get currentId(): string | undefined {
    return this.#current?.id
  }

  /** There may be something to run. */
  wake(): void {
    this.#isAwake = true
    this.#wake()
  }

  /** Resolves once a job that is being published has been. */
  async whenDecided(id: string): Promise<void> {
    if (this.#current?.id === id && this.#current.isPublishing) await this.#current.ended
  }

  /** Stops a job if it runs. */
  abort(id: string): void {
    if (this.#current?.id === id) this.#current.controller.abort()
  }

  /** Removes a job's folder, once nothing writes to it any more. */
  discard(id: string): void {
    const ended = this.#current?.id === id ? this.#current.ended : Promise.resolve()
    this.#background(id, ended.then(() => rm(this.folderOf(id), { recursive: true, force: true })))
  }

  /** Checkpoints and logs of a job. */
  folderOf(id: string): string {
    return join(this.#options.dataDir, 'jobs', id)
  }

  validate(job: Job): void {
    this.#background(job.id, this.#validate(job))
  }

  #background(id: string, work: Promise<void>): void {
    const task = work.catch((error: unknown) => this.#options.onError?.(error, id)).finally(() => this.#tasks.delete(task))
    this.#tasks.add(task)
  }

  /** What can be said of the data without the engine: it is there, of a known kind, and not empty. */
  async #validate(job: Job): Promise<void> {
    const { train, validation } = job
    const shown = validation === undefined ? train.shown : `${train.shown} and ${validation.shown}`
    this.#store.addEvent(job.id, 'info', `Validating training file: ${shown}`)
    for (const [param, data] of [['training_file', train], ['validation_file', validation]] as const) {
      const fault = data === undefined ? undefined : await faultOf(data.path)
      if (fault === undefined) continue
      const message = `${data!.shown}: ${fault.replaceAll(`${data!.path}: `, '').replaceAll(data!.path, data!.shown)}`
      const code = param === 'training_file' ? 'invalid_training_file' : 'invalid_validation_file'
      return this.#fail(job.id, { code, message, param }, ['validating_files'])
    }
    if (this.#store.update(job.id, { status: 'queued' }, ['validating_files']) === undefined) return
    this.#store.addEvent(job.id, 'info', 'Files validated, moving job to queued state')
    this.wake()
  }

  async #run(): Promise<void> {
    while (!this.#isClosed) {
      const [job] = this.#store.inStates('validating_files', 'queued')
      if (job?.status !== 'queued') await this.#sleep()                  // an older one that is looked at goes first
      else if (await this.#engineIsReady()) await this.#guarded(job)
    }
  }

  /** The queue outlives whatever a job runs into. */
  async #guarded(job: Job): Promise<void> {
    try {
      await this.#runOne(job)
    } catch (error) {
      this.#options.onError?.(error, job.id)
      await sleep(RETRY_MS)
    }
  }

  async #sleep(): Promise<void> {
    if (!this.#isAwake) await new Promise<void>((resolve) => (this.#wake = resolve))
    this.#isAwake = false
  }

  async #engineIsReady(): Promise<boolean> {
    const { engine } = this.#options
    if (engine.state === 'ready') return true
    await sleep(POLL_MS)
    return false
  }

  async #runOne(job: Job): Promise<void> {
    const { engine } = this.#options
    if (job.baseHash !== engine.info.hash) {
      const message = `The job was made for the base ${job.baseName}, which this server serves no more: start the server with that ` +
        'model, or create the job anew'
      return this.#fail(job.id, { code: 'base_model_changed', message, param: 'model' }, ['queued'])
    }
    const running = this.#store.update(job.id, { status: 'running', startedAt: job.startedAt ?? unixSeconds() }, ['queued'])
    if (running === undefined) return
    let end = () => {}
    const current: Current = {
      id: job.id, controller: new AbortController(), ended: new Promise((resolve) => (end = resolve)), isPublishing: false,
    }
    this.#current = current
    try {
      if (job.startedAt === null) this.#store.addEvent(job.id, 'info', 'Fine-tuning job started')
      const run = new JobRun(running, this.#store)
      const outcome = await run.train(engine as TrainingEngine, this.folderOf(job.id), current.controller.signal)
      await this.#settle(running, outcome, current)
    } catch (error) {
      if (!meansDiskFull(error) && !isEngineGone(error)) this.#options.onError?.(error, job.id)
      await this.#persist(() => this.#unfinished(job, error))
      if (isEngineGone(error)) await sleep(RETRY_MS)
    } finally {
      this.#current = undefined
      end()
    }
  }

  /** Writes what became of a job, again while there is no space for it: a state that is not written would be a lie. */
  async #persist(write: () => void): Promise<void> {
    while (!this.#isClosed) {
      try {
        return write()
      } catch (error) {
        if (!meansDiskFull(error)) throw error
        await sleep(RETRY_MS)
      }
    }
  }

  /** The result is there, and its publication failed. */
  #unfinished({ id }: Job, error: unknown): void {
    const { code, message } = asJobError(error)
    if (meansDiskFull(error)) this.#pauseFull(id, (error as Error).message)
    else if (isEngineGone(error)) this.#interrupted(id, message)
    else this.#fail(id, { code, message, param: null }, ['running'])
  }

  #pauseFull(id: string, message: string): void {
    if (this.#store.update(id, { status: 'paused' }, ['running']) === undefined) return
    this.#store.addEvent(id, 'error', `The job was paused: ${message}. Resume it when there is space`)
  }

  async #settle(job: Job, outcome: RunOutcome, current: Current): Promise<void> {
    switch (outcome.kind) {
      case 'finished': return this.#publish(job, outcome, current)
      case 'failed': return this.#fail(job.id, outcome.error, ['running'])
      case 'paused': return this.#pauseFull(job.id, outcome.message)
      case 'interrupted':
        this.#interrupted(job.id, outcome.message)
        return sleep(RETRY_MS)
      case 'busy':
        this.#waits(job.id)
        return sleep(RETRY_MS)
      default:
        // Paused and cancelled say so already; when the server stops, the job waits for the next one.
        this.#store.update(job.id, { status: 'queued' }, ['running'])
    }
  }

  /** Told once, however long it takes. */
  #waits(id: string): void {
    if (this.#store.update(id, { status: 'queued' }, ['running']) === undefined || this.#waitingId === id) return
    this.#waitingId = id
    this.#store.addEvent(id, 'warn', 'The job waits for another training run to end')
  }

  #interrupted(id: string, message: string): void {
    const crashes = (this.#store.get(id)?.crashes ?? 0) + 1
    if (this.#isClosed) return void this.#store.update(id, { status: 'queued' }, ['running'])
    if (crashes >= MAX_CRASHES) {
      const text = `The engine ended ${crashes} times in this job without a new step between: ${message}`
      return this.#fail(id, { code: 'engine_crashed', message: text, param: null }, ['running'])
    }
    if (this.#store.update(id, { status: 'queued', crashes }, ['running']) === undefined) return
    this.#store.addEvent(id, 'warn', `${message}; the job goes on from its last checkpoint`)
  }

  async #publish(job: Job, { adapterPath, tokens }: Extract<RunOutcome, { kind: 'finished' }>, current: Current): Promise<void> {
    const { registry, engine } = this.#options
    const parts = { registry, engine, store: this.#store, signal: current.controller.signal }
    const publication = await publishResult(job, adapterPath, parts, () => (current.isPublishing = true))
    switch (publication.kind) {
      case 'published': return this.#succeed(job, publication.version, tokens)
      case 'refused': {
        const message = `The result was not published: ${publication.reason}`
        return this.#fail(job.id, { code: 'evaluation_gate', message, param: 'gate' }, ['running'])
      }
      default: this.#store.update(job.id, { status: 'queued' }, ['running'])
    }
  }

  /** What is not needed any more goes last: until the job says that it has succeeded, a crash makes it go on from there. */
  async #succeed(job: Job, version: string, tokens: number): Promise<void> {
    const { files, registry } = this.#options
    const csv = formatResultCsv(this.#store.metrics(job.id))
    const result = await files.keep(await files.receive([Buffer.from(csv)], Infinity),
      { owner: job.owner, filename: `${job.id}-results.csv`, purpose: 'fine-tune-results' })
    if (job.keepsCheckpoints === true) await publishCheckpoints(job, registry, this.#store)
    const fineTunedModel = fineTunedModelName(job.baseName, job.name, version)
    this.#store.together(() => {
      this.#store.update(job.id, {
        status: 'succeeded', finishedAt: unixSeconds(), version, fineTunedModel, resultFiles: [result.id], trainedTokens: tokens,
      })
      this.#store.addEvent(job.id, 'info', `New fine-tuned model created: ${fineTunedModel}`)
      this.#store.addEvent(job.id, 'info', 'The job has successfully completed')
    })
    await removeCheckpoints(job.id, this.folderOf(job.id), this.#store)
  }

  #fail(id: string, error: JobError, onlyIn: readonly JobStatus[]): void {
    if (this.#store.update(id, { status: 'failed', finishedAt: unixSeconds(), error }, onlyIn) === undefined) return
    this.#store.addEvent(id, 'error', `The job failed: ${error.message}`)
    this.wake()
  }
}

async function faultOf(path: string): Promise<string | undefined> {
  try {
    for (const file of await listDataFiles([path])) {
      for await (const { row } of readDataFile(file)) {
        if (row instanceof Error) return row.message
        break
      }
    }
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}

function asJobError(error: unknown): { readonly code: string; readonly message: string } {
  if (error instanceof EngineError) return { code: error.code.toLowerCase(), message: error.message }
  return { code: 'internal_error', message: 'The job failed for a reason that the server log has' }
}

