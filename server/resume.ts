// Streams that survive an engine crash: what was emitted goes back as prompt + emitted tokens under the same seed, and the rest
// follows. A request that was running in two crashes is refused from then on.

import { createHash, randomInt } from 'node:crypto'
import type { AdapterHandle, Engine, GenerateEvent, GenerateRequest } from '../engine/api.js'
import { EngineError } from '../engine/errors.js'
import { mergeStreams } from './merge-streams.js'

export interface ResumeDeps {
  readonly engine: Engine
  readonly quarantine: Quarantine
  /** Makes the request's adapter resident in the new engine. */
  readonly renewAdapter: () => Promise<AdapterHandle | null>
  /** How long to wait for the engine to come back, ms. */
  readonly recoveryMs: number
}

const POLL_MS = 20
/** A request that never got to run is resubmitted through this many crashes at most. */
const MAX_ATTEMPTS = 3

/** Like engine.generate, but ENGINE_RESTARTED is repaired where it can be. @throws EngineError QUARANTINED as well. */
export async function* generateResumable(deps: ResumeDeps, request: GenerateRequest, signal: AbortSignal): AsyncGenerator<GenerateEvent> {
  const fingerprint = fingerprintOf(request)
  deps.quarantine.check(fingerprint)
  const run = new ResumableRun(withSeed(request))
  for (let attempt = 1; ; attempt++) {
    const { restarts } = deps.engine
    try {
      for await (const event of run.stream(deps.engine, signal)) if (run.accept(event)) yield event
      deps.quarantine.clear(fingerprint)
      return
    } catch (error) {
      if (!diedWithEngine(error, deps.engine) || signal.aborted) throw error
      if (run.started || attempt >= MAX_ATTEMPTS) deps.quarantine.record(fingerprint, restarts)
      if (attempt >= MAX_ATTEMPTS) throw error
      await engineReady(deps.engine, deps.recoveryMs, signal)
      run.adapter = await deps.renewAdapter()
    }
  }
}

/** One request over several engines: remembers what each choice has emitted. */
class ResumableRun {
  readonly #request: GenerateRequest
  readonly #emitted: number[][]
  readonly #finished: boolean[]
  adapter: AdapterHandle | null
  started = false

  constructor(request: GenerateRequest) {
    const n = request.n ?? 1
    this.#request = request
    this.#emitted = Array.from({ length: n }, () => [])
    this.#finished = Array.from({ length: n }, () => false)
    this.adapter = request.adapter ?? null
  }

  /** The first time the request as it is; later each unfinished choice by itself, under its own seed. */
  stream(engine: Engine, signal: AbortSignal): AsyncIterable<GenerateEvent> {
    if (!this.started) return engine.generate({ ...this.#request, adapter: this.adapter }, signal)
    const open = this.#finished.flatMap((finished, index) => (finished ? [] : [index]))
    return mergeStreams(open.map((index) => (inner: AbortSignal) => this.#resumeChoice(engine, index, inner)), signal)
  }

  async *#resumeChoice(engine: Engine, index: number, signal: AbortSignal): AsyncGenerator<GenerateEvent> {
    const { sampling, ...request } = this.#request
    const resumed = {
      ...request,
      id: `${request.id}-r${index}-${engine.restarts}`,
      n: 1,
      adapter: this.adapter,
      sampling: { ...sampling, seed: sampling!.seed! + index },
      resume: [{ tokenIds: [...this.#emitted[index]!] }],
    }
    for await (const event of engine.generate(resumed, signal)) yield event.type === 'started' ? event : { ...event, index }
  }

  /** False for an event that the client has seen before. */
  accept(event: GenerateEvent): boolean {
    if (event.type === 'started') return !this.started && (this.started = true)
    if (event.type === 'delta') this.#emitted[event.index]!.push(...event.tokenIds)
    else this.#finished[event.index] = true
    return true
  }
}

function withSeed(request: GenerateRequest): GenerateRequest {
  if (request.sampling?.seed !== undefined) return request
  return { ...request, sampling: { ...request.sampling, seed: randomInt(2 ** 47) } }
}

function diedWithEngine(error: unknown, engine: Engine): boolean {
  if (!(error instanceof EngineError)) return false
  return error.code === 'ENGINE_RESTARTED' || (error.code === 'ENGINE_UNAVAILABLE' && engine.state === 'restarting')
}

/** @throws EngineError ENGINE_UNAVAILABLE when it does not come back in time, ABORTED when the client leaves meanwhile. */
export async function engineReady(engine: Engine, recoveryMs: number, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + recoveryMs
  while (engine.state !== 'ready') {
    if (signal.aborted) throw new EngineError('ABORTED', 'The request was aborted.')
    const hopeless = engine.state === 'failed' || engine.state === 'closed'
    if (hopeless || performance.now() > deadline) {
      throw new EngineError('ENGINE_UNAVAILABLE', 'The engine restarted and did not come back in time.', { retryAfterMs: 5_000 })
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS))
  }
}

/** Same prompt, sampling and adapter: the same work for the engine, whoever asks. */
function fingerprintOf(request: GenerateRequest): string {
  const { id: _id, cacheSalt: _salt, ...work } = request
  return createHash('sha256').update(JSON.stringify(work)).digest('base64url')
}

/** Fingerprints that were running when the engine died. Bounded; a request that completes is cleared of suspicion. */
export class Quarantine {
  readonly #crashes = new Map<string, { count: number; at: number; engine: number }>()
  readonly #maxCrashes = 2
  readonly #capacity = 1_024
  readonly #forgetMs = 600_000

  /** @throws EngineError QUARANTINED. */
  check(fingerprint: string): void {
    const entry = this.#crashes.get(fingerprint)
    if (entry === undefined) return
    if (performance.now() - entry.at > this.#forgetMs) this.#crashes.delete(fingerprint)
    else if (entry.count >= this.#maxCrashes) {
      throw new EngineError('QUARANTINED', 'This request was running when the engine crashed twice: it is refused for ten minutes.')
    }
  }

  /**
   * Counts a crash of the `engine`-th process: once, however many equal requests ran in it.
   * @throws EngineError QUARANTINED from the second on.
   */
  record(fingerprint: string, engine: number): void {
    const known = this.#crashes.get(fingerprint)
    if (known?.engine === engine) return this.check(fingerprint)
    const count = (known?.count ?? 0) + 1
    this.#crashes.delete(fingerprint)
    this.#crashes.set(fingerprint, { count, at: performance.now(), engine })
    if (this.#crashes.size > this.#capacity) this.#crashes.delete(this.#crashes.keys().next().value!)
    this.check(fingerprint)
  }

  clear(fingerprint: string): void {
    this.#crashes.delete(fingerprint)
  }
}
