// `lorikeet export --gguf`: a model, merged or as it is, in the layout of llama.cpp's gemma3.

import { stat } from 'node:fs/promises'
import { EngineError } from '../../engine/errors.js'
import type { MergedModel, NativeModelConfig } from '../../engine/merged-weights.js'
import { ggufBool, ggufF32, ggufString, ggufU32, readGgufValues, writeGguf, type GgufTensorPlan, type GgufValue } from './gguf.js'
import { hfTokenizerValues } from './gguf-vocabulary.js'
import { single, slidingPattern } from './model-config.js'
import { encodedBytes, tensorChunks, type Encoding } from './row-chunks.js'


/** llama.cpp's names of the parts of a layer. */
const LAYER_NAMES: Readonly<Record<string, string>> = {
  'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm', 'self_attn.k_norm': 'attn_k_norm', 'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down', input_layernorm: 'attn_norm', post_attention_layernorm: 'post_attention_norm',
  pre_feedforward_layernorm: 'ffn_norm', post_feedforward_layernorm: 'post_ffw_norm',
}
/** llama_ftype */
const FILE_TYPES: Readonly<Record<Encoding, number>> = { F32: 0, F16: 1, Q8_0: 7, BF16: 32 }
const QUANTIZATION_VERSION = 2

export function ggufName(name: string): string {
  if (name === 'embed_tokens') return 'token_embd.weight'
  if (name === 'norm') return 'output_norm.weight'
  if (name === 'lm_head') return 'output.weight'
  const [, layer, part] = /^layers\.(\d+)\.(.+)$/.exec(name)!
  return `blk.${layer}.${LAYER_NAMES[part!]}.weight`
}

/** @throws EngineError UNSUPPORTED for a model that llama.cpp's gemma3 cannot describe */
export async function writeGgufModel(
  model: MergedModel, out: string, encoding: Encoding, onBytes: (done: number, total: number) => void = () => {},
): Promise<void> {
  const { weights } = model
  const values = new Map([...modelValues(weights.config, encoding), ...(await tokenizerValues(model))])
  const total = weights.tensors.reduce((sum, { shape }) => sum + encodedBytes(shape, shape.length === 1 ? 'F32' : encoding), 0)
  let done = 0
  const tensors = weights.tensors.map(({ name, shape }, index): GgufTensorPlan => {
    const type = shape.length === 1 ? 'F32' : encoding
    return {
      name: ggufName(name), shape, type, bytes: encodedBytes(shape, type),
      *chunks() {
        for (const chunk of tensorChunks(weights, index, type)) {
          done += chunk.length
          onBytes(done, total)
          yield shape.length === 1 ? plusOne(chunk) : chunk
        }
      },
    }
  })
  await writeGguf(out, values, tensors)
}

/** llama.cpp keeps 1 + w of a norm. */
function plusOne(chunk: Uint8Array): Uint8Array {
  const values = new Float32Array(chunk.buffer.slice(chunk.byteOffset, chunk.byteOffset + chunk.byteLength)).map((w) => 1 + w)
  return new Uint8Array(values.buffer)
}

function modelValues(config: NativeModelConfig, encoding: Encoding): Array<[string, GgufValue]> {
  checkDescribable(config)
  const values: Array<[string, GgufValue]> = [
    ['general.architecture', ggufString('gemma3')],
    ['general.type', ggufString('model')],
    ['general.name', ggufString(config.name)],
    ['general.file_type', ggufU32(FILE_TYPES[encoding])],
    ['general.quantization_version', ggufU32(QUANTIZATION_VERSION)],
    ['gemma3.context_length', ggufU32(config.maxPosition)],
    ['gemma3.embedding_length', ggufU32(config.hiddenSize)],
    ['gemma3.block_count', ggufU32(config.nLayers)],
    ['gemma3.feed_forward_length', ggufU32(config.intermediateSize)],
    ['gemma3.attention.head_count', ggufU32(config.nHeads)],
    ['gemma3.attention.head_count_kv', ggufU32(config.nKvHeads)],
    ['gemma3.attention.key_length', ggufU32(config.headDim)],
    ['gemma3.attention.value_length', ggufU32(config.headDim)],
    ['gemma3.attention.layer_norm_rms_epsilon', ggufF32(config.rmsNormEps)],
    ['gemma3.attention.sliding_window', ggufU32(config.slidingWindow)],
    ['gemma3.rope.freq_base', ggufF32(config.ropeThetaGlobal)],
  ]
  if (config.ropeScalingFactor !== 1) {
    values.push(['gemma3.rope.scaling.type', ggufString('linear')], ['gemma3.rope.scaling.factor', ggufF32(config.ropeScalingFactor)])
  }
  return values
}

/** What llama.cpp takes for granted of a gemma3, and has no key for. */
function checkDescribable(config: NativeModelConfig): void {
  const scale = single(config.queryPreAttnScalar)
  const facts: ReadonlyArray<readonly [boolean, string]> = [
    [slidingPattern(config) === 6 || config.nLayers < 6, 'every sixth layer is global'],
    [single(config.ropeThetaLocal) === 10_000, 'local layers rotate with base 10000'],
    [scale === config.headDim || scale === config.hiddenSize / config.nHeads, 'attention is scaled by the length of a head'],
  ]
  const missing = facts.find(([holds]) => !holds)
  if (missing === undefined) return
  throw new EngineError('UNSUPPORTED', `GGUF files of gemma3 take for granted that ${missing[1]}; this model is another`)
}

async function tokenizerValues({ path, weights }: MergedModel): Promise<Array<[string, GgufValue]>> {
  if ((await stat(path)).isDirectory()) return hfTokenizerValues(path, weights.config)
  const own = [...(await readGgufValues(path))].filter(([key]) => key.startsWith('tokenizer.'))
  return [...own, ['tokenizer.ggml.add_bos_token', ggufBool(true)]]
}
