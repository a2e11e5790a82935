// Where the suites over a real engine run: LORIKEET_TEST_DEVICE, "cpu" unless it says "cuda" or "cuda:N".

import type { Test } from 'tap'
import { compareAnswers, type SaidToken } from '../scripts/same-answer.js'

export const device = process.env['LORIKEET_TEST_DEVICE'] || 'cpu'
if (!/^(cpu|cuda(:\d+)?)$/.test(device)) throw new Error(`LORIKEET_TEST_DEVICE is "${device}": expected cpu, cuda or cuda:N`)
export const isCuda = device !== 'cpu'

/** For tap's `skip`. */
export const notOnCuda = (reason: string): string | false => isCuda && `not on ${device}: ${reason}`
export const onlyOnCuda = isCuda ? false : 'needs LORIKEET_TEST_DEVICE=cuda'

/** Asked for beside every answer that is compared: on CUDA the log-probabilities say how far bits may part. */
export const PROOF = isCuda ? { logprobs: 20 } : {}
export const HTTP_PROOF = isCuda ? { logprobs: true, top_logprobs: 20 } : {}

export interface Comparison {
  readonly what: string
  readonly found: readonly SaidToken[]
  readonly expected: readonly SaidToken[]
  readonly isGreedy?: boolean
}

/** On the CPU the same tokens, and bits where there are any. On CUDA as close as bf16 is, `leastShared` of all tokens before answers part, 0: wherever. */
export function sameAnswers(t: Test, comparisons: readonly Comparison[], leastShared = 0.5): void {
  if (!isCuda) {
    for (const { found, expected, what } of comparisons) t.same(found, expected, what)
    return
  }
  const likeness = comparisons.map(({ found, expected, isGreedy = false }) => compareAnswers(found, expected, isGreedy))
  for (const [i, { fault }] of likeness.entries()) t.equal(fault, undefined, comparisons[i]!.what)
  const nShared = likeness.reduce((sum, one) => sum + one.nShared, 0)
  const nTokens = comparisons.reduce((sum, { expected }) => sum + expected.length, 0)
  const largest = Math.max(...likeness.map(({ largestDifference }) => largestDifference))
  const figures = `${nShared} of ${nTokens} tokens before answers part, log-probabilities differ by at most ${largest.toFixed(4)}`
  t.comment(figures)
  if (leastShared > 0) t.ok(nShared >= leastShared * nTokens, figures)
}

/** Whether an answer tells two models apart: by its tokens on the CPU, by more than bf16's differences on CUDA. */
export function areApart(a: readonly SaidToken[], b: readonly SaidToken[]): boolean {
  if (isCuda) return compareAnswers(a, b, true).fault !== undefined
  return a.map(({ token }) => token).join() !== b.map(({ token }) => token).join()
}

/** How many answers tell themselves from all before them. */
export function nApart(answers: readonly (readonly SaidToken[])[]): number {
  return answers.filter((answer, i) => answers.slice(0, i).every((earlier) => areApart(answer, earlier))).length
}
