// TensorBoard event files: TFRecord frames of Event messages, written by hand (a dozen fields of two messages are needed).

import { type FileHandle, mkdir, open } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { toDiskError } from '../durable.js'

// Field numbers of tensorflow/core/util/event.proto and framework/summary.proto.
const EVENT = { wallTime: 1, step: 2, fileVersion: 3, summary: 5, sessionLog: 7 }
const SESSION_LOG_STATUS = 1
const SESSION_START = 1
const SUMMARY_VALUE = 1
const VALUE = { tag: 1, simpleValue: 2 }

export class EventFile {
  readonly #file: FileHandle

  private constructor(file: FileHandle) {
    this.#file = file
  }

  /** A new file in `folder`. Values of earlier files after `step` are taken back: a resumed run writes them again. */
  static async create(folder: string, step: number): Promise<EventFile> {
    try {
      await mkdir(folder, { recursive: true })
      const seconds = (Date.now() / 1000).toFixed(3)
      const log = new EventFile(await open(join(folder, `events.out.tfevents.${seconds}.${hostname()}.${process.pid}`), 'wx'))
      await log.#append([text(EVENT.fileVersion, 'brain.Event:2')])
      await log.#append([varint(EVENT.step, step + 1), bytes(EVENT.sessionLog, varint(SESSION_LOG_STATUS, SESSION_START))])
      return log
    } catch (error) {
      throw toDiskError(error)
    }
  }

  /** Values at one step. @throws EngineError DISK_FULL */
  async scalars(step: number, values: Readonly<Record<string, number>>): Promise<void> {
    const summary = Object.entries(values).map(([tag, value]) =>
      bytes(SUMMARY_VALUE, Buffer.concat([text(VALUE.tag, tag), float(VALUE.simpleValue, value)])))
    await this.#append([varint(EVENT.step, step), bytes(EVENT.summary, Buffer.concat(summary))])
  }

  async close(): Promise<void> {
    await this.#file.close()
  }

  async #append(fields: readonly Buffer[]): Promise<void> {
    try {
      await this.#file.appendFile(frame(Buffer.concat([double(EVENT.wallTime, Date.now() / 1000), ...fields])))
    } catch (error) {
      throw toDiskError(error)
    }
  }
}

/** Length, its checksum, data, its checksum: TFRecord. */
export function frame(data: Buffer): Buffer {
  const record = Buffer.alloc(data.length + 16)
  record.writeBigUInt64LE(BigInt(data.length), 0)
  record.writeUInt32LE(maskedCrc(record.subarray(0, 8)), 8)
  data.copy(record, 12)
  record.writeUInt32LE(maskedCrc(data), 12 + data.length)
  return record
}

const CRC32C_POLYNOMIAL = 0x82f63b78
const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ CRC32C_POLYNOMIAL : crc >>> 1
  return crc
})

export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of data) crc = crcTable[(crc ^ byte) & 255]! ^ (crc >>> 8)
  return (crc ^ 0xffffffff) >>> 0
}

function maskedCrc(data: Uint8Array): number {
  const crc = crc32c(data)
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

function key(field: number, wireType: number): Buffer {
  return Buffer.from([field << 3 | wireType])
}

function varint(field: number, value: number): Buffer {
  return Buffer.concat([key(field, 0), digits(value)])
}

function digits(value: number): Buffer {
  const out = []
  for (let rest = BigInt(value); out.length === 0 || rest > 0n; rest >>= 7n) out.push(Number(rest & 127n) | (rest > 127n ? 128 : 0))
  return Buffer.from(out)
}

function bytes(field: number, data: Buffer): Buffer {
  return Buffer.concat([key(field, 2), digits(data.length), data])
}

function text(field: number, value: string): Buffer {
  return bytes(field, Buffer.from(value))
}

function float(field: number, value: number): Buffer {
  const data = Buffer.alloc(4)
  data.writeFloatLE(value)
  return Buffer.concat([key(field, 5), data])
}

function double(field: number, value: number): Buffer {
  const data = Buffer.alloc(8)
  data.writeDoubleLE(value)
  return Buffer.concat([key(field, 1), data])
}
