import t from 'tap'
import { compareAnswers, type SaidToken } from '../../scripts/same-answer.js'

/** A token chosen at `logprob`, with the next best `margin` below it. */
const said = (token: number, logprob = -0.5, margin = 2, second = token + 1): SaidToken =>
  ({ token, logprob, top: [[token, logprob], [second, logprob - margin], [900, logprob - margin - 1]] })
const answer = [said(10), said(20), said(30, -1, 0.4), said(40)]

t.test('equal answers share every token', async (t) => {
  t.same(compareAnswers(answer, answer, true), { nShared: 4, largestDifference: 0 })
})

t.test('bits may differ as far as bf16 does, and no further', async (t) => {
  const near = answer.map(({ token, logprob, top }) =>
    ({ token, logprob: logprob! - 0.4, top: top!.map(([id, p]) => [id, p - 0.4] as const) }))
  t.match(compareAnswers(near, answer, true), { nShared: 4, fault: undefined })
  const far = [said(10, -1.1)]
  t.match(compareAnswers(far, answer.slice(0, 1), true).fault, /token 0: log-probabilities differ by 0\.6/)
  t.match(compareAnswers([said(10, NaN)], answer.slice(0, 1), true).fault, /NaN/)
})

t.test('a greedy answer may part at a near tie alone; a sampled one anywhere, while its distribution is the same', async (t) => {
  const turned = (at: SaidToken): SaidToken => ({ token: at.top![1]![0], logprob: at.top![1]![1], top: at.top! })
  const nearTie = [answer[0]!, answer[1]!, turned(answer[2]!), said(70)]
  t.match(compareAnswers(nearTie, answer, true), { nShared: 2, fault: undefined })
  const clear = [answer[0]!, turned(answer[1]!), said(70)]
  t.match(compareAnswers(clear, answer, true), { nShared: 1, fault: /token 1: 21, expected 20 by 2/ })
  t.match(compareAnswers(clear, answer, false), { nShared: 1, fault: undefined })
})

t.test('another model shows at its first token, also where it lists other tokens', async (t) => {
  const alike: SaidToken = { token: 10, logprob: -0.5, top: [[10, -0.5], [11, -2.5], [500, -3.6]] }   // 500 is below all that the other lists
  t.match(compareAnswers([alike], answer.slice(0, 1), false), { fault: undefined })
  t.match(compareAnswers([said(500, -0.1, 6, 501)], answer.slice(0, 1), false).fault, /log-probabilities differ/)
})

t.test('answers of different lengths are not the same, nor are those without log-probabilities', async (t) => {
  t.match(compareAnswers(answer.slice(0, 3), answer, true).fault, /3 tokens, expected 4/)
  t.match(compareAnswers(answer, answer.slice(0, 3), true).fault, /4 tokens, expected 3/)
  t.match(compareAnswers([{ token: 10 }], [{ token: 10 }], true).fault, /NaN/)
  t.match(compareAnswers([{ token: 11 }], [{ token: 10 }], false).fault, /no log-probabilities to compare/)
})
