// Who computes what in the next step: admission, chunked prefill mixed with decode, preemption by recomputation, commit. Pure: no clock,
// no device, no text. Plans run in order, and the next plan is made before the result of the last one is read.

import { EngineError } from './errors.js'
import { FairQueue } from './fair-queue.js'
import { BlockKeys, type KvBlocks, type KvShape, type KvTable, type PrefixMatch } from './kv-blocks.js'
import type { Sequence } from './sequence.js'

export interface SchedulerOptions {
  readonly kv: KvBlocks
  readonly maxNumSeqs: number
  readonly maxBatchTokens: number
  readonly maxModelLen: number
  /** Share of admission of a flow; default 1 for all. */
  readonly weightOf?: (flow: string) => number
}

/** Tokens [from, to) of one sequence in one step. The block tables are the sequence's own: read them before the next plan. */
export interface PlannedRow {
  readonly sequence: Sequence
  readonly slot: number
  readonly from: number
  readonly to: number
  /** The last token's logits sample the next one. */
  readonly samples: boolean
  /** First time on the device, or again after preemption: sampling state must be sent. */
  readonly starts: boolean
  readonly kv: KvTable
}

/** What is left of one step. The device takes one output a sequence, maxNumSeqs in all. */
interface StepBudget {
  tokens: number
  outputs: number
}

/** Tokens of output that a request is charged for at admission, a choice: what it may take in the end is not known then. */
const CHARGED_OUTPUT_TOKENS = 256
/** Tokens a flow is granted in a round. */
export const ADMISSION_QUANTUM = 512

export class Scheduler {
  readonly kv: KvBlocks
  readonly maxBatchTokens: number
  readonly maxNumSeqs: number
  /** Tokens of one sequence in one step: bounded so that one sequence alone always fits the sliding pool. */
  readonly maxChunk: number
  /** Prompt tokens looked up in the prefix cache, and found. */
  prefixQueries = 0
  prefixHits = 0
  preemptions = 0

  /** In order of admission; the last is preempted first. */
  readonly #running: Sequence[] = []
  /** Already paid for: preempted sequences and further choices of an admitted prompt. */
  readonly #returning: Sequence[] = []
  readonly #queue: FairQueue<Sequence>
  /** Choices that wait until the first one's prompt is computed. */
  readonly #siblings = new Map<Sequence, Sequence[]>()
  readonly #freeSlots: number[]
  /** Sequences with a row in the plan being made: they must stay. */
  readonly #inPlan = new Set<Sequence>()

  /** @throws EngineError OUT_OF_MEMORY where not even one sequence fits */
  constructor(options: SchedulerOptions) {
    this.kv = options.kv
    const { shape } = options.kv
    this.maxBatchTokens = options.maxBatchTokens
    this.maxNumSeqs = Math.min(options.maxNumSeqs, options.maxBatchTokens)
    this.maxChunk = Math.min(options.maxBatchTokens, longestChunk(shape, options.maxModelLen))
    if (this.maxChunk < 1) {
      const message = `${shape.nSlidingBlocks} blocks do not hold one window of ${shape.window} tokens (set --kv-cache-bytes)`
      throw new EngineError('OUT_OF_MEMORY', message)
    }
    this.#queue = new FairQueue(ADMISSION_QUANTUM, options.weightOf)
    this.#freeSlots = Array.from({ length: this.maxNumSeqs }, (_, i) => this.maxNumSeqs - 1 - i)
  }

  get running(): readonly Sequence[] {
    return this.#running
  }

  get nWaiting(): number {
    return this.#queue.size + this.#returning.length + this.nDeferred
  }

