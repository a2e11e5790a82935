// Speed and peak memory of QLoRA training: rows of 512 random tokens on a named shape, LoRA r=16 on every linear. With --hf PYTHON the same
// is done by transformers and PEFT right before (scripts/bench-train/hf_train.py), each in a process of its own.

import { spawnSync } from 'node:child_process'
import { resourceUsage, argv, execPath } from 'node:process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type NativeTrainer, native } from '../engine/native.js'

const USAGE = `usage: npm run bench-train -- [--model random:gemma-3-270m] [--tokens 512] [--steps 6] [--supervised 100,30] [--threads 0]
  --checkpointing none|mlp|layer    --hf PYTHON   a Python with torch, transformers and peft, measured in the same run`

const TURN_ROWS = 2048   // ids stay away from the control tokens

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      model: { type: 'string', default: 'random:gemma-3-270m' },
      tokens: { type: 'string', default: '512' },
      steps: { type: 'string', default: '6' },
      supervised: { type: 'string', default: '100,30' },
      threads: { type: 'string', default: '0' },
      checkpointing: { type: 'string', default: 'none' },
      hf: { type: 'string' },
      one: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    console.log(USAGE)
    return 0
  }
  if (values.one) {
    await measure(values.model, Number(values.tokens), Number(values.steps), Number(values.supervised), Number(values.threads), values.checkpointing)
    return 0
  }
  if (values.hf !== undefined) run(values.hf, [fileURLToPath(new URL('../../scripts/bench-train/hf_train.py', import.meta.url)), values.tokens, values.steps])
  for (const share of values.supervised.split(',')) {
    run(execPath, [argv[1]!, '--one', '--model', values.model, '--tokens', values.tokens, '--steps', values.steps, '--supervised', share,
      '--threads', values.threads, '--checkpointing', values.checkpointing])
  }
  return 0
}

function run(program: string, args: readonly string[]): void {
  const { status } = spawnSync(program, args, { stdio: 'inherit' })
  if (status !== 0) throw new Error(`${program} ended with ${status}`)
}

/** Steps of one row each; the first is not counted. */
async function measure(path: string, nTokens: number, nSteps: number, percent: number, nThreads: number, checkpointing: string): Promise<void> {
  const model = await native().loadModel({
    path, device: 'cpu', isa: 'auto', compute: 'bf16', weights: 'nf4', head: 'bf16', nThreads, maxModelLen: nTokens, kvCacheBytes: 2 ** 24,
    maxBatchTokens: 64, maxNumSeqs: 1, maxLoras: 1, maxLoraRank: 16, cacheDir: '',
  }, () => {})
  const trainer = await model.createTrainer({
    rank: 16, alpha: 16, useRslora: false, useDora: false, dropout: 0.05,
    targetModules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'], layers: new Int32Array(),
    trainableTokenIds: new Int32Array(), modulesToSave: [], seed: 1n, checkpointing: checkpointing as 'none', optimizer: 'adamw',
    maxTokens: nTokens, trainShare: 1,
  })
  const seconds: number[] = []
  for (let step = 0; step < nSteps; step++) seconds.push(await oneStep(trainer, model.info.vocabSize, nTokens, percent, step))
  const counted = seconds.slice(1)
  const mean = (nTokens * counted.length) / counted.reduce((sum, s) => sum + s, 0)
  console.log(`lorikeet ${model.info.device}, ${percent} % supervised, checkpointing ${checkpointing}: best ${(nTokens / Math.min(...counted)).toFixed(0)}, `
    + `mean ${mean.toFixed(0)} tok/s, peak resident ${(resourceUsage().maxRSS / 2 ** 20).toFixed(2)} GiB`)
  await trainer.close()
  model.close()
}

async function oneStep(trainer: NativeTrainer, vocab: number, nTokens: number, percent: number, step: number): Promise<number> {
  const tokenIds = Int32Array.from({ length: nTokens }, (_, i) => TURN_ROWS + ((i * 7919 + step * 977) % (vocab - TURN_ROWS)))
  // The end of the row is supervised, as an answer is; the last token has nothing to predict.
  const first = nTokens - Math.round((nTokens * percent) / 100)
  const targets = tokenIds.map((_, i) => (i >= first && i + 1 < nTokens ? tokenIds[i + 1]! : -1))
  const began = performance.now()
  const { targets: n } = await trainer.accumulate(
    { tokenIds, documentStarts: Int32Array.of(0, nTokens), targets, tokenCounter: BigInt(step * nTokens) }, 1 / Math.max(1, nTokens - first - 1))
  if (n === 0) throw new Error('nothing is supervised')
  await trainer.optimizerStep({ lr: 2e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, maxGradNorm: 0.3 })
  return (performance.now() - began) / 1000
}

process.exitCode = await main()
