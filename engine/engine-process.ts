// The life of the engine's process seen from its parent: start, watchdog, restart with back-off, circuit breaker.

import { type ChildProcess, fork } from 'node:child_process'
import type { EngineOptions, EngineState, ModelInfo, Progress } from './api.js'
import { EngineError } from './errors.js'
import { type FromEngine, PROTOCOL_VERSION, type ToEngine, fromPlain } from './protocol.js'

export interface ProcessTimings {
  /** Without progress for this long, milliseconds, the process is ended. */
  readonly watchdogMs: number
  readonly backoffMs: number
  readonly maxBackoffMs: number
  /** This many ends within `crashWindowMs`, and it is not started again. */
  readonly maxCrashes: number
  readonly crashWindowMs: number
}

export const PROCESS_TIMINGS: ProcessTimings = {
  watchdogMs: 10_000, backoffMs: 250, maxBackoffMs: 30_000, maxCrashes: 5, crashWindowMs: 60_000,
}

/** A device that hangs is told from a slow step by this factor over the longest step expected. */
const STEP_ALLOWANCE = 4
/** Loading may keep the event loop of the process busy this long, milliseconds (a tokenizer of 33 MB takes 4 s on a busy machine). */
const LOADING_ALLOWANCE_MS = 60_000

export interface ProcessHandlers {
  onMessage(message: FromEngine): void
  onProgress(progress: Progress): void
  /** Ready for the first time or again; what it returns is awaited before the state says so. */
  onUp(info: ModelInfo): Promise<void>
  /** The process is gone; everything it was asked for is lost. */
  onDown(reason: string): void
}

export class EngineProcess {
  state: EngineState = 'starting'
  restarts = 0
  readonly #hostPath: string
  readonly #options: EngineOptions
  readonly #handlers: ProcessHandlers
  readonly #timings: ProcessTimings
  readonly #started: { promise: Promise<void>; resolve: () => void; reject: (error: EngineError) => void }
  readonly #watchdog: NodeJS.Timeout
  #child: ChildProcess | undefined
  #restartTimer: NodeJS.Timeout | undefined
  #isUp = false
  #wasUp = false
  /** Any message: the event loop of the process turns. */
  #lastMessageAt = 0
  /** A message that shows more than that: steps end, or there is nothing to do. */
  #lastProgressAt = 0
  #silenceMs = LOADING_ALLOWANCE_MS
  #stallMs = LOADING_ALLOWANCE_MS
  #lastTickAt = performance.now()
  #crashes: number[] = []
  #nextBackoffMs: number
  #downReason = ''

