// The engine in this process: owns the device loop, the requests in flight and the adapter slots.

import type {
  AdapterInfo, Engine, EngineState, EngineStats, GenerateEvent, GenerateRequest, LoadAdapterRequest, ModelInfo, Prompt,
} from './api.js'
import { ActiveRequest } from './active-request.js'
import { AdapterTable } from './adapter-table.js'
import type { Choice, Ending } from './choice.js'
import { detokenize } from './detokenizer.js'
import { EngineError } from './errors.js'
import { KvBlocks } from './kv-blocks.js'
import { makeChoices } from './make-choices.js'
import { type NativeModel, type NativeStepResult, toEngineError } from './native.js'
import type { PromptEncoder } from './prompt-encoder.js'
import { Scheduler } from './scheduler.js'
import type { Sequence } from './sequence.js'
import { type RowResult, type StepPlan, buildStep, readStep } from './step-plan.js'
import type { TokenTable } from './token-table.js'
import { validatePrompt, validateRequest } from './validate.js'

export interface EngineParts {
  readonly model: NativeModel
  readonly info: ModelInfo
  readonly encoder: PromptEncoder | null
  readonly table: TokenTable | null
  readonly maxNumSeqs: number
  readonly maxBatchTokens: number
  readonly maxQueue: number
  readonly prefixCache: boolean
  /** Milliseconds a step of maxBatchTokens takes, as far as is known: what a watchdog must allow for. */
  readonly fullStepMs: number
}

interface StepInFlight {
  readonly plan: StepPlan
  readonly result: Promise<NativeStepResult | EngineError>
}

/** Steps on the device or queued behind it: the next one is planned while this one runs. */
const STEPS_IN_FLIGHT = 2
const MAX_STEP_TOKEN_SAMPLES = 1024
/** Whole steps that may fail in a row before the engine gives up. */
const MAX_FAILED_STEPS = 3

export class LocalEngine implements Engine {
  readonly info: ModelInfo
  /** The model itself: for goldens and scripts. */
  readonly model: NativeModel
  readonly restarts = 0
  readonly fullStepMs: number
  state: EngineState = 'ready'
  readonly #parts: EngineParts
  readonly #scheduler: Scheduler
  readonly #adapters: AdapterTable
  readonly #requests = new Map<string, ActiveRequest>()
  readonly #owners = new Map<Sequence, { active: ActiveRequest; choice: Choice }>()
  readonly #loop: Promise<void>
  readonly #stepTokens: number[] = []
  #wake: () => void = () => {}
  #idleWaiters: (() => void)[] = []
  #draining = false
  #failedSteps = 0
  #nanRows = 0
  #steps = 0
  #promptTokens = 0
  #generationTokens = 0
  #lastStepAt = performance.now()
  #requestMs = 1000

