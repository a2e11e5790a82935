// Learning rate of each optimiser step, as transformers.get_scheduler gives it.

import type { SchedulerType, TrainConfig } from './types.js'

export interface Schedule {
  readonly type: SchedulerType
  readonly learningRate: number
  readonly totalSteps: number
  readonly warmupSteps: number
  /** Of cosine_with_min_lr: the lowest rate as a share of the highest. */
  readonly minLrRatio: number
}

/** Warm-up in steps: the count given, else the share of all steps, rounded up. */
export function scheduleOf(config: TrainConfig, totalSteps: number): Schedule {
  const { learningRate, minLrRatio, warmupRatio, compat } = config
  const warmupSteps = config.warmupSteps > 0 ? config.warmupSteps : Math.ceil(warmupRatio * totalSteps)
  // transformers ignores the warm-up of `constant`; a warm-up that was asked for is honoured here.
  const honours = config.lrSchedulerType === 'constant' && warmupSteps > 0 && compat === 'none'
  return { type: honours ? 'constant_with_warmup' : config.lrSchedulerType, learningRate, totalSteps, warmupSteps, minLrRatio }
}

/** Rate of optimiser step `step`, counted from 1: the first step of a warm-up has rate 0. */
export function learningRateAt(schedule: Schedule, step: number): number {
  return schedule.learningRate * factorAt(schedule, step - 1)
}

function factorAt({ type, totalSteps, warmupSteps, minLrRatio }: Schedule, i: number): number {
  if (type === 'constant') return 1
  if (i < warmupSteps) return i / Math.max(1, warmupSteps)
  if (type === 'constant_with_warmup') return 1
  const nDecay = Math.max(1, totalSteps - warmupSteps)
  if (type === 'linear') return Math.max(0, (totalSteps - i) / nDecay)
  const cosine = 0.5 * (1 + Math.cos(Math.PI * (i - warmupSteps) / nDecay))
  return Math.max(0, type === 'cosine' ? cosine : cosine * (1 - minLrRatio) + minLrRatio)
}
