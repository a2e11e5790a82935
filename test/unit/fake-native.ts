// A device without a model: it really keeps token states in blocks, and samples from a hash of all states that a row sees through the
// block tables it is given. A wrong table, position, window, stale block or adapter changes the tokens; broken rules throw.

import type { DeviceStats } from '../../engine/api.js'
import type {
  NativeAdapterInfo, NativeModel, NativeModelInfo, NativeSampling, NativeStepPlan, NativeStepResult, NativeTrainer,
  NativeTrainerOptions
} from '../../engine/native.js'
import { FakeTrainer } from './fake-trainer.js'

export interface FakeOptions {
  readonly blockTokens?: number
  readonly window?: number
  readonly nGlobalBlocks?: number
  readonly nSlidingBlocks?: number
  readonly vocabSize?: number
  readonly maxModelLen?: number
  readonly eosTokenIds?: readonly number[]
  readonly hash?: string
  readonly maxNumSeqs?: number
  /** Milliseconds a step takes; 0 = one turn of the event loop. */
  readonly stepMs?: number
}

interface Cell {
  position: number
  state: number
}

interface DeviceSequence {
  readonly adapter: number
  readonly sampling: NativeSampling
  readonly outputIds: number[]
  nextPosition: number | null
}

/** A prompt that holds this id gives NaN logits. */
export const NAN_TOKEN = 3
/** A prompt that holds this id blocks the event loop for ever. */
export const SPIN_TOKEN = 4
/** A prompt that holds this id makes every step from then on fail. */
export const FAIL_TOKEN = 9
/** A prompt that holds this id makes the device hang. */
export const HANG_TOKEN = 8

export class FakeModel implements NativeModel {
  readonly info: NativeModelInfo
  /** Set: the next step rejects with it. */
  nextError: Error | null = null
  /** Set: steps never end until it is called. */
  hang: Promise<void> | null = null
  closed = false
  nSteps = 0
  largestStep = 0
  readonly plans: NativeStepPlan[] = []
  keepPlans = false
  readonly #global: Cell[]
  readonly #sliding: Cell[]
  readonly #sequences = new Map<number, DeviceSequence>()
  readonly #adapters = new Map<number, number>()
  readonly #window: number
  readonly #maxOutputs: number
  readonly #stepMs: number
  #isBroken = false
  #last: Promise<unknown> = Promise.resolve()

  constructor(options: FakeOptions = {}) {
    const { blockTokens = 4, window = 8, nGlobalBlocks = 64, nSlidingBlocks = 64, vocabSize = 512, maxModelLen = 200 } = options
    this.info = {
      name: 'fake', hash: options.hash ?? 'fake-base', device: 'cpu', compute: 'fp32', weights: 'f32', head: 'f32', vocabSize,
      hiddenSize: 8, nLayers: 2,
      slidingWindow: window, maxModelLen, blockTokens, nGlobalBlocks, nSlidingBlocks, eosTokenIds: options.eosTokenIds ?? [1],
    }
    this.#window = window
    this.#maxOutputs = options.maxNumSeqs ?? 8
    this.#stepMs = options.stepMs ?? 0
    this.#global = Array.from({ length: nGlobalBlocks * blockTokens }, () => ({ position: -1, state: 0 }))
    this.#sliding = Array.from({ length: nSlidingBlocks * blockTokens }, () => ({ position: -1, state: 0 }))
  }

  step(plan: NativeStepPlan): Promise<NativeStepResult> {
    const copy = structuredClone(plan)
    if (copy.tokenIds.includes(SPIN_TOKEN)) for (;;);
    if (copy.tokenIds.includes(FAIL_TOKEN)) this.#isBroken = true
    if (copy.tokenIds.includes(HANG_TOKEN)) this.hang = new Promise(() => {})
    if (this.keepPlans) this.plans.push(copy)
    return this.#queue(() => this.#step(copy))
  }

