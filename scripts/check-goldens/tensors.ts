// Tensors of a safetensors file as typed arrays, read by the engine's own reader.

import { native } from '../../engine/native.js'

export class TensorFile {
  readonly #path: string
  readonly #header: Record<string, { dtype: string; shape: number[]; bytes: number }>

  constructor(path: string) {
    this.#path = path
    this.#header = native().readSafetensorsHeader(path)
  }

  get names(): string[] {
    return Object.keys(this.#header)
  }

  has(name: string): boolean {
    return name in this.#header
  }

  shape(name: string): readonly number[] {
    return this.#entry(name).shape
  }

  raw(name: string): Uint8Array {
    return native().readSafetensor(this.#path, name).slice()
  }

  f32(name: string): Float32Array {
    const raw = this.raw(name)
    const { dtype } = this.#entry(name)
    if (dtype === 'F32') return new Float32Array(raw.buffer, 0, raw.length / 4)
    if (dtype !== 'BF16') throw new Error(`${this.#path}: ${name} is ${dtype}, expected F32 or BF16`)
    return bf16ToF32(new Uint16Array(raw.buffer, 0, raw.length / 2))
  }

  i32(name: string): Int32Array {
    const raw = this.raw(name)
    return new Int32Array(raw.buffer, 0, raw.length / 4)
  }

  i16(name: string): Int16Array {
    const raw = this.raw(name)
    return new Int16Array(raw.buffer, 0, raw.length / 2)
  }

  /** I16 or I32, as Int32. */
  ints(name: string): Int32Array {
    return this.dtype(name) === 'I16' ? Int32Array.from(this.i16(name)) : this.i32(name)
  }

  dtype(name: string): string {
    return this.#entry(name).dtype
  }

  #entry(name: string): { dtype: string; shape: number[] } {
    const entry = this.#header[name]
    if (entry === undefined) throw new Error(`${this.#path} has no tensor ${name}`)
    return entry
  }
}

function bf16ToF32(half: Uint16Array): Float32Array {
  const bits = new Uint32Array(half.length)
  half.forEach((value, i) => { bits[i] = value << 16 })
  return new Float32Array(bits.buffer)
}
