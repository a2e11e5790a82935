// A deterministic engine in memory, scripted by the test: what it answers, how fast, where it fails. It keeps the contract of
// engine/api.ts, counts what is in flight, and remembers every request that reached it.

import { setTimeout as sleep } from 'node:timers/promises'
import type {
  AdapterInfo, DeviceStats, Engine, EngineState, EngineStats, FinishReason, GenerateEvent, GenerateRequest, ModelInfo, Prompt, TokenLogprob,
} from '../../engine/api.js'
import { EngineError } from '../../engine/errors.js'

export interface FakeScript {
  /** Tokens of a choice, as text; the model's own end follows. */
  reply?: (request: GenerateRequest, choice: number) => readonly string[]
  /** Before each token. */
  delayMs?: number
  /** Thrown before the first event. */
  refuse?: EngineError
  /** Thrown instead of the n-th token (0-based) of the first choice. */
  failAt?: { readonly token: number; readonly error: Error }
}

export const FAKE_INFO: ModelInfo = {
  name: 'gemma-3-fake', source: '/models/fake', hash: 'abcdef0123456789', device: 'cpu', compute: 'fp32', weights: 'nf4', head: 'bf16',
  vocabSize: 1_000, hiddenSize: 8, nLayers: 2, maxModelLen: 4_096, hasTokenizer: true, stopTokenIds: [1, 106], defaultSampling: {},
  maxLoras: 8, maxLoraRank: 64, kvBlockTokens: 16, nGlobalBlocks: 100, nSlidingBlocks: 50,
}

const NO_STEPS = { steps: 0, seconds: { upload: 0, layers: 0, head: 0, sample: 0 } }
export const NO_DEVICE: DeviceStats = {
  totalBytes: 0, freeBytes: 0, graphs: { hit: 0, capture: 0, plain: 0 },
  stepTimes: { prefill: NO_STEPS, decode: NO_STEPS, mixed: NO_STEPS },
}

const BOS = 2
const FIRST_ID = 100
const REPLY = ['Hello', ',', ' wor', 'ld', '!']

export class FakeEngine implements Engine {
  readonly info: ModelInfo
  state: EngineState = 'ready'
  restarts = 0
  script: FakeScript
  /** Every request that generate() was called with. */
  readonly requests: GenerateRequest[] = []
  /** Requests that ended because their signal was aborted or their reader left. */
  aborted = 0
  /** Tokens that were produced, over all requests. */
  tokens = 0
  readonly #vocabulary: string[] = []
  readonly #active = new Set<{ crash: boolean }>()

  constructor(script: FakeScript = {}, info: Partial<ModelInfo> = {}) {
    this.script = script
    this.info = { ...FAKE_INFO, ...info }
  }

  get active(): number {
    return this.#active.size
  }

