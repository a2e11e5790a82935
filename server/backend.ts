// The engine as the server sees it over time: loading, ready, restarting, hung, draining, failed. Routes ask here for the
// engine, health checks ask here for the truth.

import type { Engine, EngineStats, Progress } from '../engine/api.js'
import type { Jobs } from '../adapters/jobs.js'
import { EngineError } from '../engine/errors.js'
import type { AdapterDirectory } from './adapter-directory.js'

export interface Readiness {
  readonly ready: boolean
  /** Why not, in a word or two; "ready" otherwise. */
  readonly reason: string
}

/** No step finished, or no answer to stats(), for this long with work active: hung. */
const HANG_MS = 10_000
/** A full queue for this long tells the load balancer to look elsewhere. */
const QUEUE_FULL_MS = 5_000
const POLL_MS = 1_000

export type StatsListener = (stats: EngineStats, engine: Engine) => void

export class Backend {
  #engine: Engine | undefined
  #adapters: AdapterDirectory | undefined
  #jobs: Jobs | undefined
  #failure: string | undefined
  #progress: Progress | undefined
  #draining = false
  #polling: Promise<void> | undefined
  #answeredAt = 0
  #stats: EngineStats | undefined
  #timer: NodeJS.Timeout | undefined
  readonly #listeners: StatsListener[] = []
  /** Monotonic time since when the queue is full; set by the limits plugin. */
  queueFullSince: number | undefined

  /** The engine has loaded and answers. */
  attach(engine: Engine, adapters: AdapterDirectory, jobs?: Jobs): void {
    this.#engine = engine
    this.#adapters = adapters
    this.#jobs = jobs
    this.#answeredAt = performance.now()
    this.#timer = setInterval(() => void this.poll(), POLL_MS)
    this.#timer.unref()
  }

  fail(message: string): void {
    this.#failure = message
  }

  set progress(progress: Progress) {
    this.#progress = progress
  }

  /** From here on new requests are refused. */
  startDraining(): void {
    this.#draining = true
  }

  get draining(): boolean {
    return this.#draining
  }

  /** The engine, whatever its state; undefined while it loads for the first time. */
  get loaded(): Engine | undefined {
    return this.#engine
  }

  /** @throws EngineError ENGINE_UNAVAILABLE while loading, draining or failed. A restarting engine is waited for by resume.ts. */
  engine(): Engine {
    if (this.#draining) throw unavailable('The server is shutting down.', 5_000)
    if (this.#engine === undefined) throw unavailable(this.#failure ?? 'The model is still loading.', 2_000)
    if (this.#engine.state === 'failed' || this.#engine.state === 'closed') throw unavailable('The engine is not running.', 5_000)
    return this.#engine
  }

  adapters(): AdapterDirectory {
    if (this.#adapters === undefined) throw unavailable('The model is still loading.', 2_000)
    return this.#adapters
  }

  /** @throws EngineError ENGINE_UNAVAILABLE while loading, UNSUPPORTED where the server has none */
  jobs(): Jobs {
    if (this.#jobs !== undefined) return this.#jobs
    if (this.#engine === undefined) throw unavailable(this.#failure ?? 'The model is still loading.', 2_000)
    throw new EngineError('UNSUPPORTED', 'This server has no training jobs')
  }

  /** The same without throwing: for metrics, and for the end. */
  get attachedJobs(): Jobs | undefined {
    return this.#jobs
  }

  onStats(listener: StatsListener): void {
    this.#listeners.push(listener)
  }

  /** Asks the engine for its counters; one question at a time, never throws. */
  poll(): Promise<void> {
    this.#polling ??= this.#askStats().finally(() => (this.#polling = undefined))
    return this.#polling
  }

  async #askStats(): Promise<void> {
    const engine = this.#engine
    if (engine?.state !== 'ready') return void (this.#answeredAt = performance.now())
    try {
      const stats = await engine.stats()
      this.#stats = stats
      this.#answeredAt = performance.now()
      for (const listener of this.#listeners) listener(stats, engine)
    } catch {
      // The engine died while it was asked: its state says so by the next question.
    }
  }

  get started(): boolean {
    return this.#engine !== undefined
  }

  readiness(): Readiness {
    const reason = this.#unreadyReason()
    return { ready: reason === undefined, reason: reason ?? 'ready' }
  }

  #unreadyReason(): string | undefined {
    if (this.#draining) return 'draining'
    if (this.#failure !== undefined) return 'failed'
    if (this.#engine === undefined) return this.#progress === undefined ? 'starting' : `starting: ${describe(this.#progress)}`
    if (this.#engine.state !== 'ready') return this.#engine.state
    if (this.#hung()) return 'hung'
    const fullSince = this.queueFullSince
    return fullSince !== undefined && performance.now() - fullSince > QUEUE_FULL_MS ? 'queue full' : undefined
  }

  #hung(): boolean {
    if (performance.now() - this.#answeredAt > HANG_MS) return true
    return this.#stats !== undefined && this.#stats.running > 0 && this.#stats.lastStepAtMs > HANG_MS
  }

  close(): void {
    clearInterval(this.#timer)
  }
}

function describe(progress: Progress): string {
  const share = progress.total > 0 ? ` ${Math.floor((100 * progress.done) / progress.total)} %` : ''
  return `${progress.phase}${share}`
}

function unavailable(message: string, retryAfterMs: number): EngineError {
  return new EngineError('ENGINE_UNAVAILABLE', message, { retryAfterMs })
}