  loadAdapter(slot: number, path: string): Promise<NativeAdapterInfo> {
    return this.#queue(() => {
      const info = checkAdapter(path)
      this.#adapters.set(slot, hashText(path))
      return info
    })
  }

  async prefetchAdapter(path: string): Promise<void> {
    checkAdapter(path)
  }

  unloadAdapter(slot: number): Promise<void> {
    return this.#queue(() => {
      if (!this.#adapters.delete(slot)) throw new Error(`slot ${slot} holds no adapter`)
    })
  }

  async createTrainer(options: NativeTrainerOptions): Promise<NativeTrainer> {
    return new FakeTrainer(options)
  }

  async validateAdapter(path: string): Promise<NativeAdapterInfo> {
    return checkAdapter(path)
  }

  async logits(): Promise<Float32Array> {
    throw new Error('the fake has no logits')
  }

  async hidden(): Promise<Float32Array> {
    throw new Error('the fake has no states')
  }

  memory(): Record<string, number> {
    return { kv_global: this.#global.length, kv_sliding: this.#sliding.length }
  }

  device(): DeviceStats {
    const none = { steps: 0, seconds: { upload: 0, layers: 0, head: 0, sample: 0 } }
    return {
      totalBytes: 0, freeBytes: 0, graphs: { hit: 0, capture: 0, plain: 0 }, stepTimes: { prefill: none, decode: none, mixed: none },
    }
  }

  close(): void {
    this.closed = true
  }

  #queue<T>(work: () => T): Promise<T> {
    const result = this.#last.then(async () => {
      await new Promise<void>((resolve) => { this.#stepMs > 0 ? setTimeout(resolve, this.#stepMs) : setImmediate(resolve) })
      if (this.hang !== null) await this.hang
      return work()
    })
    this.#last = result.catch(() => {})
    return result
  }

  #step(plan: NativeStepPlan): NativeStepResult {
    if (this.nextError !== null) {
      const error = this.nextError
      this.nextError = null
      throw error
    }
    if (this.#isBroken) throw Object.assign(new Error('the device is broken'), { code: 'DEVICE_LOST' })
    assert(plan.outTokens.length <= this.#maxOutputs, `${plan.outTokens.length} outputs, at most ${this.#maxOutputs}`)
    this.nSteps++
    this.largestStep = Math.max(this.largestStep, plan.tokenIds.length)
    for (const { slot, adapter, sampling, outputIds } of plan.starts) {
      this.#sequences.set(slot, { adapter, sampling, outputIds: [...outputIds], nextPosition: null })
    }
    this.#checkOwnership(plan)
    const rowOf: number[] = []
    for (let row = 0; row < plan.slots.length; row++) {
      for (let token = plan.rowStarts[row]!; token < plan.rowStarts[row + 1]!; token++) {
        rowOf[token] = row
        this.#write(plan, row, token)
      }
    }
    return this.#outputs(plan, rowOf)
  }

  /** No block is written by two rows, or written by one and seen by another. */
  #checkOwnership(plan: NativeStepPlan): void {
    const { blockTokens } = this.info
    for (const pool of ['global', 'sliding'] as const) {
      const [table, starts] = pool === 'global' ? [plan.globalTable, plan.globalStarts] : [plan.slidingTable, plan.slidingStarts]
      const writer = new Map<number, number>()
      plan.slots.forEach((_, row) => {
        const first = pool === 'global' ? 0 : plan.slidingFirst[row]!
        for (let token = plan.rowStarts[row]!; token < plan.rowStarts[row + 1]!; token++) {
          const block = table[starts[row]! + Math.floor(plan.positions[token]! / blockTokens) - first]!
          assert((writer.get(block) ?? row) === row, `${pool} block ${block} is written by two rows`)
          writer.set(block, row)
        }
      })
      plan.slots.forEach((_, row) => {
        for (let i = starts[row]!; i < starts[row + 1]!; i++) {
          assert((writer.get(table[i]!) ?? row) === row, `${pool} block ${table[i]} is written while another row sees it`)
        }
      })
    }
  }

  #write(plan: NativeStepPlan, row: number, token: number): void {
    const slot = plan.slots[row]!
    const sequence = this.#sequences.get(slot)
    assert(sequence !== undefined, `slot ${slot} was never started`)
    const position = plan.positions[token]!
    assert(sequence.nextPosition === null || position === sequence.nextPosition,
      `slot ${slot}: position ${position}, expected ${sequence.nextPosition}`)
    sequence.nextPosition = position + 1
    const last = sequence.outputIds.at(-1)
    // The step after a NaN is planned before anyone knows of it: it must run, and give NaN again.
    const tokenId = plan.tokenIds[token]! !== -1 ? plan.tokenIds[token]! : last === -1 ? NAN_TOKEN : last
    assert(tokenId !== undefined && tokenId >= 0 && tokenId < this.info.vocabSize, `token id ${tokenId} at position ${position}`)
    const before = this.#seen(plan, row, position)
    const state = tokenState(before, tokenId, this.#adapterTag(sequence.adapter))
    for (const cell of [this.#cell(plan, row, position, 'global'), this.#cell(plan, row, position, 'sliding')]) {
      cell.position = position
      cell.state = state
    }
  }

  /** Hash of what the query at `position` sees before its own token: all positions in global layers, the window in sliding ones. */
  #seen(plan: NativeStepPlan, row: number, position: number): number {
    let hash = 17
    for (const pool of ['global', 'sliding'] as const) {
      const first = pool === 'global' ? 0 : Math.max(0, position - this.#window + 1)
      for (let p = first; p < position; p++) {
        const cell = this.#cell(plan, row, p, pool)
        assert(cell.position === p, `row ${row} reads position ${p} in a ${pool} block that holds ${cell.position}`)
        if (cell.state === NAN_STATE) return NAN_STATE
        hash = mix(hash, cell.state)
      }
    }
    return hash
  }

  #cell(plan: NativeStepPlan, row: number, position: number, pool: 'global' | 'sliding'): Cell {
    const { blockTokens } = this.info
    const logical = Math.floor(position / blockTokens)
    const [table, starts, first] = pool === 'global'
      ? [plan.globalTable, plan.globalStarts, 0]
      : [plan.slidingTable, plan.slidingStarts, plan.slidingFirst[row]!]
    const at = starts[row]! + logical - first
    assert(logical >= first && at < starts[row + 1]!, `row ${row} has no ${pool} block for position ${position}`)
    return (pool === 'global' ? this.#global : this.#sliding)[table[at]! * blockTokens + position % blockTokens]!
  }

  #adapterTag(slot: number): number {
    if (slot < 0) return 0
    const tag = this.#adapters.get(slot)
    assert(tag !== undefined, `adapter slot ${slot} is empty`)
    return tag
  }

  #outputs(plan: NativeStepPlan, rowOf: readonly number[]): NativeStepResult {
    const tokenIds: number[] = []
    const logprobs: number[] = []
    const topIds: number[] = []
    const topLogprobs: number[] = []
    plan.outTokens.forEach((token, o) => {
      const row = rowOf[token]!
      const sequence = this.#sequences.get(plan.slots[row]!)!
      const state = this.#cell(plan, row, plan.positions[token]!, 'global').state
      const target = plan.outTargets[o]!
      const tokenId = state === NAN_STATE ? -1 : target >= 0 ? target
        : sampleFrom(state, sequence.sampling, sequence.outputIds, this.info.vocabSize)
      if (target < 0) sequence.outputIds.push(tokenId)
      tokenIds.push(tokenId)
      logprobs.push(plan.outLogprobs[o]! < 0 ? NaN : logprobOf(state, tokenId))
      for (let i = 0; i < plan.outLogprobs[o]!; i++) {
        topIds.push(mix(state, i) % this.info.vocabSize)
        topLogprobs.push(-0.1 * (i + 1))
      }
    })
    return {
      tokenIds: Int32Array.from(tokenIds), logprobs: Float32Array.from(logprobs), topIds: Int32Array.from(topIds),
      topLogprobs: Float32Array.from(topLogprobs), deviceMs: 0.1,
    }
  }
}

