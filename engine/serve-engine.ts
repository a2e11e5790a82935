// The engine's side of the protocol: one LocalEngine behind this process's IPC channel.

import { writeSync } from 'node:fs'
import type { EngineOptions, Progress } from './api.js'
import type { LocalEngine } from './engine.js'
import { EngineError } from './errors.js'
import { toEngineError } from './native.js'
import {
  BEAT_MS, type FromEngine, PROTOCOL_VERSION, type PlainError, type RemoteMethod, STREAM_CREDITS, type StreamEvent, type ToEngine,
  toPlain,
} from './protocol.js'

/** How long a parent that does not read may hold up the end of this process, ms. */
const LAST_WORDS_MS = 1000

export type CreateEngine = (options: EngineOptions, onProgress: (progress: Progress) => void) => Promise<LocalEngine>

/** Serves the parent until it closes the engine or goes away. */
export function serveEngine(create: CreateEngine): void {
  // A terminal's Ctrl-C reaches the whole process group: the parent decides what it means.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})
  // Without its parent nobody reads what this process makes. It holds no state, and an exit could wait for a step that never ends.
  const end = () => process.kill(process.pid, 'SIGKILL')
  process.on('disconnect', end)
  if (!process.connected) return void end()  // it went while this file was being loaded
  let served: ServedEngine | undefined
  process.on('message', (message: ToEngine) => {
    if (message.type === 'start') void start(create, message).then((engine) => { served = engine })
    else served?.receive(message)
  })
  setInterval(() => {
    // A device that is given up needs a new process: the parent ends this one.
    if (served?.failure) send({ type: 'failed', error: toPlain(served.failure) })
    else send({ type: 'beat', progress: served?.hasProgressed() ?? true })
  }, BEAT_MS)
}

async function start(create: CreateEngine, { version, options }: Extract<ToEngine, { type: 'start' }>): Promise<ServedEngine | undefined> {
  try {
    if (version !== PROTOCOL_VERSION) {
      throw new EngineError('INTERNAL', `the engine speaks protocol ${PROTOCOL_VERSION}, the server ${version}: run "npm run setup"`)
    }
    const engine = await create(options, (progress) => send({ type: 'progress', progress }))
    engine.onDeviceLost = deviceLost
    send({ type: 'ready', info: engine.info, fullStepMs: engine.fullStepMs })
    return new ServedEngine(engine)
  } catch (error) {
    send({ type: 'failed', error: toPlain(toEngineError(error)) })
    return undefined
  }
}

/** Nothing more is sent: requests are to hear of the process's end alone. */
let isEnding = false

/**
 * Only a new process gets its device back, so this one ends as if it had crashed: requests are told of the restart, or resumed, and not of
 * this error. At once, and by SIGKILL: what runs at an ordinary end would call the device again.
 */
function deviceLost(error: EngineError): void {
  writeSync(process.stderr.fd, `lorikeet: the engine ends, its device is lost: ${error.message}\n`)
  const end = () => process.kill(process.pid, 'SIGKILL')
  if (!process.connected) return void end()
  process.send?.({ type: 'failed', error: toPlain(error) } satisfies FromEngine, undefined, undefined, end)
  setTimeout(end, LAST_WORDS_MS)
  isEnding = true
}

interface Stream {
  readonly iterator: AsyncIterator<StreamEvent>
  /** Stops a training run. */
  readonly controller: AbortController
  credits: number
  onCredit: () => void
  left: boolean
}

class ServedEngine {
  readonly #engine: LocalEngine
  readonly #streams = new Map<number, Stream>()
  #events: [number, StreamEvent][] = []
  #ended: [number, PlainError | null][] = []
  #lastSteps = 0
  #flushQueued = false

  constructor(engine: LocalEngine) {
    this.#engine = engine
  }

  get failure(): EngineError | null {
    return this.#engine.failure
  }

  receive(message: ToEngine): void {
    if (message.type === 'generate') this.#open(message.stream, () => this.#engine.generate(message.request))
    else if (message.type === 'train') this.#open(message.stream, (signal) => this.#engine.train(message.request, signal))
    else if (message.type === 'call') void this.#call(message.call, message.method, message.args)
    else if (message.type === 'leave') this.#leave(message.stream)
    else if (message.type === 'abort') this.#streams.get(message.stream)?.controller.abort()
    else if (message.type === 'credit') for (const [stream, events] of message.grants) this.#grant(stream, events)
  }

  hasProgressed(): boolean {
    const { steps, isBusy } = this.#engine.pulse
    const progressed = steps !== this.#lastSteps || !isBusy
    this.#lastSteps = steps
    return progressed
  }

  #open(id: number, start: (signal: AbortSignal) => AsyncIterable<StreamEvent>): void {
    const controller = new AbortController()
    const iterator = start(controller.signal)[Symbol.asyncIterator]()
    const stream: Stream = { iterator, controller, credits: STREAM_CREDITS, onCredit: () => {}, left: false }
    this.#streams.set(id, stream)
    void this.#pump(id, stream)
  }

  /** Passes events on as far as the reader has granted; the engine's own queue holds up the rest. */
  async #pump(id: number, stream: Stream): Promise<void> {
    let failure: PlainError | null = null
    try {
      while (!stream.left) {
        if (stream.credits === 0) await new Promise<void>((resolve) => { stream.onCredit = resolve })
        const { done, value } = await stream.iterator.next()
        if (done === true) break
        stream.credits--
        this.#events.push([id, value])
        this.#queueFlush()
      }
    } catch (error) {
      failure = toPlain(toEngineError(error))
    }
    this.#streams.delete(id)
    this.#ended.push([id, failure])
    this.#queueFlush()
  }

  #leave(id: number): void {
    const stream = this.#streams.get(id)
    if (stream === undefined) return
    stream.left = true
    void stream.iterator.return?.()
    stream.onCredit()
  }

  #grant(id: number, events: number): void {
    const stream = this.#streams.get(id)
    if (stream === undefined) return
    stream.credits += events
    stream.onCredit()
  }

  async #call(call: number, method: RemoteMethod, args: readonly unknown[]): Promise<void> {
    try {
      const run = this.#engine[method] as (...args: readonly unknown[]) => Promise<unknown>
      send({ type: 'result', call, value: await run.apply(this.#engine, [...args]) })
    } catch (error) {
      send({ type: 'error', call, error: toPlain(toEngineError(error)) })
    }
  }

  #queueFlush(): void {
    if (this.#flushQueued) return
    this.#flushQueued = true
    setImmediate(() => {
      this.#flushQueued = false
      send({ type: 'events', events: this.#events, ended: this.#ended })
      this.#events = []
      this.#ended = []
    })
  }
}

function send(message: FromEngine): void {
  if (process.connected && !isEnding) process.send?.(message, undefined, undefined, () => {})
}
