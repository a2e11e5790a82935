// What an evaluation found: as JSON, and as a table of one or two models.

export type Metric = 'loss' | 'token_accuracy' | 'exact_match' | 'execution_accuracy'
export const METRICS: readonly Metric[] = ['loss', 'token_accuracy', 'exact_match', 'execution_accuracy']
/** A loss is better the smaller it is. */
export const isBetterLower = (metric: Metric): boolean => metric === 'loss'

export interface WrongAnswer {
  /** Number of the sample, from 1. */
  readonly sample: number
  readonly expected: string
  readonly answer: string
  readonly reason: string
}

/** Null: not asked for, or nothing to measure it on. Shares are of 1. */
export interface EvaluationReport {
  readonly object: 'evaluation'
  readonly model: string
  readonly samples: number
  /** Left out: longer than the context, or without a conversation to answer. */
  readonly skipped: number
  readonly loss: number | null               // nats per target token
  readonly perplexity: number | null
  readonly token_accuracy: number | null
  readonly target_tokens: number
  readonly exact_match: number | null
  readonly execution_accuracy: number | null
  /** Answers that are no SQL that runs. */
  readonly execution_errors: number
  /** Samples whose own SQL does not run: they count in no share. */
  readonly unjudged: number
  readonly seconds: number
  readonly wrong: readonly WrongAnswer[]
}

const ROWS: ReadonlyArray<readonly [label: string, field: keyof EvaluationReport, isShare: boolean]> = [
  ['loss', 'loss', false], ['perplexity', 'perplexity', false], ['token accuracy', 'token_accuracy', true],
  ['exact match', 'exact_match', true], ['execution accuracy', 'execution_accuracy', true],
]

/** Columns: the metric, each model, and with two of them the change. */
export function formatReports(reports: readonly EvaluationReport[]): string {
  const head = ['', ...reports.map(({ model }) => model), ...(reports.length === 2 ? ['change'] : [])]
  const rows = ROWS.filter(([, field]) => reports.some((report) => report[field] !== null)).map(([label, field, isShare]) => {
    const values = reports.map((report) => report[field] as number | null)
    const shown = values.map((value) => (value === null ? '-' : isShare ? percent(value) : value.toFixed(4)))
    return [label, ...shown, ...(values.length === 2 ? [change(values, isShare)] : [])]
  })
  const counts = ['samples', ...reports.map(({ samples, skipped }) => (skipped > 0 ? `${samples} (${skipped} skipped)` : String(samples)))]
  const lines = [head, ...rows, counts]
  const widths = head.map((_, i) => Math.max(...lines.map((line) => line[i]?.length ?? 0)))
  const align = (cell: string, i: number) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))
  return lines.map((line) => line.map(align).join('  ').trimEnd()).join('\n')
}

function change([before, after]: ReadonlyArray<number | null>, isShare: boolean): string {
  if (before === null || before === undefined || after === null || after === undefined) return '-'
  const difference = after - before
  const text = isShare ? `${(100 * difference).toFixed(1)} points` : difference.toFixed(4)
  return difference >= 0 ? `+${text}` : text
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`
