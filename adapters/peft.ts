// PEFT's two files, written as PEFT 0.21 writes them and its config read as loosely as it reads it. What the tensors must be for a
// base is native code's to check (Engine.validateAdapter).

import { createWriteStream } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { EngineError } from '../engine/errors.js'
import { type PeftConfig, formatPeftConfig } from '../engine/peft-config.js'

export { type PeftConfig, formatPeftConfig }

export interface PeftTensor {
  readonly dtype: 'F32' | 'BF16' | 'F16'
  readonly shape: readonly number[]
  /** Little-endian, row-major. */
  readonly data: Uint8Array
}

const DTYPE_BYTES = { F32: 4, BF16: 2, F16: 2 } as const

/** @throws EngineError ADAPTER_NOT_FOUND, or ADAPTER_INVALID when it is not a LoRA config */
export async function readPeftConfig(folder: string): Promise<PeftConfig> {
  const text = await readFile(join(folder, 'adapter_config.json'), 'utf8').catch(() => undefined)
  if (text === undefined) throw new EngineError('ADAPTER_NOT_FOUND', `there is no adapter_config.json in ${folder}`)
  const config = parseObject(text)
  if (config?.['peft_type'] !== 'LORA') throw new EngineError('ADAPTER_INVALID',
    `config: peft_type is ${JSON.stringify(config?.['peft_type'])}, expected "LORA"`)
  if (!Number.isInteger(config['r']) || typeof config['lora_alpha'] !== 'number') {
    throw new EngineError('ADAPTER_INVALID', 'config: r must be a whole number and lora_alpha a number')
  }
  return config as unknown as PeftConfig
}

/** Writes both files into an existing folder. */
export async function writePeftAdapter(folder: string, config: PeftConfig, tensors: ReadonlyMap<string, PeftTensor>): Promise<void> {
  await writeFile(join(folder, 'adapter_config.json'), formatPeftConfig(config))
  const names = fileOrder(tensors)
  const pieces = [safetensorsHeader(names, tensors), ...names.map((name) => tensors.get(name)!.data)]
  await pipeline(Readable.from(pieces), createWriteStream(join(folder, 'adapter_model.safetensors')))
}

/** Length and header of a safetensors file, padded to 8 bytes as the reference writer does. */
export function safetensorsHeader(names: readonly string[], tensors: ReadonlyMap<string, Pick<PeftTensor, 'dtype' | 'shape'>>): Uint8Array {
  let end = 0
  const entries = names.map((name) => {
    const { dtype, shape } = tensors.get(name)!
    const begin = end
    end += shape.reduce((product, n) => product * n, DTYPE_BYTES[dtype])
    return [name, { dtype, shape, data_offsets: [begin, end] }] as const
  })
  const json = JSON.stringify(Object.fromEntries([['__metadata__', { format: 'pt' }], ...entries]))
  const text = Buffer.from(json + ' '.repeat(-Buffer.byteLength(json) & 7))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([length, text])
}

/** Wide types first, then by name: the reference writer's order. */
export function fileOrder(tensors: ReadonlyMap<string, Pick<PeftTensor, 'dtype'>>): string[] {
  const bytes = (name: string) => DTYPE_BYTES[tensors.get(name)!.dtype]
  return [...tensors.keys()].sort((a, b) => bytes(b) - bytes(a) || (a < b ? -1 : 1))
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}
