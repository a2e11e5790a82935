// Adapters with random weights in PEFT's format, for benchmarks and tests: every linear layer of a Gemma 3 shape, non-zero B.

import { randomBytes } from 'node:crypto'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writePeftAdapter, type PeftTensor } from './peft.js'

/** Sizes of the linear layers. */
export interface LinearShape {
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly nHeads: number
  readonly nKvHeads: number
  readonly headDim: number
  readonly nLayers: number
}

/** Facts of the published configs, by hidden size, which tells them apart. */
const SHAPES: readonly LinearShape[] = [
  { hiddenSize: 128, intermediateSize: 256, nHeads: 4, nKvHeads: 1, headDim: 256, nLayers: 7 },        // gemma3-tiny of the goldens
  { hiddenSize: 448, intermediateSize: 768, nHeads: 8, nKvHeads: 2, headDim: 64, nLayers: 12 },         // engine/embedded
  { hiddenSize: 640, intermediateSize: 2_048, nHeads: 4, nKvHeads: 1, headDim: 256, nLayers: 18 },     // 270m
  { hiddenSize: 1_152, intermediateSize: 6_912, nHeads: 4, nKvHeads: 1, headDim: 256, nLayers: 26 },   // 1b
  { hiddenSize: 2_560, intermediateSize: 10_240, nHeads: 8, nKvHeads: 4, headDim: 256, nLayers: 34 },  // 4b
  { hiddenSize: 3_840, intermediateSize: 15_360, nHeads: 16, nKvHeads: 8, headDim: 256, nLayers: 48 }, // 12b
  { hiddenSize: 5_376, intermediateSize: 21_504, nHeads: 32, nKvHeads: 16, headDim: 128, nLayers: 62 }, // 27b
]

/** @throws Error for a base whose shape is not in the table */
export function shapeOf(hiddenSize: number): LinearShape {
  const shape = SHAPES.find((candidate) => candidate.hiddenSize === hiddenSize)
  if (shape === undefined) throw new Error(`no Gemma 3 shape with hidden_size ${hiddenSize} is known here`)
  return shape
}

/** The shape in a checkpoint's config.json. */
export async function readShape(modelFolder: string): Promise<LinearShape> {
  const config = JSON.parse(await readFile(join(modelFolder, 'config.json'), 'utf8')) as Record<string, number>
  const { hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, head_dim, num_hidden_layers } = config
  return {
    hiddenSize: hidden_size!, intermediateSize: intermediate_size!, nHeads: num_attention_heads!, nKvHeads: num_key_value_heads!,
      headDim: head_dim!,
    nLayers: num_hidden_layers!,
  }
}

export interface RandomAdapterOptions {
  readonly shape: LinearShape
  readonly rank: number
  readonly modules?: readonly string[]
  /** Standard deviation of A and B is about a third of this. */
  readonly amplitude?: number
}

const ALL_LINEAR = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']

/** Writes adapter_config.json and adapter_model.safetensors (F32, alpha = rank) into a folder, which is made. */
export async function writeRandomAdapter(folder: string, options: RandomAdapterOptions): Promise<void> {
  const { shape, rank, modules = ALL_LINEAR, amplitude = 0.02 } = options
  await mkdir(folder, { recursive: true })
  const tensors = new Map<string, PeftTensor>()
  for (let layer = 0; layer < shape.nLayers; layer++) {
    for (const module of modules) {
      const [block, nIn, nOut] = sizesOf(module, shape)
      const key = `base_model.model.model.layers.${layer}.${block}.${module}`
      tensors.set(`${key}.lora_A.weight`, randomTensor([rank, nIn], amplitude))
      tensors.set(`${key}.lora_B.weight`, randomTensor([nOut, rank], amplitude))
    }
  }
  await writePeftAdapter(folder, { r: rank, lora_alpha: rank, target_modules: modules }, tensors)
}

type Sizes = [block: string, nIn: number, nOut: number]

function sizesOf(module: string, { hiddenSize, intermediateSize, nHeads, nKvHeads, headDim }: LinearShape): Sizes {
  switch (module) {
    case 'q_proj': return ['self_attn', hiddenSize, nHeads * headDim]
    case 'k_proj':
    case 'v_proj': return ['self_attn', hiddenSize, nKvHeads * headDim]
    case 'o_proj': return ['self_attn', nHeads * headDim, hiddenSize]
    case 'gate_proj':
    case 'up_proj': return ['mlp', hiddenSize, intermediateSize]
    case 'down_proj': return ['mlp', intermediateSize, hiddenSize]
    default: throw new Error(`${module} is no linear layer of Gemma 3`)
  }
}

/** Uniform in [-amplitude, amplitude). */
function randomTensor(shape: readonly number[], amplitude: number): PeftTensor {
  const n = shape.reduce((product, size) => product * size, 1)
  const noise = randomBytes(2 * n)
  const values = new Float32Array(n)
  for (let i = 0; i < n; i++) values[i] = (noise.readInt16LE(2 * i) / 32_768) * amplitude
  return { dtype: 'F32', shape, data: new Uint8Array(values.buffer) }
}
