// One model on one data set: loss and token accuracy of the expected answers, and what its own answers are worth.

import type { EvaluationModel, Scores } from './evaluation-model.js'
import type { EvaluationReport, Metric, WrongAnswer } from './report.js'
import type { EvaluationSample } from './samples.js'
import type { SqlJudge } from './sql-judge.js'
import { sqlOfAnswer } from './sql-text.js'

export interface EvaluateOptions {
  readonly metrics: readonly Metric[]
  /** For execution accuracy: the SQLite file that expected and written SQL run against. */
  readonly database?: string
  readonly judge?: SqlJudge
  /** Longest answer, tokens. */
  readonly maxTokens?: number
  /** Samples in flight: they share the engine's batch. */
  readonly concurrency?: number
  readonly signal?: AbortSignal
  readonly onProgress?: (done: number, total: number) => void
}

interface Outcome {
  readonly scores?: Scores
  readonly isSkipped: boolean
  readonly isExact?: boolean
  readonly isRight?: boolean | null
  readonly isError?: boolean
  readonly wrong?: WrongAnswer
}

const DEFAULT_MAX_TOKENS = 256
const DEFAULT_CONCURRENCY = 8
const MAX_WRONG = 50

/** @throws EngineError ABORTED, or what the engine throws */
export async function evaluate(
  model: EvaluationModel, samples: readonly EvaluationSample[], options: EvaluateOptions,
): Promise<EvaluationReport> {
  const startedAt = performance.now()
  const outcomes: Outcome[] = []
  let next = 0
  let done = 0
  const work = async () => {
    for (let i = next++; i < samples.length; i = next++) {
      options.signal?.throwIfAborted()
      outcomes[i] = await evaluateOne(model, samples[i]!, i + 1, options)
      options.onProgress?.(++done, samples.length)
    }
  }
  const workers = Array.from({ length: options.concurrency ?? DEFAULT_CONCURRENCY }, work)
  try {
    await Promise.all(workers)
  } finally {
    next = samples.length                               // after a failure the others stop at their next sample
    await Promise.allSettled(workers)
  }
  return reportOf(model.name, outcomes, (performance.now() - startedAt) / 1_000)
}

async function evaluateOne(
  model: EvaluationModel, { row, expected }: EvaluationSample, sample: number, options: EvaluateOptions,
): Promise<Outcome> {
  const { metrics, signal, database, judge, maxTokens = DEFAULT_MAX_TOKENS } = options
  const scores = metrics.includes('loss') || metrics.includes('token_accuracy') ? await model.score(row, signal) : undefined
  const wantsAnswer = metrics.includes('exact_match') || metrics.includes('execution_accuracy')
  if (!wantsAnswer) return { isSkipped: scores === undefined, ...(scores && { scores }) }
  const answer = await model.answer(row, maxTokens, signal)
  const isExact = normalised(answer) === normalised(expected)
  const base = { isSkipped: false, isExact, ...(scores && { scores }) }
  if (database === undefined || judge === undefined) {
    return isExact ? base : { ...base, wrong: { sample, expected, answer, reason: 'another text' } }
  }
  const { correct, reason = '', isError = false } = await judge.judge(database, expected, sqlOfAnswer(answer))
  return { ...base, isRight: correct, isError, ...(correct !== true && { wrong: { sample, expected, answer, reason } }) }
}

/** White space and a closing semicolon do not make another answer. */
const normalised = (text: string): string => text.trim().replace(/\s+/g, ' ').replace(/ ?;$/, '')

function reportOf(model: string, outcomes: readonly Outcome[], seconds: number): EvaluationReport {
  const scored = outcomes.flatMap(({ scores }) => scores ?? [])
  const sum = (pick: (scores: Scores) => number) => scored.reduce((total, scores) => total + pick(scores), 0)
  const targets = sum((scores) => scores.targets)
  const loss = targets === 0 ? null : sum((scores) => scores.lossSum) / targets
  const judged = outcomes.filter(({ isRight }) => isRight === true || isRight === false)
  const answered = outcomes.filter(({ isExact }) => isExact !== undefined)
  const wrong = outcomes.flatMap((outcome) => outcome.wrong ?? [])
  return {
    object: 'evaluation', model, samples: outcomes.length, skipped: outcomes.filter(({ isSkipped }) => isSkipped).length,
    loss, perplexity: loss === null ? null : Math.exp(loss),
    token_accuracy: targets === 0 ? null : sum((scores) => scores.correct) / targets, target_tokens: targets,
    exact_match: share(answered.filter(({ isExact }) => isExact).length, answered.length),
    execution_accuracy: share(judged.filter(({ isRight }) => isRight).length, judged.length),
    execution_errors: judged.filter(({ isError }) => isError).length,
    unjudged: outcomes.filter(({ isRight }) => isRight === null).length,
    seconds, wrong: wrong.slice(0, MAX_WRONG),
  }
}

const share = (part: number, whole: number): number | null => (whole === 0 ? null : part / whole)
