// The guide's run from conversations to adapter, by the trainer itself: preset `guide` with --compat trl-0.21-eager beside TRL's own run.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gemmaTemplate } from '../../engine/chat-template.js'
import { loadHfTokenizer } from '../../engine/hf-tokenizer.js'
import { native } from '../../engine/native.js'
import { resolveTrainConfig } from '../../engine/train/config.js'
import { SampleEncoder } from '../../engine/train/sample-encoder.js'
import { type TrainBase, runTraining } from '../../engine/train/trainer.js'
import type { Report } from './report.js'
import { TensorFile } from './tensors.js'
import { relativeDifference, startFrom } from './training-runs.js'

const RANK = 4
const N_SAMPLES = 54

interface TrlStep {
  readonly loss: number
  readonly grad_norm: number
  readonly lr: number
  readonly num_tokens: number
}

export async function checkWholeRun(root: string, report: Report): Promise<void> {
  report.section('preset guide with compat trl-0.21-eager, from conversations')
  const golden = join(root, 'trl-eager')
  const folder = mkdtempSync(join(tmpdir(), 'lorikeet-goldens-'))
  const model = await native().loadModel({
    path: join(root, 'base', 'nf4'), device: 'cpu', isa: 'auto', compute: 'fp32', weights: 'nf4', head: 'bf16', nThreads: 0, maxModelLen: 0,
    kvCacheBytes: 2 ** 24, maxBatchTokens: 64, maxNumSeqs: 4, maxLoras: 2, maxLoraRank: 64, cacheDir: '',
  }, () => {})
  try {
    const data = join(folder, 'data.jsonl')
    writeFileSync(data, readFileSync(join(root, 'base', 'samples.jsonl'), 'utf8').split('\n').slice(0, N_SAMPLES).join('\n'))
    const tokenizer = await loadHfTokenizer(join(root, 'base', 'tokenizer', 'tokenizer.json'), null)
    const begin = new Map<string, Float32Array>()
    const final = new TensorFile(join(golden, 'adapter_model.safetensors'))
    const base: TrainBase = {
      info: { source: 'gemma3-tiny', hash: model.info.hash, vocabSize: model.info.vocabSize },
      encoder: new SampleEncoder(tokenizer, gemmaTemplate), tokenizerFiles: [],
      async createTrainer(options) {
        const trainer = await model.createTrainer(options)
        await startFrom(trainer, new TensorFile(join(root, 'base', 'lora_a.safetensors')), { rank: RANK, alpha: RANK })
        for (const name of final.names) begin.set(name, await trainer.parameter(name))
        return trainer
      },
    }
    const config = resolveTrainConfig({
      preset: 'guide', compat: 'trl-0.21-eager', r: RANK, lora_alpha: RANK, lora_dropout: 0, max_length: 128, logging_steps: 1,
    })
    const request = { id: 'golden', config, trainFiles: [data], outputDir: join(folder, 'run') }
    const steps = readFileSync(join(golden, 'trajectory.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line) as TrlStep)
    const worst = { loss: 0, norm: 0, lr: 0, tokens: 0, steps: 0 }
    for await (const event of runTraining(request, base, new AbortController().signal)) {
      if (event.type !== 'step') continue
      const expected = steps[event.step - 1]!
      worst.loss = Math.max(worst.loss, Math.abs(event.loss - expected.loss))
      worst.norm = Math.max(worst.norm, Math.abs(event.gradNorm / expected.grad_norm - 1))
      worst.lr = Math.max(worst.lr, Math.abs(event.learningRate / expected.lr - 1))
      worst.tokens += event.tokens === expected.num_tokens ? 0 : 1
      worst.steps++
    }
    report.equal('steps', Math.abs(worst.steps - steps.length), steps.length)
    report.difference('loss', worst.loss, 3e-5)
    report.difference('gradient norm, relative', worst.norm, 5e-5)
    report.difference('learning rate, relative', worst.lr, 1e-12)
    report.equal('tokens after each step', worst.tokens, steps.length)
    const ours = new TensorFile(join(folder, 'run', 'adapter', 'adapter_model.safetensors'))
    report.difference('final adapter, of its move', relativeDifference(final.names.map((name) =>
      [ours.f32(name), final.f32(name), begin.get(name)!])), 1e-3)
  } finally {
    model.close()
    rmSync(folder, { recursive: true, force: true })
  }
}
