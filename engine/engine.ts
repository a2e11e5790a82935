// The engine in this process: the requests in flight, their way into the scheduler and out of the device loop, and the adapter slots.

import type {
  AdapterInfo, Engine, EngineState, EngineStats, GenerateEvent, GenerateRequest, LoadAdapterRequest, ModelInfo, Prompt,
} from './api.js'
import { ActiveRequest } from './active-request.js'
import { AdapterTable } from './adapter-table.js'
import type { Choice, Ending } from './choice.js'
import { DeviceLoop } from './device-loop.js'
import { watchDevice } from './device-watch.js'
import { detokenize } from './detokenizer.js'
import { EngineError } from './errors.js'
import { KvBlocks, kvShapeOf } from './kv-blocks.js'
import { makeChoices } from './make-choices.js'
import { type NativeModel, toEngineError } from './native.js'
import type { PromptEncoder } from './prompt-encoder.js'
import { Scheduler } from './scheduler.js'
import type { Sequence } from './sequence.js'
import type { RowResult } from './step-plan.js'
import type { TokenTable } from './token-table.js'
import type { TrainBase } from './train/trainer.js'
import { TrainingSlot } from './train/training-slot.js'
import type { TrainEvent, TrainRequest, TrainingEngine } from './train/types.js'
import { validatePrompt, validateRequest } from './validate.js'

export interface EngineParts {
  readonly model: NativeModel
  readonly info: ModelInfo
  readonly encoder: PromptEncoder | null
  readonly table: TokenTable | null
  /** Absent: this engine does not train. */
  readonly training?: Pick<TrainBase, 'encoder' | 'tokenizerFiles'>
  readonly maxNumSeqs: number
  readonly maxBatchTokens: number
  readonly maxQueue: number
  readonly prefixCache: boolean
  /** Milliseconds a step of maxBatchTokens takes, as far as is known: what a watchdog must allow for. */
  readonly fullStepMs: number
}

export class LocalEngine implements Engine, TrainingEngine {
  readonly info: ModelInfo
  /** The model itself: for goldens and scripts. */
  readonly model: NativeModel
  readonly restarts = 0
  readonly fullStepMs: number
  state: EngineState = 'ready'
  /** Why the state is failed. */
  failure: EngineError | null = null
  /** Called once the device is lost, before any request hears of it. */
  onDeviceLost: (error: EngineError) => void = () => {}
  readonly #parts: EngineParts
  readonly #scheduler: Scheduler
  readonly #adapters: AdapterTable
  readonly #requests = new Map<string, ActiveRequest>()
  readonly #owners = new Map<Sequence, { active: ActiveRequest; choice: Choice }>()
  readonly #loop: DeviceLoop
  readonly #training: TrainingSlot
  #idleWaiters: (() => void)[] = []
  #draining = false
  #nanRows = 0
  #promptTokens = 0
  #generationTokens = 0
  #requestMs = 1000

