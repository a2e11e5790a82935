// The result file of a job: one row a step, with the columns that OpenAI's has.

import type { StepMetrics } from './job-types.js'

const COLUMNS = ['step', 'train_loss', 'train_accuracy', 'valid_loss', 'valid_mean_token_accuracy']

export function formatResultCsv(metrics: readonly StepMetrics[]): string {
  const rows = metrics.map(({ step, trainLoss, trainAccuracy, validLoss, validAccuracy }) =>
    [step, trainLoss, trainAccuracy, validLoss, validAccuracy].map(cell).join(','))
  return `${[COLUMNS.join(','), ...rows].join('\n')}\n`
}

const cell = (value: number | undefined): string => (value === undefined ? '' : String(Number(value.toPrecision(8))))
