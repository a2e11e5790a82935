// A training run on standard error: a bar with loss, speed and remaining time on a terminal, lines elsewhere.

import type { WriteStream } from 'node:tty'
import type { DataReport, TrainEvent } from '../engine/train/types.js'

const WIDTH = 24
const MAX_REFUSED_SHOWN = 10

export class TrainView {
  readonly #out: Pick<WriteStream, 'write' | 'isTTY'>
  #hasBar = false

  constructor(out: Pick<WriteStream, 'write' | 'isTTY'> = process.stderr) {
    this.#out = out
  }

  show(event: TrainEvent): void {
    switch (event.type) {
      case 'preparing': return this.#bar(`reading data: ${event.rows} rows`)
      case 'data': return this.#data(event)
      case 'step': return this.#step(event)
      case 'evaluation': {
        const { step, loss, tokenAccuracy, best } = event
        const note = best ? ', the best so far' : ''
        return this.line(`step ${step}: evaluation loss ${loss.toFixed(4)}, token accuracy ${percent(tokenAccuracy)}${note}`)
      }
      case 'checkpoint': return this.#out.isTTY ? undefined : this.line(`step ${event.step}: checkpoint`)
      case 'stopped': return this.line(`stopped after step ${event.step}: the same command goes on from there`)
      case 'finished': {
        const { step, tokens, seconds, final } = event
        return this.line(`${step} steps, ${tokens} tokens in ${duration(seconds * 1000)} (${(tokens / seconds).toFixed(0)} tokens/s), ` +
          `loss ${final.loss.toFixed(4)}, token accuracy ${percent(final.tokenAccuracy)}`)
      }
    }
  }

  /** A line of its own, above a bar that goes on. */
  line(text: string): void {
    if (this.#hasBar) this.#out.write('\r\x1b[K')
    this.#hasBar = false
    this.#out.write(`${text}\n`)
  }

  #data({ report, totalSteps, nTrained, resumedFrom }: Extract<TrainEvent, { type: 'data' }>): void {
    this.line(describeData(report))
    for (const { file, line, reason } of report.refused.slice(0, MAX_REFUSED_SHOWN)) {
      this.line(`  left out: ${file}${line === 0 ? '' : `:${line}`}: ${reason}`)
    }
    if (report.nRefused > MAX_REFUSED_SHOWN) this.line(`  and ${report.nRefused - MAX_REFUSED_SHOWN} more`)
    this.line(`${nTrained} parameters, ${totalSteps} steps${resumedFrom > 0 ? `, going on from step ${resumedFrom}` : ''}`)
  }

  #step(event: Extract<TrainEvent, { type: 'step' }>): void {
    const { step, totalSteps, loss, learningRate, tokensPerSecond, remainingMs } = event
    const facts = `loss ${loss.toFixed(4)}  lr ${learningRate.toExponential(2)}  ${tokensPerSecond.toFixed(0)} tokens/s`
    if (!this.#out.isTTY) return this.line(`step ${step}/${totalSteps}: ${facts}  ${duration(remainingMs)} left`)
    const filled = Math.round(step / totalSteps * WIDTH)
    const bar = `[${'='.repeat(filled)}${' '.repeat(WIDTH - filled)}]`
    this.#bar(`${step}/${totalSteps} ${bar} ${facts}  ${duration(remainingMs)} left`)
  }

  /** The line that is written over; there is none in a log. */
  #bar(text: string): void {
    if (!this.#out.isTTY) return
    this.#out.write(`\r\x1b[K${text}`)
    this.#hasBar = true
  }
}

export function describeData(report: DataReport): string {
  const { samples, validationSamples, tokens, targetTokens, rows, paddingShare, truncated, dropped, nRefused } = report
  const parts = [
    `${samples} samples`, ...(validationSamples > 0 ? [`${validationSamples} for validation`] : []),
    `${tokens} tokens (${percent(targetTokens / tokens)} targets)`, `${rows} rows an epoch (${percent(paddingShare)} unused)`,
    ...(truncated > 0 ? [`${truncated} truncated`] : []), ...(dropped > 0 ? [`${dropped} dropped`] : []),
    ...(nRefused > 0 ? [`${nRefused} refused`] : []),
  ]
  return parts.join(', ')
}

const percent = (share: number): string => `${(share * 100).toFixed(1)} %`

/** 1:02:03, 2:03, 0:03. */
export function duration(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000))
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60]
  const tail = String(s).padStart(2, '0')
  return h > 0 ? `${h}:${String(m).padStart(2, '0')}:${tail}` : `${m}:${tail}`
}
