// Whether two answers can be one model's. The CPU gives a row the same bits whatever is beside it; CUDA does not: its kernels, and so the
// order of their sums, go by the number of tokens in a step. There answers agree as far as bf16 does, and part only where they may.

import type { GenerateEvent, TokenLogprob } from '../engine/api.js'

/** One token of an answer. Log-probabilities are there where they were asked for, `top` falling. */
export interface SaidToken {
  readonly token: number | string
  readonly logprob?: number
  readonly top?: ReadonlyArray<readonly [token: number | string, logprob: number]>
}

/**
 * Of bf16 arithmetic on the small models, from ../shared/goldens/README.md: logits within 0.5, greedy choices equal where the two best
 * are further apart than twice that.
 */
export const BF16_LOGITS = 0.5
export const BF16_CLEAR_MARGIN = 2 * BF16_LOGITS

export interface Likeness {
  /** Tokens before the answers part. */
  readonly nShared: number
  /** Between log-probabilities of the shared tokens and of the first that parts. */
  readonly largestDifference: number
  /** Why these are not one model's answers. */
  readonly fault?: string
}

/** Compares up to the first token that differs; what follows is another text. A greedy answer may part at a near tie alone. */
export function compareAnswers(found: readonly SaidToken[], expected: readonly SaidToken[], isGreedy: boolean): Likeness {
  let largestDifference = 0
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [found[i], expected[i]!]
    if (a === undefined) return { nShared: i, largestDifference, fault: `${found.length} tokens, expected ${expected.length}` }
    const difference = differenceOf(a, b)
    largestDifference = Math.max(largestDifference, difference)
    if (!(difference <= BF16_LOGITS)) {
      return { nShared: i, largestDifference, fault: `token ${i}: log-probabilities differ by ${difference}` }
    }
    if (a.token === b.token) continue
    if (!a.top?.length || !b.top?.length) return { nShared: i, largestDifference, fault: `token ${i}: no log-probabilities to compare` }
    const margin = marginOf(b)
    const isClear = isGreedy && !(margin <= BF16_CLEAR_MARGIN)
    return { nShared: i, largestDifference, ...(isClear && { fault: `token ${i}: ${a.token}, expected ${b.token} by ${margin}` }) }
  }
  const isLonger = found.length > expected.length
  return { nShared: expected.length, largestDifference, ...(isLonger && { fault: `${found.length} tokens, expected ${expected.length}` }) }
}

/** At least: a token that only one of them lists was below the last that the other lists. */
function differenceOf(a: SaidToken, b: SaidToken): number {
  const ofToken = a.token === b.token ? Math.abs(a.logprob! - b.logprob!) : 0
  return Math.max(ofToken, beyond(a.top ?? [], b.top ?? []), beyond(b.top ?? [], a.top ?? []))
}

function beyond(a: NonNullable<SaidToken['top']>, b: NonNullable<SaidToken['top']>): number {
  const others = new Map(b)
  const last = b.at(-1)?.[1] ?? 0
  return a.reduce((most, [token, logprob]) => Math.max(most, Math.abs(logprob - (others.get(token) ?? Math.min(last, logprob)))), 0)
}

function marginOf({ top }: SaidToken): number {
  return top === undefined || top.length < 2 ? Infinity : top[0]![1] - top[1]![1]
}

/** The tokens of one choice. */
export function saidIn(events: readonly GenerateEvent[], index = 0): SaidToken[] {
  return events.flatMap((event) =>
    (event.type === 'delta' && event.index === index ? event.tokenIds.map((token, i) => said(token, event.logprobs?.[i])) : []))
}

export function said(token: number, scored: TokenLogprob | null | undefined): SaidToken {
  if (!scored) return { token }
  return { token, logprob: scored.logprob, top: scored.top.map(({ tokenId, logprob }) => [tokenId, logprob]) }
}
