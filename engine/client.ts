// The Engine interface over a child process. What the process does not live to answer is answered here.

import { fileURLToPath } from 'node:url'
import type {
  AdapterInfo, Engine, EngineOptions, EngineState, EngineStats, GenerateEvent, GenerateRequest, LoadAdapterRequest, ModelInfo, Progress,
  Prompt,
} from './api.js'
import { EngineProcess, PROCESS_TIMINGS, type ProcessTimings } from './engine-process.js'
import { EngineError } from './errors.js'
import { EventQueue } from './event-queue.js'
import { type FromEngine, type RemoteMethod, STREAM_CREDITS, type StreamEvent, type ToEngine, fromPlain } from './protocol.js'
import type { TrainEvent, TrainRequest, TrainingEngine } from './train/types.js'

export interface StartOptions {
  /** Entry of the child process: for tests. */
  readonly hostPath?: string
  readonly timings?: Partial<ProcessTimings>
}

/** Ends of the process that one request may live through. */
const MAX_CRASHES_OF_A_REQUEST = 2
const MAX_REMEMBERED_CRASHES = 10_000
const CLOSE_PATIENCE_MS = 2000

/** Starts an engine in a process of its own. @throws EngineError why it could not start */
export async function startEngine(
  options: EngineOptions, onProgress: (progress: Progress) => void = () => {}, start: StartOptions = {},
): Promise<RemoteEngine> {
  const engine = new RemoteEngine(options, onProgress, start)
  await engine.started
  return engine
}

interface RemoteStream {
  /** Of a request whose crashes are counted; training runs have none. */
  readonly requestId?: string
  readonly events: EventQueue<StreamEvent>
  /** Events read and not yet granted anew. */
  nRead: number
}

interface Call {
  resolve(value: unknown): void
  reject(error: EngineError): void
}

export class RemoteEngine implements Engine, TrainingEngine {
  readonly #process: EngineProcess
  readonly #streams = new Map<number, RemoteStream>()
  readonly #calls = new Map<number, Call>()
  readonly #adapters = new Map<number, LoadAdapterRequest>()
  /** Requests by id that were in flight when the process ended. */
  readonly #crashesOf = new Map<string, number>()
  readonly #grants = new Map<number, number>()
  #info: ModelInfo | undefined
  #nextId = 0
  #draining = false

