import t from 'tap'
import { runLoad, type LoadRequest, type Target } from '../../server/bench/load.js'
import { formatBench, measure, resultOf } from '../../server/bench/measure.js'
import { fixed, formatTable, interTokenMs, percentile, spread, summarise, ttftMs, type Timeline } from '../../server/bench/statistics.js'

t.test('a percentile is the nearest rank of the values in any order', async (t) => {
  t.equal(percentile([30, 10, 20], 0.5), 20)
  t.equal(percentile([1, 2], 0.5), 1)
  t.equal(percentile([1, 2], 0.51), 2)
  t.equal(percentile([7], 0), 7)
  t.equal(percentile([7], 1), 7)
  t.ok(Number.isNaN(percentile([], 0.5)))
  t.same(spread(Array.from({ length: 200 }, (_, i) => i + 1)), { p50: 100, p99: 198 })
})

// Two requests, sent at 0 and 10: they decode together from 40 to 80.
const timelines: readonly Timeline[] = [
  { askedAtMs: 0, tokenAtMs: [20, 40, 60, 80] },
  { askedAtMs: 10, tokenAtMs: [40, 50, 60, 70, 80, 90] },
]

t.test('a load is summed up by its own clock', async (t) => {
  t.same(ttftMs(timelines), [20, 30])
  t.same(interTokenMs(timelines), [20, 20, 20, 10, 10, 10, 10, 10])
  const summary = summarise(timelines)
  t.match(summary, { nRequests: 2, nOutputTokens: 10, seconds: 0.09, ttftMs: { p50: 20, p99: 30 }, interTokenMs: { p50: 10, p99: 20 } })
  t.equal(summary.outputTokensPerSecond, 10 / 0.09)
})

t.test('decode counts only the time in which every request decodes', async (t) => {
  t.equal(summarise(timelines).decodeTokensPerSecond, (2 + 4) / 0.04)
  const oneAfterTheOther = [{ askedAtMs: 0, tokenAtMs: [10, 20] }, { askedAtMs: 20, tokenAtMs: [30, 40] }]
  t.ok(Number.isNaN(summarise(oneAfterTheOther).decodeTokensPerSecond))
  t.ok(Number.isNaN(summarise([{ askedAtMs: 0, tokenAtMs: [10] }]).decodeTokensPerSecond))
  t.ok(Number.isNaN(summarise([]).decodeTokensPerSecond))
})

t.test('a request that got nothing does not count as one that came at once', async (t) => {
  t.same(ttftMs([{ askedAtMs: 5, tokenAtMs: [] }]), [])
})

t.test('a load of very many tokens is summed up too', async (t) => {
  const tokenAtMs = Array.from({ length: 300_000 }, (_, i) => i)
  t.equal(summarise([{ askedAtMs: 0, tokenAtMs }]).nOutputTokens, 300_000)
  t.equal(summarise(tokenAtMs.map((at) => ({ askedAtMs: 0, tokenAtMs: [at] }))).nRequests, 300_000)
})

t.test('a table is as wide as its widest cells', async (t) => {
  t.equal(formatTable(['a', 'bb'], [['long', '1'], ['x', '22.5']]), 'a       bb\nlong     1\nx     22.5')
  t.equal(fixed(NaN), '-')
  t.equal(fixed(1.25, 2), '1.25')
})

/** Answers at once, and remembers who asked. */
class InstantTarget implements Target {
  readonly name = 'instant'
  readonly requests: LoadRequest[] = []
  active = 0
  mostActive = 0
  async generate(request: LoadRequest, onTokens: (n: number) => void): Promise<void> {
    this.requests.push(request)
    this.mostActive = Math.max(this.mostActive, ++this.active)
    await new Promise(setImmediate)
    for (let i = 0; i < request.maxTokens; i += 2) onTokens(Math.min(2, request.maxTokens - i))
    this.active--
  }
  residentBytes(): undefined {}
  async close(): Promise<void> {}
}

t.test('clients ask all at once, each as often as told, for prompts of words', async (t) => {
  const target = new InstantTarget()
  const lines = await runLoad(target, { concurrency: 5, requestsPerClient: 3, promptTokens: 7, outputTokens: 3, vocabSize: 1_000 })
  t.equal(target.mostActive, 5)
  t.equal(lines.length, 15)
  t.same([...new Set(target.requests.map(({ client }) => client))].sort(), [0, 1, 2, 3, 4])
  t.ok(target.requests.every(({ promptIds }) => promptIds.length === 7 && promptIds.every((id) => id >= 500 && id < 1_000)))
  t.ok(lines.every(({ tokenAtMs }) => tokenAtMs.length === 3))
})

const plan = { promptTokens: 4, outputTokens: 6, concurrency: [1, 3], rounds: 2, adapters: 0, rank: 16 }

t.test('every concurrency is warmed up, then prefill and decode are measured each round', async (t) => {
  const target = new InstantTarget()
  const results = await measure(target, plan, 1_000)
  t.same(results.map(({ concurrency }) => concurrency), [1, 3])
  t.same(target.requests.map(({ maxTokens }) => maxTokens), [6, 1, 6, 1, 6, ...[6, 1, 6, 1, 6].flatMap((n) => [n, n, n])])
})

t.test('rates are medians of the rounds, times are over all of them', async (t) => {
  const result = resultOf(1, [100, 300, 200], [[{ askedAtMs: 0, tokenAtMs: [10, 20] }], [{ askedAtMs: 100, tokenAtMs: [130, 150] }]])
  t.equal(result.prefillTokensPerSecond, 200)
  t.same(result.ttftMs, { p50: 10, p99: 30 })
  t.same(result.interTokenMs, { p50: 10, p99: 20 })
  t.equal(result.decodeTokensPerSecond, 50)
  const text = formatBench({ model: 'm', device: 'cpu', weights: 'nf4', compute: 'bf16', head: 'int8', ...plan, results: [result] })
  t.match(text, /^m on cpu, nf4, bf16, head int8\nprompt 4, output 6 tokens\n\nat once .*\n1 +200 +10\.0 +30\.0 +50 +10\.00 +20\.00$/)
})
