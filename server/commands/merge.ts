// `lorikeet merge`: an adapter merged into its base, as a Hugging Face model.

import { writeMergedModel } from '../../adapters/export/merge.js'
import { adapterFolder } from '../../adapters/stored-folder.js'
import { openMergedModel } from '../../engine/merged-weights.js'
import { loadConfig } from '../config.js'
import { ProgressBar } from '../progress-bar.js'
import { bytes } from '../settings.js'
import { choiceFlag, describeFlags, needFlag, parseFlags } from './command-flags.js'
import { told } from './told.js'

const FLAGS = {
  model: ['PATH', 'The base: checkpoint directory, .gguf file or hub id; none is the embedded model.'],
  adapter: ['NAME|DIR', 'PEFT folder, or NAME or NAME@VERSION of the data directory.'],
  out: ['DIR', 'Folder to make.'],
  base: ['16bit|nf4', 'Values to merge into: the base\'s own, or its NF4 form, as trained on [16bit].'],
  dtype: ['bf16|f32', 'Of the weights; f32 also keeps changes that bf16 rounds away, at twice the size [bf16].'],
  'max-shard-size': ['BYTES', 'Largest file of weights [2GB].'],
  'data-dir': ['DIR', 'Where adapters are stored (default ~/.lorikeet).'],
} as const

const USAGE = `Usage: lorikeet merge --model PATH --adapter NAME|DIR --out DIR [FLAGS]

Writes safetensors, config and tokenizer, which transformers, vLLM and TGI load. Over --base nf4 the result is what this server
computes with the adapter; over 16bit it is nearer to the original base.

${describeFlags(FLAGS)}
`

export async function merge(args: readonly string[]): Promise<number> {
  const flags = parseFlags(args, FLAGS)
  if (flags === undefined) return print(USAGE)
  const [adapter, out] = [needFlag(flags.adapter, 'adapter'), needFlag(flags.out, 'out')]
  const { engine, dataDir } = loadConfig(flags['data-dir'] === undefined ? [] : ['--data-dir', flags['data-dir']])
  const base = choiceFlag(flags.base, 'base', ['16bit', 'nf4'])
  const dtype = choiceFlag(flags.dtype?.toUpperCase(), 'dtype', ['BF16', 'F32'])
  const { 'max-shard-size': shardSize } = flags
  const limit = shardSize === undefined ? {} : { maxShardBytes: bytes(0, 1, '').parse(shardSize) }
  return told(async () => {
    const model = openMergedModel({ ...engine, model: flags.model ?? engine.model, adapter: await adapterFolder(adapter, dataDir), base })
    const bar = new ProgressBar()
    const result = await writeMergedModel(model, out, {
      dtype, ...limit, onProgress: (done, total) => bar.update({ phase: 'merging', done, total }),
    })
    bar.finish()
    const head = result.tied ? '' : ', with a head of its own (tie_word_embeddings false)'
    const size = `${(result.bytes / 1e6).toFixed(1)} MB of ${dtype.toLowerCase()} weights`
    print(`${out}: ${size}${head}\n${result.files.map((file) => `  ${file}\n`).join('')}`)
  })
}

function print(text: string): number {
  process.stdout.write(text)
  return 0
}