  constructor(options: EngineOptions, onProgress: (progress: Progress) => void, start: StartOptions) {
    const hostPath = start.hostPath ?? fileURLToPath(new URL('./host.js', import.meta.url))
    this.#process = new EngineProcess(hostPath, options, {
      onMessage: (message) => this.#receive(message),
      onProgress,
      onUp: (info) => this.#up(info),
      onDown: (reason) => this.#down(reason),
    }, { ...PROCESS_TIMINGS, ...start.timings })
  }

  get started(): Promise<void> {
    return this.#process.started
  }

  get info(): ModelInfo {
    if (this.#info === undefined) throw new EngineError('ENGINE_UNAVAILABLE', 'the engine has not started')
    return this.#info
  }

  get state(): EngineState {
    return this.#process.state
  }

  get restarts(): number {
    return this.#process.restarts
  }

  /** Process id of the engine while there is one. */
  get pid(): number | undefined {
    return this.#process.pid
  }

  generate(request: GenerateRequest, signal?: AbortSignal): AsyncIterable<GenerateEvent> {
    const id = this.#nextId++
    const leave = () => {
      signal?.removeEventListener('abort', onAbort)
      if (this.#streams.delete(id)) this.#process.send({ type: 'leave', stream: id })
    }
    const onAbort = () => {
      leave()
      stream.events.fail(new EngineError('ABORTED', 'the request was aborted'))
    }
    const stream: RemoteStream = {
      requestId: request.id,
      nRead: 0,
      events: new EventQueue<StreamEvent>({
        onStart: () => {
          if (signal?.aborted === true) return onAbort()
          signal?.addEventListener('abort', onAbort, { once: true })
          this.#open(id, stream, { type: 'generate', stream: id, request })
        },
        onFull: () => {},
        onDrained: () => {},
        onDelivered: () => this.#delivered(id, stream),
        onLeave: leave,
        onEnd: () => signal?.removeEventListener('abort', onAbort),
      }),
    }
    return stream.events as AsyncIterable<GenerateEvent>
  }

  /** The engine's death ends the run with ENGINE_RESTARTED; the same request goes on from its last checkpoint. */
  train(request: TrainRequest, signal?: AbortSignal): AsyncIterable<TrainEvent> {
    const id = this.#nextId++
    const onAbort = () => this.#process.send({ type: 'abort', stream: id })
    const stream: RemoteStream = {
      nRead: 0,
      events: new EventQueue<StreamEvent>({
        onStart: () => {
          this.#open(id, stream, { type: 'train', stream: id, request })
          if (signal?.aborted === true) onAbort()
          else signal?.addEventListener('abort', onAbort, { once: true })
        },
        onFull: () => {},
        onDrained: () => {},
        onDelivered: () => this.#delivered(id, stream),
        onLeave: () => { if (this.#streams.delete(id)) this.#process.send({ type: 'leave', stream: id }) },
        onEnd: () => signal?.removeEventListener('abort', onAbort),
      }),
    }
    return stream.events as AsyncIterable<TrainEvent>
  }

  tokenize(prompt: Prompt): Promise<number[]> {
    return this.#call('tokenize', prompt)
  }

  detokenize(tokenIds: readonly number[]): Promise<string> {
    return this.#call('detokenize', tokenIds)
  }

  async loadAdapter(request: LoadAdapterRequest): Promise<AdapterInfo> {
    const info = await this.#call<AdapterInfo>('loadAdapter', request)
    this.#adapters.set(request.slot, request)
    return info
  }

  prefetchAdapter(path: string): Promise<void> {
    return this.#call('prefetchAdapter', path)
  }

  async unloadAdapter(slot: number): Promise<void> {
    this.#adapters.delete(slot)
    await this.#call('unloadAdapter', slot)
  }

  validateAdapter(path: string): Promise<AdapterInfo> {
    return this.#call('validateAdapter', path)
  }

  stats(): Promise<EngineStats> {
    return this.#call('stats')
  }

  async drain(timeoutMs: number): Promise<void> {
    this.#draining = true
    if (this.state === 'ready') await this.#call('drain', timeoutMs)
  }

  async close(): Promise<void> {
    if (this.state === 'closed') return
    // Streams get their end from the process itself, as far as it still answers.
    const patience = new Promise((resolve) => setTimeout(resolve, CLOSE_PATIENCE_MS).unref())
    if (this.state === 'ready') await Promise.race([this.#call('close').catch(() => {}), patience])
    this.#process.stop()
    this.#failAll(new EngineError('ENGINE_UNAVAILABLE', 'the engine is closed'))
  }

  #open(id: number, stream: RemoteStream, message: Extract<ToEngine, { readonly stream: number }>): void {
    const refusal = this.#refusal(stream.requestId)
    if (refusal !== undefined) return stream.events.fail(refusal)
    this.#streams.set(id, stream)
    try {
      this.#process.send(message)
    } catch (cause) {
      this.#streams.delete(id)
      const message = `the request cannot be sent to the engine: ${(cause as Error).message}`
      stream.events.fail(new EngineError('INVALID_REQUEST', message, { cause }))
    }
  }

  #refusal(requestId: string | undefined): EngineError | undefined {
    if (this.#draining) return new EngineError('ENGINE_UNAVAILABLE', 'the engine is draining')
    if (this.state !== 'ready') return this.#unavailable()
    if (requestId === undefined || (this.#crashesOf.get(requestId) ?? 0) < MAX_CRASHES_OF_A_REQUEST) return undefined
    return new EngineError('QUARANTINED', 'the engine ended twice while this request ran: it is not tried again')
  }

  #unavailable(): EngineError {
    return new EngineError('ENGINE_UNAVAILABLE', `the engine is ${this.state}`, this.state === 'restarting' ? { retryAfterMs: 1000 } : {})
  }

  /** Reading is granted anew in batches, half a window at a time. */
  #delivered(id: number, stream: RemoteStream): void {
    if (++stream.nRead < STREAM_CREDITS / 2 || !this.#streams.has(id)) return
    if (this.#grants.size === 0) setImmediate(() => {
      this.#process.send({ type: 'credit', grants: [...this.#grants] })
      this.#grants.clear()
    })
    this.#grants.set(id, (this.#grants.get(id) ?? 0) + stream.nRead)
    stream.nRead = 0
  }

  #call<T>(method: RemoteMethod, ...args: unknown[]): Promise<T> {
    return this.state === 'ready' ? this.#send(method, args) : Promise.reject(this.#unavailable())
  }

  #send<T>(method: RemoteMethod, args: readonly unknown[]): Promise<T> {
    const call = this.#nextId++
    return new Promise<T>((resolve, reject) => {
      this.#calls.set(call, { resolve: resolve as (value: unknown) => void, reject })
      this.#process.send({ type: 'call', call, method, args })
    })
  }

  #receive(message: FromEngine): void {
    if (message.type === 'events') {
      for (const [id, event] of message.events) this.#streams.get(id)?.events.push(event)
      for (const [id, error] of message.ended) this.#end(id, error === null ? null : fromPlain(error))
    } else if (message.type === 'result' || message.type === 'error') {
      const call = this.#calls.get(message.call)
      this.#calls.delete(message.call)
      if (message.type === 'result') call?.resolve(message.value)
      else call?.reject(fromPlain(message.error))
    }
  }

  #end(id: number, error: EngineError | null): void {
    const stream = this.#streams.get(id)
    this.#streams.delete(id)
    if (error === null) stream?.events.end()
    else stream?.events.fail(error)
  }

  /** A process that starts again gets the adapters that were resident. One that no longer loads is missing, and its requests say so. */
  async #up(info: ModelInfo): Promise<void> {
    this.#info = info
    await Promise.all([...this.#adapters.values()].map(async (request) => {
      try {
        await this.#send('loadAdapter', [request])
      } catch {
        this.#adapters.delete(request.slot)
      }
    }))
  }

  #down(reason: string): void {
    for (const { requestId } of this.#streams.values()) {
      if (requestId !== undefined) this.#crashesOf.set(requestId, (this.#crashesOf.get(requestId) ?? 0) + 1)
    }
    for (const id of this.#crashesOf.keys()) {
      if (this.#crashesOf.size <= MAX_REMEMBERED_CRASHES) break
      this.#crashesOf.delete(id)
    }
    this.#failAll(new EngineError('ENGINE_RESTARTED', `the engine's process ended while this ran: ${reason}`, { retryAfterMs: 1000 }))
  }

  #failAll(error: EngineError): void {
    for (const id of [...this.#streams.keys()]) this.#end(id, error)
    for (const call of this.#calls.values()) call.reject(error)
    this.#calls.clear()
  }
}