  /** The process dies: whatever runs ends with ENGINE_RESTARTED, and nothing runs until recover(). */
  crash(): void {
    this.state = 'restarting'
    for (const run of this.#active) run.crash = true
  }

  recover(): void {
    this.restarts++
    this.state = 'ready'
  }

  async *generate(request: GenerateRequest, signal?: AbortSignal): AsyncGenerator<GenerateEvent> {
    this.requests.push(request)
    if (this.script.refuse !== undefined) throw this.script.refuse
    if (this.state !== 'ready') throw new EngineError('ENGINE_UNAVAILABLE', 'The engine restarts.')
    const run = { crash: false }
    this.#active.add(run)
    let complete = false
    try {
      yield* this.#run(request, run, signal)
      complete = true
    } finally {
      if (!complete && !run.crash) this.aborted++
      this.#active.delete(run)
    }
  }

  async *#run(request: GenerateRequest, run: { crash: boolean }, signal: AbortSignal | undefined): AsyncGenerator<GenerateEvent> {
    const promptTokenIds = this.#promptIds(request.prompt)
    const scored = request.promptLogprobs
    const promptLogprobs = scored === undefined ? undefined : promptTokenIds.map((id, i) => (i === 0 ? null : this.#logprob(id, scored)))
    yield { type: 'started', promptTokenIds, cachedTokens: 0, ...(promptLogprobs && { promptLogprobs }) }
    const choices = Array.from({ length: request.n ?? 1 }, (_, index) => new FakeChoice(request, index, this.#replyOf(request, index)))
    for (const choice of choices) if (choice.finished) yield choice.end
    for (let step = 0; choices.some((choice) => !choice.finished); step++) {
      await this.#step(step, run, signal)
      for (const choice of choices) if (!choice.finished) yield* this.#events(choice, request)
    }
  }

  async #step(step: number, run: { crash: boolean }, signal: AbortSignal | undefined): Promise<void> {
    await (this.script.delayMs === undefined ? new Promise(setImmediate) : sleep(this.script.delayMs))
    if (run.crash) throw new EngineError('ENGINE_RESTARTED', 'The engine process died.')
    if (signal?.aborted === true) throw new EngineError('ABORTED', 'The request was aborted.')
    const { failAt } = this.script
    if (failAt?.token === step) throw failAt.error
  }

  *#events(choice: FakeChoice, { logprobs }: GenerateRequest): Generator<GenerateEvent> {
    const token = choice.next()
    if (token !== undefined) {
      this.tokens++
      const tokenId = this.#idOf(token.piece)
      const scores = logprobs === undefined ? {} : { logprobs: [this.#logprob(tokenId, logprobs)] }
      yield { type: 'delta', index: choice.index, text: token.text, tokenIds: [tokenId], ...scores }
    }
    if (choice.finished) yield choice.end
  }

  #replyOf(request: GenerateRequest, choice: number): readonly string[] {
    return this.script.reply?.(request, choice) ?? REPLY
  }

  #idOf(piece: string): number {
    const known = this.#vocabulary.indexOf(piece)
    return FIRST_ID + (known === -1 ? this.#vocabulary.push(piece) - 1 : known)
  }

  #logprob(tokenId: number, nTop: number): TokenLogprob {
    const text = this.#textOf(tokenId)
    const entry = (rank: number) =>
      ({ tokenId: tokenId + rank, text: rank === 0 ? text : `${text}~${rank}`, bytes: [...Buffer.from(text)], logprob: -0.5 - rank })
    return { ...entry(0), top: Array.from({ length: nTop }, (_, rank) => entry(rank)) }
  }

  #textOf(tokenId: number): string {
    return tokenId === BOS ? '<bos>' : (this.#vocabulary[tokenId - FIRST_ID] ?? `<${tokenId}>`)
  }

  #promptIds(prompt: Prompt): number[] {
    if ('tokenIds' in prompt) return [...prompt.tokenIds]
    const text = 'text' in prompt ? prompt.text : prompt.messages.map(({ content }) => content).join('\n')
    return [BOS, ...text.split(/(?<= )/).filter((piece) => piece !== '').map((piece) => this.#idOf(piece))]
  }

  async tokenize(prompt: Prompt): Promise<number[]> {
    return this.#promptIds(prompt)
  }

  async detokenize(tokenIds: readonly number[]): Promise<string> {
    return tokenIds.map((id) => this.#textOf(id)).join('')
  }

  async loadAdapter(): Promise<AdapterInfo> {
    return { rank: 8, bytes: 1_024, nTensors: 14, warnings: [] }
  }

  async prefetchAdapter(): Promise<void> {}

  async unloadAdapter(): Promise<void> {}

  async validateAdapter(): Promise<AdapterInfo> {
    return this.loadAdapter()
  }

  async stats(): Promise<EngineStats> {
    return {
      running: this.active, waiting: 0, waitingByReason: { capacity: 0, deferred: 0 }, runningSlots: [], waitingSlots: [], kvUsage: 0.25,
      prefixQueries: 10, prefixHits: 5, preemptions: 0, promptTokens: 0, generationTokens: this.tokens, nanRows: 0, steps: this.tokens,
      stepTokens: [], stepSeconds: [], memory: { weights: 1_000 }, device: NO_DEVICE, lastStepAtMs: 0,
    }
  }

  async drain(): Promise<void> {}

  async close(): Promise<void> {
    this.state = 'closed'
  }
}

/** One choice being written: stop strings are held back as a real detokeniser would. */
class FakeChoice {
  readonly index: number
  readonly #request: GenerateRequest
  readonly #pieces: readonly string[]
  #at: number
  #text = ''
  #shown = 0
  #reason: FinishReason | undefined
  #stopReason: string | null = null

  constructor(request: GenerateRequest, index: number, pieces: readonly string[]) {
    this.#request = request
    this.index = index
    this.#pieces = pieces
    const resumed = request.resume?.[index]?.tokenIds.length ?? 0
    this.#at = resumed
    this.#text = pieces.slice(0, resumed).join('')
    this.#shown = this.#safeLength()
    if (request.maxTokens === 0) this.#reason = 'length'
  }

  get finished(): boolean {
    return this.#reason !== undefined
  }

  /** The next token and the text that may be shown; undefined when the reply is at its end. */
  next(): { readonly piece: string; readonly text: string } | undefined {
    const piece = this.#pieces[this.#at]
    if (piece === undefined) {
      this.#reason = 'stop'
      return undefined
    }
    this.#at++
    this.#text += piece
    this.#checkStop()
    if (this.#reason === undefined && this.#at >= (this.#request.maxTokens ?? Infinity)) this.#reason = 'length'
    const text = this.finished ? '' : this.#text.slice(this.#shown, this.#safeLength())
    this.#shown += text.length
    return { piece, text }
  }

  #checkStop(): void {
    const hits = (this.#request.stop ?? []).flatMap((stop) => (this.#text.includes(stop) ? [{ stop, at: this.#text.indexOf(stop) }] : []))
    const [first] = hits.sort((a, b) => a.at - b.at)
    if (first === undefined) return
    this.#text = this.#text.slice(0, first.at + (this.#request.includeStopInOutput === true ? first.stop.length : 0))
    this.#reason = 'stop'
    this.#stopReason = first.stop
  }

  /** Up to the longest tail that may yet become a stop string. */
  #safeLength(): number {
    const tails = (this.#request.stop ?? []).map((stop) => {
      for (let n = stop.length - 1; n > 0; n--) if (this.#text.endsWith(stop.slice(0, n))) return n
      return 0
    })
    return this.#text.length - Math.max(0, ...tails)
  }

  get end(): GenerateEvent {
    return {
      type: 'finished', index: this.index, text: this.#text.slice(this.#shown),
      reason: this.#reason ?? 'stop', stopReason: this.#stopReason, completionTokens: this.#at,
      timings: { queuedMs: 0, prefillMs: 1, decodeMs: 2, ttftMs: 1, preemptions: 0 },
    }
  }
}
