// What a run leaves to be looked at: metrics.jsonl, one event a line, and TensorBoard files under runs/. A resumed run takes back the
// lines that came after its checkpoint.

import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { toDiskError } from '../durable.js'
import { EventFile } from './event-file.js'
import type { TrainEvent } from './types.js'

export class RunLog {
  readonly #metrics: FileHandle
  readonly #events: EventFile
  #nBytes: number

  private constructor(metrics: FileHandle, events: EventFile, nBytes: number) {
    this.#metrics = metrics
    this.#events = events
    this.#nBytes = nBytes
  }

  /** `step` and `nBytes` as of the checkpoint that the run goes on from; 0 for a new run. @throws EngineError DISK_FULL */
  static async open(folder: string, step: number, nBytes: number): Promise<RunLog> {
    const metrics = await open(join(folder, 'metrics.jsonl'), 'a+').catch((error: unknown) => { throw toDiskError(error) })
    const { size } = await metrics.stat()
    if (size > nBytes) await metrics.truncate(nBytes)
    return new RunLog(metrics, await EventFile.create(join(folder, 'runs'), step), Math.min(size, nBytes))
  }

  /** Bytes of metrics.jsonl so far. */
  get metricsBytes(): number {
    return this.#nBytes
  }

  /** @throws EngineError DISK_FULL */
  async write(event: TrainEvent): Promise<void> {
    if (event.type === 'step') {
      const { step, epoch, loss, tokenAccuracy, learningRate, gradNorm, tokens, tokensPerSecond, memoryBytes } = event
      await this.#line(event)
      await this.#events.scalars(step, {
        'train/loss': loss, 'train/mean_token_accuracy': tokenAccuracy, 'train/learning_rate': learningRate, 'train/grad_norm': gradNorm,
        'train/epoch': epoch, 'train/num_tokens': tokens, 'train/tokens_per_second': tokensPerSecond, 'train/memory_bytes': memoryBytes,
      })
    } else if (event.type === 'evaluation') {
      await this.#line(event)
      await this.#events.scalars(event.step, { 'eval/loss': event.loss, 'eval/mean_token_accuracy': event.tokenAccuracy })
    }
  }

  /** What has been written is on the disk when it resolves. */
  async flush(): Promise<void> {
    await this.#metrics.datasync().catch((error: unknown) => { throw toDiskError(error) })
  }

  async close(): Promise<void> {
    await this.#metrics.close()
    await this.#events.close()
  }

  async #line(event: TrainEvent): Promise<void> {
    const line = Buffer.from(`${JSON.stringify(event)}\n`)
    await this.#metrics.appendFile(line).catch((error: unknown) => { throw toDiskError(error) })
    this.#nBytes += line.length
  }
}
