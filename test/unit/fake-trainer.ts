// A trainer without a model: its parameters are a hash of every batch, scale and optimiser step so far, in their order, and so are its
// losses. One batch more, less, twice or elsewhere changes all that follow. Files are JSON.

import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import type {
  NativeLoss, NativeMicroBatch, NativeOptimizerStep, NativeTrainer, NativeTrainerOptions
} from '../../engine/native.js'

export interface FakeCall {
  readonly kind: 'accumulate' | 'evaluate' | 'step'
  readonly batch?: NativeMicroBatch
  readonly gradientScale?: number
  readonly step?: NativeOptimizerStep
}

interface State {
  parameters: string
  gradients: string
  nSteps: number
}

export class FakeTrainer implements NativeTrainer {
  readonly nTrained = 1234
  readonly bytes = { parameters: 1000, optimizer: 2000 }
  readonly options: NativeTrainerOptions
  readonly calls: FakeCall[] = []
  closed = false
  /** Called before each call is carried out: tests abort, fail or wait in it. */
  onCall: (call: FakeCall) => void | Promise<void> = () => {}
  /** Losses of evaluations, by their number; the hash's where absent. */
  evaluations: readonly number[] = []
  #state: State = { parameters: 'fresh', gradients: '', nSteps: 0 }
  #nEvaluated = 0

  constructor(options: NativeTrainerOptions) {
    this.options = options
    this.#state.parameters = hash('fresh', String(options.seed))
  }

  async accumulate(batch: NativeMicroBatch, gradientScale: number): Promise<NativeLoss> {
    await this.#call({ kind: 'accumulate', batch, gradientScale })
    const loss = this.#lossOf(batch)
    this.#state.gradients = hash(this.#state.gradients, describe(batch), String(gradientScale), String(loss.lossSum))
    return loss
  }

  async evaluate(batch: NativeMicroBatch): Promise<NativeLoss> {
    await this.#call({ kind: 'evaluate', batch })
    const loss = this.#lossOf(batch)
    const given = this.evaluations[this.#nEvaluated++]
    return given === undefined ? loss : { ...loss, lossSum: given * loss.targets }
  }

  async optimizerStep(step: NativeOptimizerStep): Promise<{ gradNorm: number }> {
    await this.#call({ kind: 'step', step })
    const state = this.#state
    state.nSteps++
    state.parameters = hash(state.parameters, state.gradients, JSON.stringify(step), String(state.nSteps))
    state.gradients = ''
    return { gradNorm: fraction(state.parameters) }
  }

  async saveAdapter(path: string): Promise<void> {
    writeFileSync(path, JSON.stringify({ parameters: this.#state.parameters }))
  }

  async saveState(path: string): Promise<void> {
    if (this.#state.gradients !== '') throw new Error('a state is saved in the midst of a window')
    writeFileSync(path, JSON.stringify(this.#state))
  }

  async loadState(path: string): Promise<void> {
    this.#state = JSON.parse(readFileSync(path, 'utf8')) as State
  }

  async loadAdapter(path: string): Promise<void> {
    this.#state.parameters = hash('adapter', path)
  }

  async parameter(): Promise<Float32Array> {
    return new Float32Array(1)
  }

  async gradient(): Promise<Float32Array> {
    return new Float32Array(1)
  }

  async setParameter(): Promise<void> {}

  async trace(): Promise<never> {
    throw new Error('the fake has no states')
  }

  async close(): Promise<void> {
    this.closed = true
  }

  async #call(call: FakeCall): Promise<void> {
    if (this.closed) throw Object.assign(new Error('the trainer is closed'), { code: 'ABORTED' })
    await this.onCall(call)
    this.calls.push(call)
    await new Promise((resolve) => setImmediate(resolve))
  }

  #lossOf(batch: NativeMicroBatch): NativeLoss {
    const targets = batch.targets.reduce((n, id) => n + (id >= 0 ? 1 : 0), 0)
    const share = fraction(hash(this.#state.parameters, describe(batch)))
    return { lossSum: targets * (1 + share), targets, correct: Math.floor(targets * share) }
  }
}

/** One batch, as a text that differs wherever the batch does. */
export function describe({ tokenIds, documentStarts, targets, tokenCounter }: NativeMicroBatch): string {
  return [tokenIds.join(), documentStarts.join(), targets.join(), String(tokenCounter)].join('|')
}

function hash(...parts: readonly string[]): string {
  return createHash('sha256').update(parts.join('\n')).digest('hex')
}

function fraction(digest: string): number {
  return Number.parseInt(digest.slice(0, 8), 16) / 2 ** 32
}