  constructor(parts: EngineParts) {
    this.#parts = parts
    this.info = parts.info
    this.model = parts.model
    this.fullStepMs = parts.fullStepMs
    const model = watchDevice(parts.model, (error) => this.#deviceLost(error))
    this.#scheduler = new Scheduler({
      kv: new KvBlocks(kvShapeOf(model.info)),
      maxNumSeqs: parts.maxNumSeqs,
      maxBatchTokens: parts.maxBatchTokens,
      maxModelLen: parts.info.maxModelLen,
    })
    this.#adapters = new AdapterTable(model, parts.info.maxLoras)
    this.#training = new TrainingSlot(parts.training && {
      ...parts.training, info: parts.info, createTrainer: (options) => model.createTrainer(options),
    })
    this.#loop = new DeviceLoop(model, this.#scheduler, {
      onAdmitted: (sequence) => this.#owners.get(sequence)?.active.admitted(),
      onRow: (result) => this.#commit(result),
      onStepFailed: (sequences, error, isFinal) => this.#stepFailed(sequences, error, isFinal),
    })
  }

  generate(request: GenerateRequest, signal?: AbortSignal): AsyncIterable<GenerateEvent> {
    const onAbort = () => this.#abort(active, new EngineError('ABORTED', 'the request was aborted'))
    const active: ActiveRequest = new ActiveRequest(request, this.#parts.table, {
      onStart: () => {
        if (signal?.aborted === true) return onAbort()
        signal?.addEventListener('abort', onAbort, { once: true })
        active.onRelease = () => signal?.removeEventListener('abort', onAbort)
        void this.#start(active)
      },
      onFull: () => { for (const sequence of active.sequences) sequence.paused = true },
      onDrained: () => {
        for (const sequence of active.sequences) sequence.paused = false
        this.#loop.wake()
      },
      onLeave: () => this.#abort(active, new EngineError('ABORTED', 'the reader left')),
    })
    return active.events
  }

  train(request: TrainRequest, signal?: AbortSignal): AsyncIterable<TrainEvent> {
    return this.#training.run(request, signal)
  }

  async tokenize(prompt: Prompt): Promise<number[]> {
    validatePrompt(prompt, this.info)
    return [...await this.#encode(prompt)]
  }

  async detokenize(tokenIds: readonly number[]): Promise<string> {
    validatePrompt({ tokenIds: tokenIds.length === 0 ? [0] : tokenIds }, this.info)
    if (this.#parts.table === null) throw new EngineError('TEXT_WITHOUT_TOKENIZER', 'the model has no tokenizer')
    return detokenize(this.#parts.table, tokenIds, false)
  }

  loadAdapter(request: LoadAdapterRequest): Promise<AdapterInfo> {
    return this.#adapters.load(request)
  }

  async prefetchAdapter(path: string): Promise<void> {
    await this.#parts.model.prefetchAdapter(path).catch(() => {})
  }

  unloadAdapter(slot: number): Promise<void> {
    return this.#adapters.unload(slot)
  }

  async validateAdapter(path: string): Promise<AdapterInfo> {
    try {
      return await this.#parts.model.validateAdapter(path)
    } catch (error) {
      throw toEngineError(error)
    }
  }

  async stats(): Promise<EngineStats> {
    const scheduler = this.#scheduler
    const slotsOf = (sequences: Iterable<Sequence>) => [...new Set(Array.from(sequences, (sequence) => sequence.adapterSlot))]
      .filter((slot) => slot >= 0)
    const deferred = scheduler.nDeferred
    const steps = this.#loop.takeSteps()
    return {
      running: scheduler.running.length,
      waiting: scheduler.nWaiting,
      waitingByReason: { capacity: scheduler.nWaiting - deferred, deferred },
      runningSlots: slotsOf(scheduler.running),
      waitingSlots: slotsOf(scheduler.waiting()),
      kvUsage: scheduler.kv.usage,
      prefixQueries: scheduler.prefixQueries,
      prefixHits: scheduler.prefixHits,
      preemptions: scheduler.preemptions,
      promptTokens: this.#promptTokens,
      generationTokens: this.#generationTokens,
      nanRows: this.#nanRows,
      steps: this.#loop.nSteps,
      stepTokens: steps.tokens,
      stepSeconds: steps.seconds,
      memory: this.#parts.model.memory(),
      device: this.#parts.model.device(),
      lastStepAtMs: performance.now() - this.#loop.lastStepAt,
    }
  }

  /** Steps finished so far, and whether any sequence could go on: together they show whether the loop makes progress. */
  get pulse(): { readonly steps: number; readonly isBusy: boolean } {
    return { steps: this.#loop.nSteps, isBusy: this.#scheduler.running.some((sequence) => !sequence.paused) }
  }

  async drain(timeoutMs: number): Promise<void> {
    this.#draining = true
    const idle = this.#idle()
    const timer = setTimeout(() => this.#finishAll({ reason: 'abort', stopReason: null }), timeoutMs)
    await idle
    clearTimeout(timer)
  }

  async close(): Promise<void> {
    if (this.state === 'closed') return
    this.state = 'closed'
    this.#failAll(new EngineError('ENGINE_UNAVAILABLE', 'the engine is closed'))
    await this.#training.close()
    await this.#loop.stop()
    this.#parts.model.close()
  }

  #commit(result: RowResult): void {
    const { row: { sequence }, tokenId } = result
    const owner = this.#owners.get(sequence)
    if (owner === undefined) return
    const { active, choice } = owner
    if (tokenId === -1 || result.prompt.some((raw) => raw.tokenId < 0)) return this.#failNan(active, sequence)
    active.addPrompt(result)
    if (tokenId !== null && this.#scheduler.commit(result.row, tokenId)) {
      this.#generationTokens++
      if (active.addToken(choice, tokenId, result.logprob)) this.#end(active, sequence)
    }
    const isScored = sequence.maxTokens === 0 && result.row.to >= sequence.promptIds.length - 1
    if (isScored && sequence.status === 'running') this.#finishScored(active)
  }

  #failNan(active: ActiveRequest, sequence: Sequence): void {
    this.#nanRows++
    this.#scheduler.poison(sequence)
    this.#abort(active, new EngineError('INTERNAL', 'the model computed NaN for this request'))
  }

  #stepFailed(sequences: ReadonlySet<Sequence>, error: EngineError, isFinal: boolean): void {
    for (const sequence of sequences) {
      const owner = this.#owners.get(sequence)
      if (owner !== undefined) this.#abort(owner.active, error)
    }
    if (!isFinal) return
    this.state = 'failed'
    this.failure = error
    this.#failAll(error)
  }

  /** Whatever ran into it, an adapter's upload as well as a step: nothing can run here any more. */
  #deviceLost(error: EngineError): void {
    if (this.state !== 'ready') return
    this.state = 'failed'
    this.failure = error
    this.onDeviceLost(error)
    this.#failAll(error)
  }

  async #start(active: ActiveRequest): Promise<void> {
    const { request } = active
    try {
      this.#admitCheck(request)
      this.#requests.set(request.id, active)
      this.#adapters.pin(request.adapter ?? null)
    } catch (error) {
      if (this.#requests.get(request.id) === active) this.#requests.delete(request.id)
      active.onRelease()
      return active.fail(toEngineError(error))
    }
    try {
      active.promptIds = Int32Array.from(await this.#encode(request.prompt))
      if (active.done) return
      this.#enter(active)
    } catch (error) {
      this.#abort(active, toEngineError(error))
    }
  }

  #admitCheck(request: GenerateRequest): void {
    validateRequest(request, this.info)
    if (this.state !== 'ready' || this.#draining) {
      throw new EngineError('ENGINE_UNAVAILABLE', this.#draining ? 'the engine is draining' : `the engine is ${this.state}`)
    }
    if (this.#requests.has(request.id)) {
      throw new EngineError('INVALID_REQUEST', `id: "${request.id}" is in flight already`, { param: 'id' })
    }
    const { maxNumSeqs, maxQueue } = this.#parts
    let nChoices = request.n ?? 1
    for (const active of this.#requests.values()) nChoices += active.request.n ?? 1
    if (this.#requests.size > 0 && nChoices > maxNumSeqs + maxQueue) {
      const retryAfterMs = Math.min(60_000, Math.max(1000, this.#requestMs * this.#requests.size / maxNumSeqs))
      throw new EngineError('QUEUE_FULL', `${maxQueue} sequences wait already`, { retryAfterMs: Math.round(retryAfterMs) })
    }
  }

  #enter(active: ActiveRequest): void {
    const { request, promptIds } = active
    const { table, prefixCache } = this.#parts
    if (promptIds.some((id) => id >= this.info.vocabSize)) {
      throw new EngineError('MODEL_INVALID', `the tokenizer yields ids beyond the model's ${this.info.vocabSize}`)
    }
    active.choices = makeChoices(request, promptIds, { info: this.info, table, prefixCache })
    for (const choice of active.choices) this.#owners.set(choice.sequence, { active, choice })
    this.#promptTokens += promptIds.length
    if (request.maxTokens === 0 && (promptIds.length === 1 || request.promptLogprobs === undefined)) return this.#finishScored(active)
    for (const choice of active.choices) {
      const ending = choice.resume()
      if (ending !== null) active.finish(choice, ending)
    }
    if (active.done) return this.#release(active)
    const live = active.choices.filter((choice) => !choice.finished).map((choice) => choice.sequence)
    this.#scheduler.add(request.maxTokens === 0 ? live.slice(0, 1) : live)
    this.#loop.wake()
  }

  /** Scoring (maxTokens 0) samples nothing: one pass over the prompt serves every choice. */
  #finishScored(active: ActiveRequest): void {
    active.admitted()
    for (const choice of active.choices) active.finish(choice, { reason: 'length', stopReason: null })
    this.#release(active)
  }

  #end(active: ActiveRequest, sequence: Sequence): void {
    this.#scheduler.finish(sequence)
    this.#owners.delete(sequence)
    if (active.done) this.#release(active)
  }

  /** Ends a request with an error; its blocks are free before the next plan is made. */
  #abort(active: ActiveRequest, error: EngineError): void {
    active.fail(error)
    this.#release(active)
  }

  #release(active: ActiveRequest): void {
    for (const sequence of active.sequences) {
      this.#scheduler.finish(sequence)
      this.#owners.delete(sequence)
    }
    if (this.#requests.get(active.request.id) !== active) return
    this.#requests.delete(active.request.id)
    this.#adapters.unpin(active.request.adapter ?? null)
    active.onRelease()
    this.#requestMs += (performance.now() - active.arrivedAt - this.#requestMs) / 16
    if (this.#requests.size === 0) for (const resolve of this.#idleWaiters.splice(0)) resolve()
    this.#loop.wake()
  }

  #finishAll(ending: Ending): void {
    for (const active of [...this.#requests.values()]) {
      for (const choice of active.choices) active.finish(choice, ending)
      if (active.done) this.#release(active)
      else this.#abort(active, new EngineError('ENGINE_UNAVAILABLE', 'the engine stopped before this request began'))
    }
  }

  #failAll(error: EngineError): void {
    for (const active of [...this.#requests.values()]) this.#abort(active, error)
  }

  #idle(): Promise<void> {
    if (this.#requests.size === 0) return Promise.resolve()
    return new Promise((resolve) => { this.#idleWaiters.push(resolve) })
  }

  async #encode(prompt: Prompt): Promise<readonly number[]> {
    if ('tokenIds' in prompt) return prompt.tokenIds
    return this.#parts.encoder!.encode(prompt, this.info.maxModelLen)
  }
}