  constructor(hostPath: string, options: EngineOptions, handlers: ProcessHandlers, timings: ProcessTimings = PROCESS_TIMINGS) {
    this.#hostPath = hostPath
    this.#options = options
    this.#handlers = handlers
    this.#timings = timings
    this.#nextBackoffMs = timings.backoffMs
    this.#started = withResolvers()
    this.#watchdog = setInterval(() => this.#watch(), Math.min(250, timings.watchdogMs / 4))
    this.#watchdog.unref()
    this.#spawn()
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  /** Resolves when the first process is ready. @throws EngineError why it is not */
  get started(): Promise<void> {
    return this.#started.promise
  }

  send(message: ToEngine): void {
    // A process that is gone is dealt with by its exit event.
    if (this.#child?.connected === true) this.#child.send(message, () => {})
  }

  /** Lets the process end; it is not started again. */
  stop(): void {
    this.state = 'closed'
    clearInterval(this.#watchdog)
    clearTimeout(this.#restartTimer)
    this.#child?.kill('SIGKILL')
  }

  #spawn(): void {
    const child = fork(this.#hostPath, [], { execArgv: [], serialization: 'advanced', stdio: ['ignore', 2, 2, 'ipc'] })
    this.#child = child
    this.#isUp = false
    this.#silenceMs = this.#stallMs = LOADING_ALLOWANCE_MS
    this.#lastMessageAt = this.#lastProgressAt = performance.now()
    child.on('message', (message) => { if (child === this.#child) this.#receive(message as FromEngine) })
    child.on('error', (error) => this.#ended(child, error.message))
    child.on('exit', (code, signal) => this.#ended(child, signal === null ? `exit code ${code}` : signal))
    this.send({ type: 'start', version: PROTOCOL_VERSION, options: this.#options })
  }

  #receive(message: FromEngine): void {
    this.#lastMessageAt = performance.now()
    if (message.type !== 'beat' || message.progress) this.#lastProgressAt = this.#lastMessageAt
    if (message.type === 'beat') return
    if (message.type === 'progress') this.#handlers.onProgress(message.progress)
    else if (message.type === 'ready') void this.#ready(message.info, message.fullStepMs)
    else if (message.type === 'failed') this.#failed(fromPlain(message.error))
    else this.#handlers.onMessage(message)
  }

  async #ready(info: ModelInfo, fullStepMs: number): Promise<void> {
    const child = this.#child
    this.#isUp = true
    this.#silenceMs = this.#timings.watchdogMs
    this.#stallMs = Math.max(this.#timings.watchdogMs, STEP_ALLOWANCE * fullStepMs)
    await this.#handlers.onUp(info)
    if (child !== this.#child || this.state === 'closed') return
    this.state = 'ready'
    this.#wasUp = true
    this.#started.resolve()
  }

  /** The first start reports its error; later ones, and a device that is given up, count as crashes. */
  #failed(error: EngineError): void {
    this.#downReason = error.message
    if (!this.#wasUp) {
      this.#started.reject(error)
      this.state = 'failed'
      clearInterval(this.#watchdog)
    }
    this.#child?.kill('SIGKILL')
  }

  #ended(child: ChildProcess, reason: string): void {
    if (child !== this.#child) return
    this.#child = undefined
    this.#isUp = false
    const why = this.#downReason === '' ? reason : this.#downReason
    this.#downReason = ''
    if (this.state === 'closed' || this.state === 'failed') return this.#handlers.onDown(why)
    if (!this.#wasUp) {
      this.state = 'failed'
      clearInterval(this.#watchdog)
      this.#started.reject(new EngineError('INTERNAL', `the engine's process ended while it loaded the model: ${why}`))
      return this.#handlers.onDown(why)
    }
    this.#scheduleRestart()
    this.#handlers.onDown(why)
  }

  #scheduleRestart(): void {
    const now = performance.now()
    const lastCrash = this.#crashes.at(-1) ?? -Infinity
    const { backoffMs, maxBackoffMs, crashWindowMs, maxCrashes } = this.#timings
    if (now - lastCrash > crashWindowMs) this.#nextBackoffMs = backoffMs
    this.#crashes = [...this.#crashes.filter((at) => now - at <= crashWindowMs), now]
    if (this.#crashes.length >= maxCrashes) {
      this.state = 'failed'
      clearInterval(this.#watchdog)
      return
    }
    this.state = 'restarting'
    this.#restartTimer = setTimeout(() => {
      this.restarts++
      this.#spawn()
    }, this.#nextBackoffMs)
    this.#nextBackoffMs = Math.min(maxBackoffMs, this.#nextBackoffMs * 2)
  }

  /** Ends a process whose event loop or device has stood still. */
  #watch(): void {
    const now = performance.now()
    const late = now - this.#lastTickAt
    this.#lastTickAt = now
    // This process stood still itself: what the other one sent meanwhile has yet to be read.
    if (late > 1000) this.#lastMessageAt = this.#lastProgressAt = now
    const isStill = now - this.#lastMessageAt >= this.#silenceMs || now - this.#lastProgressAt >= this.#stallMs
    if (this.#child === undefined || !isStill) return
    this.#downReason = `no progress for ${Math.round(now - this.#lastProgressAt)} ms`
    this.#lastMessageAt = this.#lastProgressAt = now
    this.#child.kill('SIGKILL')
  }
}

function withResolvers(): { promise: Promise<void>; resolve: () => void; reject: (error: EngineError) => void } {
  let resolve: () => void = () => {}
  let reject: (error: EngineError) => void = () => {}
  const promise = new Promise<void>((yes, no) => { resolve = yes; reject = no })
  promise.catch(() => {})
  return { promise, resolve, reject }
}