  /** Waiting for something else than capacity: for the prompt of their first choice, for a slow reader, for a result in flight. */
  get nDeferred(): number {
    let n = this.#returning.filter((sequence) => !isReady(sequence)).length
    for (const siblings of this.#siblings.values()) n += siblings.length
    return n
  }

  /** Slots of adapters that waiting sequences name. */
  *waiting(): Generator<Sequence> {
    yield* this.#queue
    yield* this.#returning
    for (const siblings of this.#siblings.values()) yield* siblings
  }

  /** Adds the choices of one request; the first computes the prompt, the others then share its full blocks. */
  add(choices: readonly Sequence[]): void {
    const [first, ...others] = choices
    if (first === undefined) return
    for (const sequence of choices) sequence.keys = this.#keysOf(sequence)
    const cost = first.promptIds.length + choices.length * Math.min(first.maxTokens, CHARGED_OUTPUT_TOKENS)
    this.#queue.push(first, cost)
    if (others.length > 0) this.#siblings.set(first, others)
  }

  /** The rows of the next step; none when nothing can run before a result arrives or a request is added. */
  plan(): PlannedRow[] {
    this.#inPlan.clear()
    const rows: PlannedRow[] = []
    const preemptionsBefore = this.preemptions
    const queue = this.#running.filter((sequence) => !sequence.paused)
    // Each sequence that decodes keeps one token, and each at all one output, so that long or scored prompts never stop the others.
    const budget = { tokens: this.maxBatchTokens, outputs: this.maxNumSeqs }
    let nDecoding = queue.filter((sequence) => sequence.nWanted === 1).length
    queue.forEach((sequence, i) => {
      if (sequence.status !== 'running') return
      if (sequence.nWanted === 1) nDecoding--
      const n = this.#chunk(sequence, { tokens: budget.tokens - nDecoding, outputs: budget.outputs - (queue.length - 1 - i) })
      if (n > 0 && this.#makeRoom(sequence, n)) rows.push(this.#planRow(sequence, n, budget))
    })
    if (this.preemptions === preemptionsBefore) this.#admit(rows, budget)
    for (const { sequence } of rows) {
      this.#publish(sequence)
      if (sequence.prefilled) this.#releaseSiblings(sequence)
    }
    return rows
  }

  /**
   * Takes in what a row has sampled; `tokenId` null for a row that only computes. Results of sequences that ended or went back to the
   * queue meanwhile are taken where they still count. True when the token belongs to the output.
   */
  commit(row: PlannedRow, tokenId: number | null): boolean {
    const { sequence } = row
    if (tokenId === null) return false
    sequence.nPending--
    if (sequence.status === 'finished') return false
    sequence.outputIds.push(tokenId)
    if (sequence.status === 'running') this.#publish(sequence)
    return true
  }

  /** Ends a sequence, wherever it is, and frees its blocks at once: plans made from now on may use them. */
  finish(sequence: Sequence): void {
    if (sequence.status === 'finished') return
    if (sequence.status === 'running') this.#leave(sequence)
    else this.#removeWaiting(sequence)
    sequence.status = 'finished'
    this.#releaseSiblings(sequence)
  }

  /** Ends a sequence whose states hold NaN: its blocks also leave the prefix cache. */
  poison(sequence: Sequence): void {
    if (sequence.kv !== null) this.kv.forget(sequence.kv)
    this.finish(sequence)
  }

  /** Tokens of a sequence for this step. Where its prompt is scored, every token takes an output. */
  #chunk(sequence: Sequence, { tokens, outputs }: StepBudget): number {
    const n = Math.min(sequence.nWanted, tokens, this.maxChunk)
    return isScoring(sequence) ? Math.min(n, outputs) : n
  }

  #admit(rows: PlannedRow[], budget: StepBudget): void {
    while (budget.tokens > 0 && budget.outputs > 0) {
      const returning = this.#returning.find(isReady)
      const sequence = returning ?? this.#queue.peek()
      if (sequence === undefined) return
      const match = this.#makePlace(sequence)
      if (match === null) return
      if (returning === undefined) this.#queue.take()
      else this.#returning.splice(this.#returning.indexOf(returning), 1)
      this.#enter(sequence, match)
      const n = this.#chunk(sequence, budget)
      if (n === 0) continue
      if (!this.#makeRoom(sequence, n)) return
      rows.push(this.#planRow(sequence, n, budget))
    }
  }

  /** The cached prefix of a sequence once there is a slot and blocks for all of it; null = it has to wait. */
  #makePlace(sequence: Sequence): PrefixMatch | null {
    for (;;) {
      // Log-probabilities of the prompt need every position computed.
      const match = this.kv.match(sequence.promptLogprobs >= 0 ? null : sequence.keys, sequence.nKnown)
      if (this.#freeSlots.length > 0 && this.kv.canOpen(match, sequence.nKnown, this.maxChunk)) return match
      const victim = this.#lastPaused()
      if (victim === undefined) return null
      this.#preempt(victim)
    }
  }

  #enter(sequence: Sequence, match: PrefixMatch): void {
    const cachedTokens = match.nTokens
    sequence.kv = this.kv.open(sequence.keys, match)
    sequence.status = 'running'
    sequence.slot = this.#freeSlots.pop()!
    sequence.needsStart = true
    sequence.nComputed = cachedTokens
    if (sequence.preemptions === 0) sequence.cachedTokens = cachedTokens
    this.prefixQueries += sequence.nKnown
    this.prefixHits += cachedTokens
    this.#running.push(sequence)
  }

  #planRow(sequence: Sequence, n: number, budget: StepBudget): PlannedRow {
    budget.tokens -= n
    budget.outputs -= isScoring(sequence) ? n : 1
    const from = sequence.nComputed
    const to = from + n
    const samples = sequence.maxTokens > 0 && to === sequence.nTokens
    const row = { sequence, slot: sequence.slot, from, to, samples, starts: sequence.needsStart, kv: sequence.kv! }
    this.#inPlan.add(sequence)
    sequence.needsStart = false
    sequence.nComputed = to
    if (samples) sequence.nPending++
    return row
  }

  /** Blocks for n more tokens, taking them from others if need be. False when `sequence` itself had to give way. */
  #makeRoom(sequence: Sequence, n: number): boolean {
    while (!this.kv.grow(sequence.kv!, sequence.nComputed, sequence.nComputed + n)) {
      const victim = this.#lastPaused() ?? this.#running.at(-1)!
      this.#preempt(victim)
      if (victim === sequence) return false
    }
    return true
  }

