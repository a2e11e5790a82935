// The GGUF container, version 3: key-values read as they lie in a file, and a writer that streams its tensors.

import { open } from 'node:fs/promises'
import { writeDurable } from '../durable.js'

const GGUF_TYPE = { u32: 4, f32: 6, i32: 5, bool: 7, string: 8, array: 9 } as const

/** A value as a file holds it: its type, then its bytes (of an array: item type, count, items). */
export interface GgufValue {
  readonly type: number
  readonly bytes: Uint8Array
}

/** Numbers of ggml's enum of tensor types. */
export const GGML_TYPE = { F32: 0, F16: 1, Q8_0: 8, BF16: 30 } as const

export interface GgufTensorPlan {
  readonly name: string
  /** Rows first, as everywhere here; the file has them reversed. */
  readonly shape: readonly number[]
  readonly type: keyof typeof GGML_TYPE
  readonly bytes: number
  chunks(): Iterable<Uint8Array>
}

const MAGIC = 0x46554747
const VERSION = 3
const ALIGNMENT = 32
/** By number of the type: u8, i8, u16, i16, u32, i32, f32, bool, string, array, u64, i64, f64. */
const SCALAR_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8] as const
/** Key-values are read whole; Gemma's vocabulary takes 7 MB. */
const MAX_VALUE_BYTES = 256 * 2 ** 20

export const ggufString = (text: string): GgufValue => ({ type: GGUF_TYPE.string, bytes: stringBytes(text) })
export const ggufU32 = (n: number): GgufValue => ({ type: GGUF_TYPE.u32, bytes: Buffer.from(Uint32Array.of(n).buffer) })
export const ggufF32 = (x: number): GgufValue => ({ type: GGUF_TYPE.f32, bytes: Buffer.from(Float32Array.of(x).buffer) })
export const ggufBool = (value: boolean): GgufValue => ({ type: GGUF_TYPE.bool, bytes: Uint8Array.of(value ? 1 : 0) })
export const ggufStrings = (texts: readonly string[]): GgufValue =>
  array(GGUF_TYPE.string, texts.length, Buffer.concat(texts.map(stringBytes)))
export const ggufFloats = (values: Float32Array): GgufValue => array(GGUF_TYPE.f32, values.length, bytesOf(values))
export const ggufInts = (values: Int32Array): GgufValue => array(GGUF_TYPE.i32, values.length, bytesOf(values))

/** Every key-value of a file that native code has checked already. */
export async function readGgufValues(path: string): Promise<Map<string, GgufValue>> {
  const file = await open(path, 'r')
  try {
    const buffer = Buffer.alloc(Math.min((await file.stat()).size, MAX_VALUE_BYTES))
    await file.read(buffer, 0, buffer.length, 0)
    const reader = new ValueReader(buffer)
    return reader.values()
  } finally {
    await file.close()
  }
}

export function ggufTexts({ bytes }: GgufValue): string[] {
  const reader = new ValueReader(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength))
  return reader.texts()
}

/** An array of f32 or i32 as numbers. */
export function ggufNumbers({ bytes }: GgufValue): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const isFloat = view.getUint32(0, true) === GGUF_TYPE.f32
  return Array.from({ length: Number(view.getBigUint64(4, true)) }, (_, i) =>
    isFloat ? view.getFloat32(12 + 4 * i, true) : view.getInt32(12 + 4 * i, true))
}

/** A new file, complete and flushed when this resolves. */
export async function writeGguf(path: string, values: ReadonlyMap<string, GgufValue>, tensors: readonly GgufTensorPlan[]): Promise<void> {
  await writeDurable(path, fileChunks(values, tensors), Infinity)
}

function* fileChunks(values: ReadonlyMap<string, GgufValue>, tensors: readonly GgufTensorPlan[]): Generator<Uint8Array> {
  const counts = [u32(MAGIC), u32(VERSION), u64(tensors.length), u64(values.size)]
  const head = Buffer.concat([...counts, ...keyValues(values), ...tensorTable(tensors)])
  yield head
  yield Buffer.alloc(padding(head.length))
  for (const tensor of tensors) {
    yield* tensor.chunks()
    yield Buffer.alloc(padding(tensor.bytes))
  }
}

function* keyValues(values: ReadonlyMap<string, GgufValue>): Generator<Uint8Array> {
  for (const [key, { type, bytes }] of values) yield Buffer.concat([stringBytes(key), u32(type), bytes])
}

function* tensorTable(tensors: readonly GgufTensorPlan[]): Generator<Uint8Array> {
  let offset = 0
  for (const { name, shape, type, bytes } of tensors) {
    yield Buffer.concat([stringBytes(name), u32(shape.length), ...[...shape].reverse().map(u64), u32(GGML_TYPE[type]), u64(offset)])
    offset += bytes + padding(bytes)
  }
}

class ValueReader {
  readonly #buffer: Buffer
  #at = 0

  constructor(buffer: Buffer) {
    this.#buffer = buffer
  }

  values(): Map<string, GgufValue> {
    this.#at = 16                                       // magic, version, number of tensors
    const values = new Map<string, GgufValue>()
    for (let left = this.#u64(); left > 0; left--) {
      const key = this.#text()
      const type = this.#u32()
      const start = this.#at
      this.#skip(type)
      values.set(key, { type, bytes: this.#buffer.subarray(start, this.#at) })
    }
    return values
  }

  texts(): string[] {
    this.#at = 4
    return Array.from({ length: this.#u64() }, () => this.#text())
  }

  #skip(type: number): void {
    if (type === GGUF_TYPE.string) this.#text()
    else if (type === GGUF_TYPE.array) {
      const item = this.#u32()
      const count = this.#u64()
      if (item === GGUF_TYPE.string) for (let i = 0; i < count; i++) this.#text()
      else this.#at += count * SCALAR_BYTES[item]!
    } else this.#at += SCALAR_BYTES[type]!
  }

  #text(): string {
    const length = this.#u64()
    this.#at += length
    return this.#buffer.toString('utf8', this.#at - length, this.#at)
  }

  #u32(): number {
    this.#at += 4
    return this.#buffer.readUInt32LE(this.#at - 4)
  }

  #u64(): number {
    this.#at += 8
    return Number(this.#buffer.readBigUInt64LE(this.#at - 8))
  }
}

function array(item: number, count: number, items: Uint8Array): GgufValue {
  return { type: GGUF_TYPE.array, bytes: Buffer.concat([u32(item), u64(count), items]) }
}

function stringBytes(text: string): Buffer {
  const bytes = Buffer.from(text)
  return Buffer.concat([u64(bytes.length), bytes])
}

const u32 = (n: number): Buffer => Buffer.from(Uint32Array.of(n).buffer)
const u64 = (n: number): Buffer => Buffer.from(BigUint64Array.of(BigInt(n)).buffer)
const padding = (bytes: number): number => (ALIGNMENT - (bytes % ALIGNMENT)) % ALIGNMENT
const bytesOf = (values: Float32Array | Int32Array): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
