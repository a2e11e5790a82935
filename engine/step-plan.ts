// Planned rows as the typed arrays that native code takes, and native results as values per row.

import type { NativeSequenceStart, NativeStepPlan, NativeStepResult } from './native.js'
import type { PlannedRow } from './scheduler.js'
import type { Sequence } from './sequence.js'

/** What one output of a step is for. */
interface Output {
  readonly row: PlannedRow
  readonly token: number      // index into the step's tokens
  readonly target: number     // -1 = sample
  readonly logprobs: number   // alternatives, -1 = none
}

export interface StepPlan {
  readonly rows: readonly PlannedRow[]
  readonly native: NativeStepPlan
  readonly nTokens: number
  readonly outputs: readonly Output[]
}

export interface RawLogprob {
  readonly tokenId: number
  readonly logprob: number
  readonly topIds: Int32Array
  readonly topLogprobs: Float32Array
}

/** What a step says about one row. */
export interface RowResult {
  readonly row: PlannedRow
  /** Sampled id, -1 = the logits held a NaN, null = this row only computed. */
  readonly tokenId: number | null
  readonly logprob: RawLogprob | null
  /** Log-probabilities of prompt tokens from + 1 up to and including `to`, as far as they were asked for. */
  readonly prompt: readonly RawLogprob[]
}

type Writable<T> = { -readonly [K in keyof T]: T[K] extends readonly (infer U)[] ? U[] : T[K] }

export function buildStep(rows: readonly PlannedRow[]): StepPlan {
  const nTokens = rows.reduce((n, row) => n + row.to - row.from, 0)
  const tokenIds = new Int32Array(nTokens)
  const positions = new Int32Array(nTokens)
  const outputs: Output[] = []
  let token = 0
  for (const row of rows) {
    for (let position = row.from; position < row.to; position++, token++) {
      tokenIds[token] = row.sequence.tokenAt(position)
      positions[token] = position
      const target = promptTarget(row.sequence, position)
      if (target >= 0) outputs.push({ row, token, target, logprobs: row.sequence.promptLogprobs })
    }
    if (row.samples) outputs.push({ row, token: token - 1, target: -1, logprobs: row.sequence.logprobs })
  }
  const native: NativeStepPlan = {
    starts: rows.filter((row) => row.starts).map(({ sequence, slot }) => sequenceStart(sequence, slot)),
    tokenIds,
    positions,
    rowStarts: starts(rows.map((row) => row.to - row.from)),
    slots: Int32Array.from(rows, (row) => row.slot),
    globalTable: Int32Array.from(rows.flatMap((row) => row.kv.global)),
    globalStarts: starts(rows.map((row) => row.kv.global.length)),
    slidingTable: Int32Array.from(rows.flatMap((row) => row.kv.sliding)),
    slidingStarts: starts(rows.map((row) => row.kv.sliding.length)),
    slidingFirst: Int32Array.from(rows, (row) => row.kv.slidingFirst),
    outTokens: Int32Array.from(outputs, (output) => output.token),
    outTargets: Int32Array.from(outputs, (output) => output.target),
    outLogprobs: Int32Array.from(outputs, (output) => output.logprobs),
  }
  return { rows, native, nTokens, outputs }
}

/** The next prompt token, where its log-probability is wanted; else -1. */
function promptTarget(sequence: Sequence, position: number): number {
  const isWanted = sequence.promptLogprobs >= 0 && position + 1 >= sequence.promptLogprobsFrom
  return isWanted ? sequence.promptIds[position + 1] ?? -1 : -1
}

function sequenceStart(sequence: Sequence, slot: number): NativeSequenceStart {
  const { sampling } = sequence
  const penalised = sampling.repetitionPenalty !== 1 || sampling.presencePenalty !== 0 || sampling.frequencyPenalty !== 0
  return {
    slot,
    adapter: sequence.adapterSlot,
    sampling,
    promptIds: penalised ? sequence.promptIds : new Int32Array(0),
    outputIds: Int32Array.from(sequence.outputIds),
  }
}

/** Half-open ranges: [0, n0, n0 + n1, ...]. */
function starts(lengths: readonly number[]): Int32Array {
  const result = new Int32Array(lengths.length + 1)
  lengths.forEach((n, i) => { result[i + 1] = result[i]! + n })
  return result
}

/** Sorts a result's outputs by row, in the order of the plan's rows. */
export function readStep(plan: StepPlan, result: NativeStepResult): RowResult[] {
  const byRow = new Map(plan.rows.map((row) => [row, { row, tokenId: null, logprob: null, prompt: [] } as Writable<RowResult>]))
  let top = 0
  plan.outputs.forEach((output, i) => {
    const nTop = Math.max(0, output.logprobs)
    const raw: RawLogprob = {
      tokenId: result.tokenIds[i]!,
      logprob: result.logprobs[i]!,
      topIds: result.topIds.slice(top, top + nTop),
      topLogprobs: result.topLogprobs.slice(top, top + nTop),
    }
    top += nTop
    const entry = byRow.get(output.row)!
    if (output.target >= 0) entry.prompt.push(raw)
    else Object.assign(entry, { tokenId: raw.tokenId, logprob: output.logprobs < 0 ? null : raw })
  })
  return [...byRow.values()]
}