  constructor(parts: EngineParts) {
    this.#parts = parts
    this.info = parts.info
    this.model = parts.model
    this.fullStepMs = parts.fullStepMs
    const { model } = parts
    this.#scheduler = new Scheduler({
      kv: new KvBlocks({
        blockTokens: model.info.blockTokens, window: model.info.slidingWindow,
        nGlobalBlocks: model.info.nGlobalBlocks, nSlidingBlocks: model.info.nSlidingBlocks,
      }),
      maxNumSeqs: parts.maxNumSeqs,
      maxBatchTokens: parts.maxBatchTokens,
    })
    this.#adapters = new AdapterTable(model, parts.info.maxLoras)
    this.#loop = this.#run()
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
        this.#wake()
      },
      onLeave: () => this.#abort(active, new EngineError('ABORTED', 'the reader left')),
    })
    return active.events
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
    const slotsOf = (sequences: Iterable<Sequence>) => [...new Set(Array.from(sequences, (sequence) => sequence.adapterSlot))].filter((slot) => slot >= 0)
    const deferred = scheduler.nDeferred
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
      steps: this.#steps,
      stepTokens: this.#stepTokens.splice(0),
      memory: this.#parts.model.memory(),
      lastStepAtMs: performance.now() - this.#lastStepAt,
    }
  }

  /** Steps finished so far, and whether any sequence could go on: together they show whether the loop makes progress. */
  get pulse(): { readonly steps: number; readonly isBusy: boolean } {
    return { steps: this.#steps, isBusy: this.#scheduler.running.some((sequence) => !sequence.paused) }
  }

  async drain(timeoutMs: number): Promise<void> {
    this.#draining = true
    const idle = this.#idle()
    const timer = setTimeout(() => this.#finishAll({ reason: 'abort', stopReason: null }), timeoutMs)
    await idle
    clearTimeout(timer)
  }

  async close(): Promise<void> {
    if (this.state === 'closed') return this.#loop
    this.state = 'closed'
    this.#failAll(new EngineError('ENGINE_UNAVAILABLE', 'the engine is closed'))
    this.#wake()
    await this.#loop
    this.#parts.model.close()
  }

  /** The device loop: plan, submit, and read results in order, with the next plan queued before the last result is read. */
  async #run(): Promise<void> {
    const inFlight: StepInFlight[] = []
    while (this.state !== 'closed' || inFlight.length > 0) {
      while (inFlight.length < STEPS_IN_FLIGHT && this.state === 'ready') {
        const plan = buildStep(this.#scheduler.plan())
        if (plan.rows.length === 0) break
        inFlight.push({ plan, result: this.#submit(plan) })
      }
      const step = inFlight.shift()
      if (step === undefined) {
        await new Promise<void>((resolve) => { this.#wake = resolve })
        continue
      }
      const result = await step.result
      this.#lastStepAt = performance.now()
      if (result instanceof EngineError) this.#stepFailed(result)
      else this.#commit(step.plan, result)
    }
  }

  async #submit(plan: StepPlan): Promise<NativeStepResult | EngineError> {
    for (const row of plan.rows) if (row.starts) this.#owners.get(row.sequence)?.active.admitted()
    try {
      return await this.#parts.model.step(plan.native)
    } catch (error) {
      return toEngineError(error)
    }
  }

  #commit(plan: StepPlan, result: NativeStepResult): void {
    this.#steps++
    this.#failedSteps = 0
    this.#stepTokens.push(plan.nTokens)
    if (this.#stepTokens.length > MAX_STEP_TOKEN_SAMPLES) this.#stepTokens.shift()
    for (const row of readStep(plan, result)) this.#commitRow(row)
  }

  #commitRow(result: RowResult): void {
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
    if (sequence.maxTokens === 0 && sequence.status === 'running' && result.row.to >= sequence.promptIds.length - 1) this.#finishScored(active)
  }

  #failNan(active: ActiveRequest, sequence: Sequence): void {
    this.#nanRows++
    this.#scheduler.poison(sequence)
    this.#abort(active, new EngineError('INTERNAL', 'the model computed NaN for this request'))
  }

  /** After a step that failed as a whole, no state on the device is certain: running requests fail, waiting ones go on. */
  #stepFailed(error: EngineError): void {
    for (const sequence of [...this.#scheduler.running]) {
      const owner = this.#owners.get(sequence)
      if (owner !== undefined) this.#abort(owner.active, error)
    }
    this.#scheduler.kv.forgetAll()
    if (++this.#failedSteps < MAX_FAILED_STEPS && error.code !== 'CUDA_ERROR') return
    this.state = 'failed'
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
    if (this.#requests.has(request.id)) throw new EngineError('INVALID_REQUEST', `id: "${request.id}" is in flight already`, { param: 'id' })
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
    this.#wake()
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
    this.#wake()
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
    this.#checkLength(prompt)
    return this.#parts.encoder!.encode(prompt)
  }

  /** A text that no tokens of the context could hold is refused before time goes into its tokens. */
  #checkLength(prompt: Exclude<Prompt, { tokenIds: unknown }>): void {
    const texts = 'text' in prompt ? [prompt.text] : prompt.messages.map((message) => message.content)
    const nBytes = texts.reduce((n, text) => n + Buffer.byteLength(text), 0)
    const { maxModelLen } = this.info
    const least = Math.ceil(nBytes / (this.#parts.table?.longestToken ?? Infinity))
    if (least <= maxModelLen) return
    throw new EngineError('CONTEXT_LENGTH_EXCEEDED', `this model's context is ${maxModelLen} tokens: the prompt has at least ${least}`, {
      param: 'text' in prompt ? 'prompt' : 'messages',
    })
  }
}