  #lastPaused(): Sequence | undefined {
    return this.#running.findLast((sequence) => sequence.paused && !this.#inPlan.has(sequence))
  }

  /** Back to the queue: its blocks go, its sampled tokens stay, its states are computed again later. */
  #preempt(sequence: Sequence): void {
    this.#leave(sequence)
    sequence.status = 'waiting'
    sequence.nComputed = 0
    sequence.preemptions++
    this.preemptions++
    this.#returning.unshift(sequence)
  }

  #leave(sequence: Sequence): void {
    this.#running.splice(this.#running.indexOf(sequence), 1)
    this.#freeSlots.push(sequence.slot)
    this.kv.close(sequence.kv!)
    sequence.kv = null
    sequence.slot = -1
  }

  #removeWaiting(sequence: Sequence): void {
    if (this.#queue.remove(sequence)) return
    const at = this.#returning.indexOf(sequence)
    if (at >= 0) this.#returning.splice(at, 1)
    for (const [first, siblings] of this.#siblings) {
      this.#siblings.set(first, siblings.filter((sibling) => sibling !== sequence))
    }
  }

  #releaseSiblings(first: Sequence): void {
    const siblings = this.#siblings.get(first)
    if (siblings === undefined) return
    this.#siblings.delete(first)
    this.#returning.push(...siblings)
  }

  #keysOf(sequence: Sequence): BlockKeys | null {
    if (sequence.cacheSeed === null) return null
    return new BlockKeys(sequence.cacheSeed, this.kv.shape.blockTokens, (position) => sequence.tokenAt(position))
  }

  #publish(sequence: Sequence): void {
    if (sequence.kv !== null) this.kv.publish(sequence.kv, Math.min(sequence.nComputed, sequence.nKnown))
  }
}

/** Tokens of one step for which the sliding pool has room beside the window before them, whatever the alignment to blocks. */
function longestChunk({ nSlidingBlocks, blockTokens, window }: KvShape, maxModelLen: number): number {
  const nSliding = nSlidingBlocks * blockTokens
  return nSliding >= maxModelLen ? maxModelLen : nSliding - window - 2 * blockTokens
}

/** Log-probabilities of its prompt are still to come. */
function isScoring(sequence: Sequence): boolean {
  return sequence.promptLogprobs >= 0 && !sequence.prefilled
}

function isReady(sequence: Sequence): boolean {
  return !sequence.paused && sequence.nPending === 0
}