/** What a sequence alone on a fresh device samples: computed without blocks. */
export function expectedTokens(promptIds: readonly number[], n: number, options: {
  readonly sampling: NativeSampling
  readonly adapterPath?: string | null
  readonly window?: number
  readonly vocabSize?: number
}): number[] {
  const { sampling, adapterPath = null, window = 8, vocabSize = 512 } = options
  const tag = adapterPath === null ? 0 : hashText(adapterPath)
  const states: number[] = []
  const append = (tokenId: number) => {
    let hash = 17
    for (const state of states) hash = mix(hash, state)
    for (const state of states.slice(Math.max(0, states.length - window + 1))) hash = mix(hash, state)
    states.push(tokenState(hash, tokenId, tag))
  }
  for (const tokenId of promptIds) append(tokenId)
  const outputIds: number[] = []
  while (outputIds.length < n) {
    const tokenId = sampleFrom(states.at(-1)!, sampling, outputIds, vocabSize)
    outputIds.push(tokenId)
    append(tokenId)
  }
  return outputIds
}

const NAN_STATE = -1

function tokenState(before: number, tokenId: number, adapterTag: number): number {
  return before === NAN_STATE || tokenId === NAN_TOKEN ? NAN_STATE : mix(mix(before, tokenId), adapterTag)
}

function sampleFrom(state: number, sampling: NativeSampling, outputIds: readonly number[], vocabSize: number): number {
  let hash = state
  if (sampling.temperature > 0) hash = mix(mix(hash, Number(sampling.seed & 0x7fffffffn)), outputIds.length)
  if (sampling.presencePenalty !== 0) for (const id of outputIds) hash = mix(hash, id)
  // Tokens that do harm are for tests to place, not to be drawn.
  const banned = new Set([NAN_TOKEN, SPIN_TOKEN, HANG_TOKEN, FAIL_TOKEN,
    ...(outputIds.length < sampling.minTokens ? sampling.suppressedIds : [])])
  for (let i = 0; ; i++) {
    const tokenId = mix(hash, i) % vocabSize
    if (!banned.has(tokenId)) return tokenId
  }
}

export function logprobOf(state: number, tokenId: number): number {
  return -(mix(state, tokenId) % 1000) / 100
}

function mix(a: number, b: number): number {
  let h = Math.imul(a ^ Math.imul(b + 0x9e37, 0x85ebca6b), 0xc2b2ae35)
  h ^= h >>> 15
  h = Math.imul(h, 0x27d4eb2f)
  return (h ^ (h >>> 13)) >>> 1
}

function hashText(text: string): number {
  let hash = 5381
  for (const char of text) hash = mix(hash, char.codePointAt(0)!)
  return hash
}

function checkAdapter(path: string): NativeAdapterInfo {
  if (path.includes('bad')) throw Object.assign(new Error(`adapter at "${path}" is bad`), { code: 'ADAPTER_INVALID' })
  return { rank: 8, bytes: 1000, nTensors: 14, warnings: [] }
}

function assert(holds: boolean, message: string): asserts holds {
  if (!holds) throw Object.assign(new Error(`fake device: ${message}`), { code: 'SHAPE_MISMATCH' })
}
