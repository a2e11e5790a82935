// The measurements of `lorikeet bench`: rounds of requests that all begin at once.

import { ProgressBar } from '../progress-bar.js'
import { runLoad, type Target } from './load.js'
import { fixed, formatTable, interTokenMs, median, spread, summarise, ttftMs, type Spread, type Timeline } from './statistics.js'

export interface BenchPlan {
  readonly promptTokens: number
  readonly outputTokens: number
  /** Requests at once, one measurement each. */
  readonly concurrency: readonly number[]
  readonly rounds: number
  readonly adapters: number
  readonly rank: number
}

/** Rates in tokens a second, medians of the rounds; times over all rounds. NaN (null in JSON) where there was nothing to measure. */
export interface BenchResult {
  readonly concurrency: number
  readonly prefillTokensPerSecond: number
  readonly ttftMs: Spread
  readonly decodeTokensPerSecond: number
  readonly interTokenMs: Spread
}

export interface BenchReport extends BenchPlan {
  readonly model: string
  readonly server?: string
  readonly device?: string
  readonly compute?: string
  readonly weights?: string
  readonly head?: string
  /** Median milliseconds from the files of an adapter to its slot. */
  readonly adapterLoadMs?: number
  readonly results: readonly BenchResult[]
}

/** Answers of the round that nobody counts: graphs are captured, memory is taken. */
const WARM_UP_TOKENS = 8

export async function measure(target: Target, plan: BenchPlan, vocabSize: number): Promise<BenchResult[]> {
  const bar = new ProgressBar()
  const results: BenchResult[] = []
  for (const concurrency of plan.concurrency) {
    const load = { concurrency, requestsPerClient: 1, promptTokens: plan.promptTokens, vocabSize }
    await runLoad(target, { ...load, outputTokens: Math.min(WARM_UP_TOKENS, plan.outputTokens) })
    const prefills: number[] = []
    const rounds: Timeline[][] = []
    for (let round = 0; round < plan.rounds; round++) {
      bar.update({ phase: `${concurrency} at once`, done: round, total: plan.rounds })
      const prefill = summarise(await runLoad(target, { ...load, outputTokens: 1 }))
      prefills.push((concurrency * plan.promptTokens) / prefill.seconds)
      rounds.push(await runLoad(target, { ...load, outputTokens: plan.outputTokens }))
    }
    results.push(resultOf(concurrency, prefills, rounds))
  }
  bar.finish()
  return results
}

export function resultOf(concurrency: number, prefills: readonly number[], rounds: ReadonlyArray<readonly Timeline[]>): BenchResult {
  const all = rounds.flat()
  return {
    concurrency, prefillTokensPerSecond: median(prefills), ttftMs: spread(ttftMs(all)),
    decodeTokensPerSecond: median(rounds.map((round) => summarise(round).decodeTokensPerSecond)), interTokenMs: spread(interTokenMs(all)),
  }
}

export function formatBench(report: BenchReport): string {
  const { model, server, device, weights, compute, head, promptTokens, outputTokens, adapters, rank, adapterLoadMs, results } = report
  const where = server === undefined ? `${device}, ${weights}, ${compute}, head ${head}` : server
  const loads = adapterLoadMs === undefined ? '' : `; ${adapters} adapters of rank ${rank}, ${fixed(adapterLoadMs)} ms to load one`
  const titles = ['at once', 'prefill tok/s', 'first token ms p50', 'p99', 'decode tok/s', 'between tokens ms p50', 'p99']
  const rows = results.map((result) => [
    String(result.concurrency), fixed(result.prefillTokensPerSecond, 0), fixed(result.ttftMs.p50), fixed(result.ttftMs.p99),
    fixed(result.decodeTokensPerSecond, 0), fixed(result.interTokenMs.p50, 2), fixed(result.interTokenMs.p99, 2),
  ])
  return `${model} on ${where}\nprompt ${promptTokens}, output ${outputTokens} tokens${loads}\n\n${formatTable(titles, rows)}`
}
