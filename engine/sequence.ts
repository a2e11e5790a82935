// State of one choice of one request, from its prompt to its last token. Data and arithmetic only: the scheduler decides.

import type { BlockKeys, KvTable } from './kv-blocks.js'
import type { NativeSampling } from './native.js'

export interface SequenceOptions {
  readonly requestId: string
  readonly index: number
  readonly promptIds: Int32Array
  /** Tokens that an engine before this one has sampled (resume). */
  readonly outputIds?: readonly number[]
  /** Fairness class: one per adapter version, one for the base. */
  readonly flow: string
  readonly adapterSlot: number
  readonly sampling: NativeSampling
  /** New tokens at most, resumed ones included; 0 = only score the prompt. */
  readonly maxTokens: number
  readonly stopIds: ReadonlySet<number>
  /** Alternatives per sampled token, or -1. */
  readonly logprobs: number
  /** Alternatives per prompt token, or -1. */
  readonly promptLogprobs: number
  /** First position that is scored. Default 1. */
  readonly promptLogprobsFrom?: number
  /** Start of its prefix-cache keys; null = shares nothing. */
  readonly cacheSeed: string | null
}

export type SequenceStatus = 'waiting' | 'running' | 'finished'

export class Sequence {
  readonly requestId: string
  readonly index: number
  readonly promptIds: Int32Array
  readonly outputIds: number[]
  readonly flow: string
  readonly adapterSlot: number
  readonly sampling: NativeSampling
  readonly maxTokens: number
  readonly stopIds: ReadonlySet<number>
  readonly logprobs: number
  readonly promptLogprobs: number
  readonly promptLogprobsFrom: number
  readonly cacheSeed: string | null

  status: SequenceStatus = 'waiting'
  /** Row of the device's table while running, else -1. */
  slot = -1
  kv: KvTable | null = null
  /** Prefix-cache keys of its full blocks, made by the scheduler. */
  keys: BlockKeys | null = null
  /** Positions whose states are computed or planned. */
  nComputed = 0
  /** Tokens that plans in flight will sample. */
  nPending = 0
  /** The reader is behind: no new tokens for now. */
  paused = false
  preemptions = 0
  cachedTokens = 0
  /** The device must (re-)learn this sequence in its next plan. */
  needsStart = true

  constructor(options: SequenceOptions) {
    this.requestId = options.requestId
    this.index = options.index
    this.promptIds = options.promptIds
    this.outputIds = [...(options.outputIds ?? [])]
    this.flow = options.flow
    this.adapterSlot = options.adapterSlot
    this.sampling = options.sampling
    this.maxTokens = options.maxTokens
    this.stopIds = options.stopIds
    this.logprobs = options.logprobs
    this.promptLogprobs = options.promptLogprobs
    this.promptLogprobsFrom = options.promptLogprobsFrom ?? 1
    this.cacheSeed = options.cacheSeed
  }

  /** Tokens with known ids. */
  get nKnown(): number {
    return this.promptIds.length + this.outputIds.length
  }

  /** Tokens there will be once the plans in flight have run. */
  get nTokens(): number {
    return this.nKnown + this.nPending
  }

  /** All prompt tokens that need computing are computed or planned. */
  get prefilled(): boolean {
    return this.nComputed >= this.promptIds.length - (this.maxTokens === 0 ? 1 : 0)
  }

  /** Tokens that may be computed now: 0 = nothing to do until a result arrives, or ever again. */
  get nWanted(): number {
    if (this.maxTokens === 0) return Math.max(0, this.promptIds.length - 1 - this.nComputed)
    if (this.outputIds.length + this.nPending >= this.maxTokens) return 0
    return this.nTokens - this.nComputed
  }

  /** Id at a position; -1 = sampled by a plan whose result is not read yet. */
  tokenAt(position: number): number {
    const nPrompt = this.promptIds.length
    return position < nPrompt ? this.promptIds[position]! : this.outputIds[position - nPrompt] ?? -1
  }
}
