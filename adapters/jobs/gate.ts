// The gate before publication: a finished adapter is measured, and becomes the current version only if it is good enough.

import { isBetterLower, type EvaluationReport } from '../evaluation/report.js'
import type { GateOptions } from './job-types.js'

export interface GateVerdict {
  readonly passed: boolean
  readonly reason: string
}

/** What counts as equal when two models are compared: measuring is exact, but a sample may be lost to another last digit. */
const TIE = 1e-9

export function judgeGate(gate: GateOptions, found: EvaluationReport, current: EvaluationReport | undefined): GateVerdict {
  const value = found[gate.metric]
  if (value === null) return { passed: false, reason: `${gate.metric} could not be measured on ${gate.data.shown}` }
  const isAtLeast = (least: number) => (isBetterLower(gate.metric) ? value <= least + TIE : value >= least - TIE)
  if (gate.threshold !== undefined && !isAtLeast(gate.threshold)) {
    const limit = `${isBetterLower(gate.metric) ? 'at most' : 'at least'} ${gate.threshold}`
    return { passed: false, reason: `${gate.metric} is ${show(value)}, ${limit} is asked for` }
  }
  const before = current?.[gate.metric]
  if (gate.notWorseThanCurrent && typeof before === 'number' && !isAtLeast(before)) {
    return { passed: false, reason: `${gate.metric} is ${show(value)}, worse than ${show(before)} of ${current!.model}` }
  }
  return { passed: true, reason: `${gate.metric} is ${show(value)}${typeof before === 'number' ? `, ${show(before)} before` : ''}` }
}

const show = (value: number): string => String(Number(value.toPrecision(4)))
