import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import {
  ggufBool, ggufF32, ggufFloats, ggufInts, ggufNumbers, ggufString, ggufStrings, ggufTexts, ggufU32, readGgufValues, writeGguf,
} from '../../adapters/export/gguf.js'
import { ggufName } from '../../adapters/export/gguf-model.js'
import { writeGgufTokenizer } from '../../adapters/export/gguf-tokenizer-files.js'
import { hfTokenizerValues } from '../../adapters/export/gguf-vocabulary.js'
import { formatModelConfig, single, slidingPattern } from '../../adapters/export/model-config.js'
import { formatIndex, planShards } from '../../adapters/export/shards.js'
import { adapterFolder } from '../../adapters/stored-folder.js'
import { AdapterStore } from '../../adapters/store.js'
import type { NativeModelConfig } from '../../engine/merged-weights.js'
import { peftFolder, temporaryFolder } from './adapters-fixtures.js'

const CONFIG: NativeModelConfig = {
  name: 'tiny', nLayers: 7, hiddenSize: 128, intermediateSize: 256, nHeads: 4, nKvHeads: 1, headDim: 64, vocabSize: 12, slidingWindow: 16,
  maxPosition: 2_048, rmsNormEps: Math.fround(1e-6), queryPreAttnScalar: 64, ropeThetaGlobal: 1e6, ropeThetaLocal: 1e4,
  ropeScalingFactor: 1,
  bosId: 2, padId: 0, eosIds: [1, 106], isGlobal: [false, false, false, false, false, true, false], tied: true, multimodal: false,
}

