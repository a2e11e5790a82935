// Tokenised samples in a temporary file, read back by number: a data set is never held in memory whole. Beside it, in memory, 8 bytes a
// sample. A token is its id where it is a target, ~id (negative) where it is not.

import { type Hash, createHash } from 'node:crypto'
import { type FileHandle, open, rm } from 'node:fs/promises'
import { toDiskError } from '../durable.js'
import type { Span } from './sample-encoder.js'

const BUFFER_TOKENS = 1 << 18

export class TokenStore {
  readonly #path: string
  readonly #file: FileHandle
  readonly #hash: Hash = createHash('sha256')
  #starts = new Float64Array(1024)
  #nSamples = 0
  #buffer = new Int32Array(BUFFER_TOKENS)
  #nBuffered = 0
  #nWritten = 0

  private constructor(path: string, file: FileHandle) {
    this.#path = path
    this.#file = file
  }

  /** An empty store in place of what is at `path`. @throws EngineError DISK_FULL */
  static async create(path: string): Promise<TokenStore> {
    return new TokenStore(path, await open(path, 'w+').catch((error: unknown) => { throw toDiskError(error) }))
  }

  get size(): number {
    return this.#nSamples
  }

  /** Of every token and target so far, in order. */
  digest(): string {
    return this.#hash.copy().digest('hex')
  }

  length(sample: number): number {
    return (sample + 1 === this.#nSamples ? this.#nWritten + this.#nBuffered : this.#starts[sample + 1]!) - this.#starts[sample]!
  }

  /** @throws EngineError DISK_FULL */
  async append(tokenIds: ArrayLike<number>, targets: readonly Span[]): Promise<void> {
    const n = tokenIds.length
    if (this.#nBuffered + n > this.#buffer.length) await this.flush()
    if (n > this.#buffer.length) this.#buffer = new Int32Array(n)
    if (this.#nSamples === this.#starts.length) this.#starts = grown(this.#starts)
    this.#starts[this.#nSamples++] = this.#nWritten + this.#nBuffered
    const tokens = this.#buffer.subarray(this.#nBuffered, this.#nBuffered + n)
    for (let i = 0; i < n; i++) tokens[i] = ~tokenIds[i]!
    for (const [from, to] of targets) for (let i = from; i < to; i++) tokens[i] = tokenIds[i]!
    this.#nBuffered += n
    this.#hash.update(Int32Array.of(n)).update(tokens)
  }

  /** What has been appended can be read from here on. @throws EngineError DISK_FULL */
  async flush(): Promise<void> {
    try {
      const bytes = Buffer.from(this.#buffer.buffer, 0, this.#nBuffered * 4)
      for (let at = 0; at < bytes.length;) {
        at += (await this.#file.write(bytes, at, bytes.length - at, this.#nWritten * 4 + at)).bytesWritten
      }
    } catch (error) {
      throw toDiskError(error)
    }
    this.#nWritten += this.#nBuffered
    this.#nBuffered = 0
  }

  /** Tokens of one sample, ~id where a token is no target. */
  async read(sample: number): Promise<Int32Array> {
    const tokens = new Int32Array(this.length(sample))
    const bytes = Buffer.from(tokens.buffer)
    const { bytesRead } = await this.#file.read(bytes, 0, bytes.length, this.#starts[sample]! * 4)
    if (bytesRead < bytes.length) throw new Error(`${this.#path} was cut short`)
    return tokens
  }

  /** Closes and removes the file. */
  async close(): Promise<void> {
    await this.#file.close()
    await rm(this.#path, { force: true })
  }
}

function grown(values: Float64Array<ArrayBuffer>): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(values.length * 2)
  larger.set(values)
  return larger
}
