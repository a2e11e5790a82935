// Runs a scheduler against the fake device as the engine does: two plans in flight, results read in order.

import type { NativeSampling, NativeStepResult } from '../../engine/native.js'
import { KvBlocks, chainSeed, kvShapeOf } from '../../engine/kv-blocks.js'
import { Scheduler } from '../../engine/scheduler.js'
import { Sequence, type SequenceOptions } from '../../engine/sequence.js'
import { type StepPlan, buildStep, readStep } from '../../engine/step-plan.js'
import { FakeModel, type FakeOptions } from './fake-native.js'

export const GREEDY: NativeSampling = {
  temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, seed: 0n,
  biasIds: new Int32Array(0), biasValues: new Float32Array(0), minTokens: 0, suppressedIds: new Int32Array(0),
}

export function sequence(promptIds: readonly number[], options: Partial<SequenceOptions> = {}): Sequence {
  return new Sequence({
    requestId: 'r', index: 0, flow: '', adapterSlot: -1, sampling: GREEDY, maxTokens: 8, stopIds: new Set(), logprobs: -1,
    promptLogprobs: -1, cacheSeed: chainSeed('fake-base', '', ''), ...options, promptIds: Int32Array.from(promptIds),
  })
}

/** Small random numbers that a failing test can repeat. */
export function randomFrom(seed: number): (n: number) => number {
  let state = seed >>> 0
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 4294967296) * n)
  }
}

export class Driver {
  readonly model: FakeModel
  readonly scheduler: Scheduler
  readonly #inFlight: { plan: StepPlan; result: Promise<NativeStepResult> }[] = []

  constructor(options: FakeOptions & { maxNumSeqs?: number; maxBatchTokens?: number; weightOf?: (flow: string) => number } = {}) {
    this.model = new FakeModel(options)
    this.scheduler = new Scheduler({
      kv: new KvBlocks(kvShapeOf(this.model.info)), maxModelLen: this.model.info.maxModelLen,
      maxNumSeqs: options.maxNumSeqs ?? 8, maxBatchTokens: options.maxBatchTokens ?? 32, weightOf: options.weightOf,
    })
  }

  /** Plans and submits until two steps are in flight, then reads one. False when there was nothing to do. */
  async turn(): Promise<boolean> {
    while (this.#inFlight.length < 2) {
      const plan = buildStep(this.scheduler.plan())
      if (plan.rows.length === 0) break
      this.#inFlight.push({ plan, result: this.model.step(plan.native) })
    }
    const step = this.#inFlight.shift()
    if (step === undefined) return false
    for (const { row, tokenId } of readStep(step.plan, await step.result)) {
      if (!this.scheduler.commit(row, tokenId)) continue
      const { sequence } = row
      if (sequence.outputIds.length >= sequence.maxTokens || sequence.stopIds.has(tokenId!)) this.scheduler.finish(sequence)
    }
    return true
  }

  async run(): Promise<void> {
    while (await this.turn());
  }

  get blocksUsed(): number {
    return this.scheduler.kv.global.used + this.scheduler.kv.sliding.used
  }
}
