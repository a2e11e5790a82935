// `lorikeet merge`: a base with an adapter in its weights, as a Hugging Face model that any runtime loads. Nothing appears at the
// destination before it is complete.

import { copyFile, mkdir, readdir, rm, rename, stat, writeFile } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { EngineError } from '../../engine/errors.js'
import type { MergedModel } from '../../engine/merged-weights.js'
import { flushPath } from '../../engine/durable.js'
import { writeDurable } from '../durable.js'
import { fileOrder, safetensorsHeader } from '../peft.js'
import { writeGgufTokenizer } from './gguf-tokenizer-files.js'
import { formatGenerationConfig, formatModelConfig } from './model-config.js'
import { encodedBytes, tensorChunks } from './row-chunks.js'
import { formatIndex, planShards } from './shards.js'

/** What transformers calls 2GB. */
const DEFAULT_SHARD_BYTES = 2_000_000_000
/** Files beside the weights that belong to the model whatever its weights are. */
const COMPANIONS = [
  'tokenizer.json', 'tokenizer.model', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json', 'chat_template.jinja',
  'chat_template.json', 'generation_config.json',
]

export interface MergeOptions {
  readonly maxShardBytes?: number
  /** Default BF16, which rounds the sum: what a short run changed by less than half a step is lost. F32 keeps it. */
  readonly dtype?: 'BF16' | 'F32'
  readonly onProgress?: (bytes: number, totalBytes: number) => void
}

export interface MergeResult {
  readonly files: readonly string[]
  readonly bytes: number
  readonly tied: boolean
}

interface MergedTensor {
  readonly name: string
  readonly bytes: number
  readonly index: number
  readonly shape: readonly number[]
}

/** Writes safetensors, config, tokenizer. @throws EngineError INVALID_REQUEST when something lies at `out` already */
export async function writeMergedModel(model: MergedModel, out: string, options: MergeOptions = {}): Promise<MergeResult> {
  const destination = resolve(out)
  await checkFree(destination)
  await mkdir(dirname(destination), { recursive: true })
  const folder = join(dirname(destination), `.${basename(destination)}.${process.pid}.tmp`)
  await rm(folder, { recursive: true, force: true })
  await mkdir(folder)
  try {
    const bytes = await writeWeights(model, folder, options)
    await writeCompanions(model, folder, options.dtype ?? 'BF16')
    await flushPath(folder)
    if (existsSync(destination)) await rm(destination, { recursive: true })   // checkFree: an empty folder
    await rename(folder, destination)
    await flushPath(dirname(destination))
    return { files: (await readdir(destination)).sort(), bytes, tied: model.weights.config.tied }
  } catch (error) {
    await rm(folder, { recursive: true, force: true })
    throw error
  }
}

async function checkFree(path: string): Promise<void> {
  const entries = await readdir(path).catch((error: NodeJS.ErrnoException) => (error.code === 'ENOENT' ? [] : undefined))
  if (entries?.length === 0) return
  throw new EngineError('INVALID_REQUEST', `${path} is not empty: name a folder that does not exist yet`, { param: 'out' })
}

async function writeWeights({ weights }: MergedModel, folder: string, options: MergeOptions): Promise<number> {
  const { dtype = 'BF16' } = options
  const tensors = weights.tensors.map(({ name, shape }, index): MergedTensor =>
    ({ name: checkpointName(name), shape, index, bytes: encodedBytes(shape, dtype) }))
  const shards = planShards(tensors, options.maxShardBytes ?? DEFAULT_SHARD_BYTES)
  const total = tensors.reduce((sum, { bytes }) => sum + bytes, 0)
  let done = 0
  for (const shard of shards) {
    const byName = new Map(shard.tensors.map((tensor) => [tensor.name, tensor] as const))
    const table = new Map(shard.tensors.map(({ name, shape }) => [name, { dtype, shape }] as const))
    const order = fileOrder(table)
    const chunks = function* (): Generator<Uint8Array> {
      yield safetensorsHeader(order, table)
      for (const name of order) {
        for (const chunk of tensorChunks(weights, byName.get(name)!.index, dtype)) {
          done += chunk.length
          options.onProgress?.(done, total)
          yield chunk
        }
      }
    }
    await writeDurable(join(folder, shard.file), chunks(), Infinity)
  }
  if (shards.length > 1) await writeFile(join(folder, 'model.safetensors.index.json'), formatIndex(shards))
  return total
}

/** "layers.0.mlp.up_proj" -> "model.layers.0.mlp.up_proj.weight". */
const checkpointName = (name: string): string => `${name === 'lm_head' ? '' : 'model.'}${name}.weight`

async function writeCompanions({ path, weights }: MergedModel, folder: string, dtype: 'BF16' | 'F32'): Promise<void> {
  await writeFile(join(folder, 'config.json'), formatModelConfig(weights.config, dtype === 'F32' ? 'float32' : 'bfloat16'))
  const isFolder = (await stat(path)).isDirectory()
  if (isFolder) {
    for (const name of COMPANIONS) if (existsSync(join(path, name))) await copyFile(join(path, name), join(folder, name))
  } else {
    await writeGgufTokenizer(path, folder)
  }
  const generation = join(folder, 'generation_config.json')
  if (!existsSync(generation)) await writeFile(generation, formatGenerationConfig(weights.config))
}
