// Malformed model files through the addon: a promise that rejects with a named code, and a process that goes on.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { native, type NativeModelOptions } from '../../engine/native.js'
import { device, isCuda } from '../device.js'

const CONFIG = {
  model_type: 'gemma3_text', vocab_size: 16, hidden_size: 64, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 1,
  num_key_value_heads: 1, head_dim: 64, sliding_window: 8, max_position_embeddings: 128, query_pre_attn_scalar: 64, eos_token_id: 1,
}
const PROJECTIONS = [
  'self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj', 'mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj',
]
const NORMS = [
  'input_layernorm', 'post_attention_layernorm', 'pre_feedforward_layernorm', 'post_feedforward_layernorm',
  'self_attn.q_norm', 'self_attn.k_norm',
]
const SHAPES: Readonly<Record<string, readonly number[]>> = Object.fromEntries([
  ['model.embed_tokens.weight', [16, 64]], ['model.norm.weight', [64]],
  ...PROJECTIONS.map((name) => [`model.layers.0.${name}.weight`, [64, 64]]),
  ...NORMS.map((name) => [`model.layers.0.${name}.weight`, [64]]),
])

type Header = Record<string, { dtype: string; shape: readonly number[]; data_offsets: readonly [number, number] }>

/** A safetensors file of zeros in bf16; `edit` may change its header. */
function weights(edit: (header: Header) => void = () => {}): Buffer {
  const header: Header = {}
  let at = 0
  for (const [name, shape] of Object.entries(SHAPES)) {
    const bytes = 2 * shape.reduce((a, b) => a * b, 1)
    header[name] = { dtype: 'BF16', shape, data_offsets: [at, at + bytes] }
    at += bytes
  }
  edit(header)
  const text = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([length, text, Buffer.alloc(at)])
}

interface Files { readonly [name: string]: string | Buffer }

function folderOf(t: Test, files: Files): string {
  const folder = mkdtempSync(join(tmpdir(), 'lorikeet-files-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  mkdirSync(join(folder, 'model'))
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, 'model', name), content)
  return join(folder, 'model')
}

function load(path: string) {
  const options: NativeModelOptions = {
    path, device, isa: 'auto', compute: isCuda ? 'bf16' : 'fp32', weights: 'nf4', head: 'bf16', nThreads: 1, maxModelLen: 64,
    kvCacheBytes: 0, maxBatchTokens: 16, maxNumSeqs: 2, maxLoras: 1, maxLoraRank: 8, cacheDir: '',
  }
  return native().loadModel(options, () => {})
}

const config = (fields: object) => JSON.stringify({ ...CONFIG, ...fields })
const good: Files = { 'config.json': config({}), 'model.safetensors': weights() }

const cases: ReadonlyArray<readonly [behaviour: string, code: string, files: Files]> = [
  ['an empty directory', 'MODEL_NOT_FOUND', {}],
  ['a directory without weights', 'MODEL_NOT_FOUND', { 'config.json': config({}) }],
  ['pickle weights', 'UNSUPPORTED', { 'config.json': config({}), 'pytorch_model.bin': 'x' }],
  ['a config that is not JSON', 'FILE_INVALID', { ...good, 'config.json': '{hidden_size: 64' }],
  ['another model', 'UNSUPPORTED', { ...good, 'config.json': config({ model_type: 'llama' }) }],
  ['a shape that the weights do not have', 'MODEL_INVALID', { ...good, 'config.json': config({ vocab_size: 32 }) }],
  ['2^31 layers', 'MODEL_INVALID', { ...good, 'config.json': config({ num_hidden_layers: 2 ** 31 }) }],
  ['weights cut short', 'FILE_INVALID', { ...good, 'model.safetensors': weights().subarray(0, 5000) }],
  ['random weights', 'FILE_INVALID', { ...good, 'model.safetensors': Buffer.alloc(4096, 0xa5) }],
  ['a tensor past the end', 'FILE_INVALID', {
    ...good,
    'model.safetensors': weights((h) => {
      h['model.norm.weight'] = { dtype: 'BF16', shape: [64], data_offsets: [2 ** 40, 2 ** 40 + 128] }
    }),
  }],
  ['a missing tensor', 'MODEL_INVALID', {
    ...good, 'model.safetensors': weights((h) => { h['model.extra.weight'] = h['model.norm.weight']!; delete h['model.norm.weight'] }),
  }],
  ['an index that climbs out', 'MODEL_INVALID', {
    'config.json': config({}),
    'model.safetensors.index.json': JSON.stringify({ weight_map: { 'model.norm.weight': '../secret.safetensors' } }),
  }],
]

t.test('a sound tiny model loads', async (t) => {
  const model = await load(folderOf(t, good))
  t.equal(model.info.vocabSize, 16)
  t.match(model.info.eosTokenIds, [1])
  model.close()
})

for (const [behaviour, code, files] of cases) {
  t.test(`${behaviour}: rejects with ${code}`, (t) => t.rejects(load(folderOf(t, files)), { code }))
}

t.test('a file that is no GGUF rejects with FILE_INVALID, also as a tokenizer', async (t) => {
  const path = join(folderOf(t, { 'x.gguf': 'not a GGUF at all' }), 'x.gguf')
  await t.rejects(load(path), { code: 'FILE_INVALID' })
  t.throws(() => native().openGgufTokenizer(path), { code: 'FILE_INVALID' })
})

t.test('a tensor table is read after every check, and a broken one throws', (t) => {
  const folder = folderOf(t, { ...good, 'short.safetensors': weights().subarray(0, 40) })
  const table = native().readSafetensorsHeader(join(folder, 'model.safetensors'))
  t.match(table['model.norm.weight'], { dtype: 'BF16', shape: [64], bytes: 128 })
  t.throws(() => native().readSafetensorsHeader(join(folder, 'short.safetensors')), { code: 'FILE_INVALID' })
  t.throws(() => native().readSafetensor(join(folder, 'model.safetensors'), 'nothing'), { code: 'FILE_INVALID' })
  t.throws(() => native().readSafetensorsHeader(join(folder, 'absent')), { code: 'MODEL_NOT_FOUND' })
  t.end()
})