t.test('a tensor that would pass the limit begins a new file; one larger than the limit is alone', async (t) => {
  const sized = (sizes: readonly number[]) => planShards(sizes.map((bytes, i) => ({ name: `t${i}`, bytes })), 10)
  const shape = (sizes: readonly number[]) => sized(sizes).map(({ tensors }) => tensors.map(({ bytes }) => bytes))
  t.same(shape([4, 6, 1]), [[4, 6], [1]])
  t.same(shape([25, 1, 1]), [[25], [1, 1]])
  t.same(shape([1, 25, 1]), [[1], [25], [1]])
  t.same(sized([1]).map(({ file }) => file), ['model.safetensors'])
  t.same(sized([9, 9]).map(({ file }) => file), ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'])
  t.same(JSON.parse(formatIndex(sized([9, 9]))), {
    metadata: { total_size: 18 }, weight_map: { t0: 'model-00001-of-00002.safetensors', t1: 'model-00002-of-00002.safetensors' },
  })
})

t.test('config.json says the shape, the layers and whether the head is the embedding', async (t) => {
  t.match(JSON.parse(formatModelConfig({ ...CONFIG, tied: false, ropeScalingFactor: 8 })), {
    architectures: ['Gemma3ForCausalLM'], num_hidden_layers: 7, tie_word_embeddings: false, rms_norm_eps: 1e-6, sliding_window_pattern: 6,
    rope_scaling: { rope_type: 'linear', factor: 8 }, eos_token_id: [1, 106],
  })
  t.equal(JSON.parse(formatModelConfig(CONFIG)).layer_types[5], 'full_attention')
  t.equal(JSON.parse(formatModelConfig(CONFIG)).rope_scaling, null)
  t.equal(slidingPattern(CONFIG), 6)
  t.equal(single(Math.fround(0.1)), 0.1)
})

t.test('what a GGUF file is written with can be read from it', async (t) => {
  const path = join(temporaryFolder(t), 'a.gguf')
  const values = new Map([
    ['general.architecture', ggufString('gemma3')], ['a.number', ggufU32(7)], ['a.float', ggufF32(0.5)], ['a.flag', ggufBool(true)],
    ['texts', ggufStrings(['', 'zwei', '日本'])], ['floats', ggufFloats(Float32Array.of(1.5, -2))],
    ['ints', ggufInts(Int32Array.of(-1, 3))],
  ])
  const rows = [Buffer.alloc(20, 1), Buffer.alloc(4, 2)]
  await writeGguf(path, values, [
    { name: 'x', shape: [2, 3], type: 'F32', bytes: 24, chunks: () => rows },
    { name: 'y', shape: [2], type: 'BF16', bytes: 4, chunks: () => [rows[1]!] },
  ])
  const read = await readGgufValues(path)
  t.same([...read.keys()], [...values.keys()])
  for (const [key, { type, bytes }] of values) t.match(read.get(key), { type, bytes: Buffer.from(bytes) }, key)
  t.same(ggufTexts(read.get('texts')!), ['', 'zwei', '日本'])
  t.same(ggufNumbers(read.get('floats')!), [1.5, -2])
  t.same(ggufNumbers(read.get('ints')!), [-1, 3])
  const file = await readFile(path)
  t.equal(file.length % 32, 0)
  t.same(file.subarray(-64, -40), Buffer.concat(rows), 'tensor x, and y 32 bytes after it')
  t.same(file.subarray(-32, -28), rows[1])
})

t.test('every tensor has llama.cpp\'s name', async (t) => {
  t.equal(ggufName('embed_tokens'), 'token_embd.weight')
  t.equal(ggufName('layers.12.pre_feedforward_layernorm'), 'blk.12.ffn_norm.weight')
  t.equal(ggufName('layers.3.self_attn.o_proj'), 'blk.3.attn_output.weight')
})

const VOCABULARY = { '<pad>': 0, '<eos>': 1, '<bos>': 2, '<unk>': 3, '<0x00>': 4, a: 5, b: 6, ab: 7, abb: 8, '▁': 9, '▁▁': 10 }
const TOKENIZER = {
  added_tokens: [
    ...['<pad>', '<eos>', '<bos>', '<unk>'].map((content, id) => ({ id, content, special: true })),
    { id: 10, content: '▁▁', special: false },
  ],
  model: { type: 'BPE', vocab: VOCABULARY, merges: [['▁', '▁'], ['a', 'b'], ['ab', 'b']] },
}

t.test('a tokenizer.json becomes a GGUF vocabulary, and that a tokenizer.json with the same merges', async (t) => {
  const folder = temporaryFolder(t)
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(TOKENIZER))
  const values = new Map(await hfTokenizerValues(folder, CONFIG))
  t.same(ggufTexts(values.get('tokenizer.ggml.tokens')!).slice(4), ['<0x00>', 'a', 'b', 'ab', 'abb', '▁', '  ', '[PAD11]'])
  t.same(ggufNumbers(values.get('tokenizer.ggml.token_type')!), [3, 3, 3, 2, 6, 1, 1, 1, 1, 1, 4, 5])
  const scores = ggufNumbers(values.get('tokenizer.ggml.scores')!)
  t.ok(scores[7]! > scores[8]!, 'what is merged first scores higher')
  const gguf = join(folder, 'model.gguf')
  await writeGguf(gguf, values, [])
  await writeGgufTokenizer(gguf, folder)
  const back = JSON.parse(await readFile(join(folder, 'tokenizer.json'), 'utf8'))
  t.same(back.model.merges, [['▁', '▁'], ['a', 'b'], ['ab', 'b']])
  t.equal(back.model.vocab['▁▁'], 10)
  t.match(back.added_tokens[2], { id: 2, content: '<bos>', special: true })
})

t.test('a model without a BPE tokenizer has no GGUF form', async (t) => {
  const folder = temporaryFolder(t)
  await t.rejects(hfTokenizerValues(folder, CONFIG), { code: 'UNSUPPORTED' })
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify({ model: { type: 'Unigram' } }))
  await t.rejects(hfTokenizerValues(folder, CONFIG), { code: 'UNSUPPORTED' })
})

t.test('commands find an adapter by folder, by name and by version, beside a server that runs', async (t) => {
  const root = temporaryFolder(t)
  const folder = await peftFolder(root, 'one')
  const store = await AdapterStore.open(join(root, 'adapters'))
  const staging = await store.stage()
  await staging.copyFrom(folder)
  const { version, path } = await store.publish('sql', staging, { base: 'b', source: 's', rank: 8, nTensors: 1, warnings: [] })
  const busy = await store.stage()
  t.equal(await adapterFolder(folder, root), folder)
  t.equal(await adapterFolder('sql', root), path)
  t.equal(await adapterFolder(`sql@${version.slice(0, 8)}`, root), path)
  for (const name of ['other', 'sql@0000', '../adapters/sql', ''])
    await t.rejects(adapterFolder(name, root), { code: 'ADAPTER_NOT_FOUND' }, name)
  t.resolves(busy.copyFrom(folder), 'the server\'s own staging is left alone')
})
