// The loop that owns the device: plan, submit, and read results in order, with the next plan queued before the last result is read.

import type { StepPhase } from './api.js'
import { EngineError } from './errors.js'
import { type NativeModel, type NativeStepResult, toEngineError } from './native.js'
import type { Scheduler } from './scheduler.js'
import type { Sequence } from './sequence.js'
import { type RowResult, type StepPlan, buildStep, readStep } from './step-plan.js'

export interface LoopHandlers {
  /** A sequence is in a plan for the first time, or again after preemption. */
  onAdmitted(sequence: Sequence): void
  onRow(result: RowResult): void
  /** A step failed as a whole: what these sequences had on the device is not certain. `isFinal`: the device is given up. */
  onStepFailed(sequences: ReadonlySet<Sequence>, error: EngineError, isFinal: boolean): void
}

interface StepInFlight {
  readonly plan: StepPlan
  readonly result: Promise<NativeStepResult | EngineError>
}

/** Steps on the device or queued behind it. */
const STEPS_IN_FLIGHT = 2
/** More than a fast GPU makes between two questions for them. */
const MAX_STEP_SAMPLES = 4096
/** Whole steps that may fail in a row before the device is given up. */
const MAX_FAILED_STEPS = 3

export class DeviceLoop {
  nSteps = 0
  /** On the clock of performance.now(). */
  lastStepAt = performance.now()
  readonly #model: NativeModel
  readonly #scheduler: Scheduler
  readonly #handlers: LoopHandlers
  readonly #ended: Promise<void>
  #stepTokens: number[] = []
  #stepSeconds: [StepPhase, number][] = []
  #wake: () => void = () => {}
  #isStopping = false
  #nFailedSteps = 0

  constructor(model: NativeModel, scheduler: Scheduler, handlers: LoopHandlers) {
    this.#model = model
    this.#scheduler = scheduler
    this.#handlers = handlers
    this.#ended = this.#run()
  }

  /** There may be something to plan. */
  wake(): void {
    this.#wake()
  }

  /** Makes no further plan; resolves once those in flight have run. */
  stop(): Promise<void> {
    this.#isStopping = true
    this.#wake()
    return this.#ended
  }

  /** Tokens and time of each step since the last call, 4,096 at most. */
  takeSteps(): { readonly tokens: readonly number[]; readonly seconds: ReadonlyArray<readonly [StepPhase, number]> } {
    const taken = { tokens: this.#stepTokens, seconds: this.#stepSeconds }
    this.#stepTokens = []
    this.#stepSeconds = []
    return taken
  }

  async #run(): Promise<void> {
    const inFlight: StepInFlight[] = []
    while (!this.#isStopping || inFlight.length > 0) {
      while (inFlight.length < STEPS_IN_FLIGHT && !this.#isStopping) {
        const plan = buildStep(this.#scheduler.plan())
        if (plan.rows.length === 0) break
        for (const row of plan.rows) if (row.starts) this.#handlers.onAdmitted(row.sequence)
        inFlight.push({ plan, result: this.#submit(plan) })
      }
      const step = inFlight.shift()
      if (step === undefined) {
        await new Promise<void>((resolve) => { this.#wake = resolve })
        continue
      }
      const result = await step.result
      this.lastStepAt = performance.now()
      if (result instanceof EngineError) await this.#failed([step, ...inFlight.splice(0)], result)
      else this.#finished(step.plan, result)
    }
  }

  async #submit(plan: StepPlan): Promise<NativeStepResult | EngineError> {
    try {
      return await this.#model.step(plan.native)
    } catch (error) {
      return toEngineError(error)
    }
  }

  #finished(plan: StepPlan, result: NativeStepResult): void {
    this.nSteps++
    this.#nFailedSteps = 0
    if (this.#stepTokens.length < MAX_STEP_SAMPLES) {
      this.#stepTokens.push(plan.nTokens)
      this.#stepSeconds.push([phaseOf(plan), result.deviceMs / 1000])
    }
    for (const row of readStep(plan, result)) this.#handlers.onRow(row)
  }

  /** Steps behind a failed one build on it and fail with it. All that run are lost, and the prefix cache; those that wait go on. */
  async #failed(steps: readonly StepInFlight[], error: EngineError): Promise<void> {
    await Promise.all(steps.map((step) => step.result))
    const isFinal = ++this.#nFailedSteps >= MAX_FAILED_STEPS || error.code === 'DEVICE_LOST'
    if (isFinal) this.#isStopping = true
    const planned = steps.flatMap(({ plan }) => plan.rows.map((row) => row.sequence))
    this.#handlers.onStepFailed(new Set([...planned, ...this.#scheduler.running]), error, isFinal)
    this.#scheduler.kv.forgetAll()
  }
}

function phaseOf({ rows }: StepPlan): StepPhase {
  const nSingle = rows.filter((row) => row.to - row.from === 1).length
  return nSingle === rows.length ? 'decode' : nSingle === 0 ? 'prefill' : 'mixed'
}
