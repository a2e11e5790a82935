// What benches make of times: percentiles, and the figures of a load.

/** One request on a monotonic clock: when it was sent, and when each of its tokens came. */
export interface Timeline {
  readonly askedAtMs: number
  readonly tokenAtMs: readonly number[]
}

export interface Spread {
  readonly p50: number
  readonly p99: number
}

/** NaN where there is nothing to measure. */
export interface LoadSummary {
  readonly nRequests: number
  readonly nOutputTokens: number
  /** From the first question to the last token. */
  readonly seconds: number
  readonly ttftMs: Spread
  readonly interTokenMs: Spread
  /** Tokens over all seconds, prefill's too. */
  readonly outputTokensPerSecond: number
  /** Tokens over the time in which every request decodes: from the last first token to the first last one. */
  readonly decodeTokensPerSecond: number
}

/** The p-th share of the values, 0..1, nearest rank; NaN of none. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(p * sorted.length) - 1))] ?? NaN
}

export const median = (values: readonly number[]): number => percentile(values, 0.5)

export const spread = (values: readonly number[]): Spread => ({ p50: median(values), p99: percentile(values, 0.99) })

export function ttftMs(timelines: readonly Timeline[]): number[] {
  return timelines.flatMap(({ askedAtMs, tokenAtMs: [first] }) => (first === undefined ? [] : [first - askedAtMs]))
}

export function interTokenMs(timelines: readonly Timeline[]): number[] {
  return timelines.flatMap(({ tokenAtMs }) => tokenAtMs.slice(1).map((at, i) => at - tokenAtMs[i]!))
}

export function summarise(timelines: readonly Timeline[]): LoadSummary {
  const nOutputTokens = timelines.reduce((sum, { tokenAtMs }) => sum + tokenAtMs.length, 0)
  const beginMs = least(timelines.map(({ askedAtMs }) => askedAtMs))
  const seconds = (most(timelines.map(({ tokenAtMs }) => tokenAtMs.at(-1) ?? NaN)) - beginMs) / 1_000
  return {
    nRequests: timelines.length, nOutputTokens, seconds,
    ttftMs: spread(ttftMs(timelines)), interTokenMs: spread(interTokenMs(timelines)),
    outputTokensPerSecond: nOutputTokens / seconds,
    decodeTokensPerSecond: decodeRate(timelines),
  }
}

function decodeRate(timelines: readonly Timeline[]): number {
  const beginMs = most(timelines.map(({ tokenAtMs }) => tokenAtMs[0] ?? NaN))
  const endMs = least(timelines.map(({ tokenAtMs }) => tokenAtMs.at(-1) ?? NaN))
  if (timelines.length === 0 || !(endMs > beginMs)) return NaN
  const nTokens = timelines.reduce((sum, { tokenAtMs }) => sum + tokenAtMs.filter((at) => at > beginMs && at <= endMs).length, 0)
  return (nTokens / (endMs - beginMs)) * 1_000
}

// Not Math.min(...values): a long load has more values than a call takes arguments.
const least = (values: readonly number[]): number => values.reduce((a, b) => Math.min(a, b), Infinity)
const most = (values: readonly number[]): number => values.reduce((a, b) => Math.max(a, b), -Infinity)

/** Rows under a head, the first column left, the others right; no line break at the end. */
export function formatTable(head: readonly string[], rows: ReadonlyArray<readonly string[]>): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]!.length)))
  const align = (cell: string, i: number) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))
  return [head, ...rows].map((row) => row.map(align).join('  ')).join('\n')
}

/** "-" where there was nothing to measure. */
export const fixed = (value: number, digits = 1): string => (Number.isFinite(value) ? value.toFixed(digits) : '-')
