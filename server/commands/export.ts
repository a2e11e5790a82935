// `lorikeet export --gguf`: a model, a merged model or an adapter for llama.cpp.

import { existsSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { basename } from 'node:path'
import { writeGgufAdapter } from '../../adapters/export/gguf-adapter.js'
import { writeGgufModel } from '../../adapters/export/gguf-model.js'
import type { Encoding } from '../../adapters/export/row-chunks.js'
import { adapterFolder } from '../../adapters/stored-folder.js'
import { EngineError } from '../../engine/errors.js'
import { openMergedModel, type MergedModel } from '../../engine/merged-weights.js'
import { loadConfig } from '../config.js'
import { ProgressBar } from '../progress-bar.js'
import { UsageError } from '../settings.js'
import { choiceFlag, describeFlags, needFlag, parseFlags } from './command-flags.js'
import { told } from './told.js'

const FLAGS = {
  gguf: ['FILE', 'File to make.'],
  model: ['PATH', 'The base: checkpoint directory, .gguf file or hub id; none is the embedded model.'],
  adapter: ['NAME|DIR', 'PEFT folder, or NAME or NAME@VERSION of the data directory.'],
  merged: ['', 'The model with the adapter in its weights, not the adapter alone.'],
  base: ['16bit|nf4', 'Values of the base: its own, or those of its NF4 form [16bit].'],
  type: ['bf16|f16|f32|q8_0', 'Type of a model\'s matrices [bf16].'],
  'data-dir': ['DIR', 'Where adapters are stored (default ~/.lorikeet).'],
} as const

const USAGE = `Usage: lorikeet export --gguf FILE --model PATH [--adapter NAME|DIR [--merged]] [FLAGS]

Without --adapter the model, with --adapter the adapter (for --lora of llama.cpp), with --merged both in one.

${describeFlags(FLAGS)}
`

export async function exportModel(args: readonly string[]): Promise<number> {
  const flags = parseFlags(args, FLAGS)
  if (flags === undefined) {
    process.stdout.write(USAGE)
    return 0
  }
  const out = needFlag(flags.gguf, 'gguf')
  const { engine, dataDir } = loadConfig(flags['data-dir'] === undefined ? [] : ['--data-dir', flags['data-dir']])
  const base = choiceFlag(flags.base, 'base', ['16bit', 'nf4'])
  const encoding = choiceFlag(flags.type?.toUpperCase(), 'type', ['BF16', 'F16', 'F32', 'Q8_0'])
  if (flags.merged === true && flags.adapter === undefined) throw new UsageError('--merged needs --adapter')
  return told(async () => {
    if (existsSync(out)) throw new EngineError('INVALID_REQUEST', `${out} is there already`)
    const adapter = flags.adapter === undefined ? undefined : await adapterFolder(flags.adapter, dataDir)
    const model = openMergedModel({ ...engine, model: flags.model ?? engine.model, base, ...(adapter !== undefined && { adapter }) })
    const temporary = `${out}.${process.pid}.tmp`
    try {
      const isAdapterAlone = adapter !== undefined && flags.merged !== true
      if (isAdapterAlone) await writeGgufAdapter(model, basename(flags.adapter!), temporary)
      else await writeModel(model, temporary, encoding)
      await rename(temporary, out)
    } finally {
      await rm(temporary, { force: true })
    }
    process.stdout.write(`${out}\n`)
  })
}

async function writeModel(model: MergedModel, out: string, encoding: Encoding): Promise<void> {
  const bar = new ProgressBar()
  await writeGgufModel(model, out, encoding, (done, total) => bar.update({ phase: 'exporting', done, total }))
  bar.finish()
}
