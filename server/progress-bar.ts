// How far the model has loaded, on standard error: a bar on a terminal, one line a phase elsewhere.

import type { WriteStream } from 'node:tty'
import type { Progress } from '../engine/api.js'

const WIDTH = 30
const REDRAW_MS = 50

export class ProgressBar {
  readonly #out: Pick<WriteStream, 'write' | 'isTTY'>
  #phase = ''
  #phaseStartedAt = 0
  #drawnAt = 0

  constructor(out: Pick<WriteStream, 'write' | 'isTTY'> = process.stderr) {
    this.#out = out
  }

  update({ phase, done, total }: Progress): void {
    const now = performance.now()
    const isNew = phase !== this.#phase
    if (isNew) this.#begin(phase, now)
    if (!this.#out.isTTY || total <= 0) return
    if (!isNew && done < total && now - this.#drawnAt < REDRAW_MS) return
    this.#drawnAt = now
    const share = Math.min(1, done / total)
    const filled = Math.round(share * WIDTH)
    this.#out.write(
      `\r${phase.padEnd(12)} [${'='.repeat(filled)}${' '.repeat(WIDTH - filled)}] ${String(Math.floor(share * 100)).padStart(3)} %`,
    )
  }

  /** Ends the last phase. */
  finish(): void {
    this.#end(performance.now())
  }

  #begin(phase: string, now: number): void {
    this.#end(now)
    this.#phase = phase
    this.#phaseStartedAt = now
    if (!this.#out.isTTY) this.#out.write(`${phase} ...\n`)
  }

  #end(now: number): void {
    if (this.#phase === '') return
    const seconds = ((now - this.#phaseStartedAt) / 1000).toFixed(1)
    this.#out.write(this.#out.isTTY ? `\r\x1b[K${this.#phase}: ${seconds} s\n` : `${this.#phase}: ${seconds} s\n`)
    this.#phase = ''
  }
}
