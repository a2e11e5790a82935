// What a run writes and how it cuts its rows: adapter_config.json of every variant, and the rows of TRL's own run.

import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { adapterConfig } from '../../engine/train/adapter-files.js'
import { buildMicroBatch } from '../../engine/train/batches.js'
import { resolveTrainConfig } from '../../engine/train/config.js'
import { packAsTrl } from '../../engine/train/packing.js'
import type { Report } from './report.js'

interface Variant {
  readonly rank: number
  readonly alpha: number
  readonly rslora?: boolean
  readonly dora?: boolean
  readonly trainable_tokens?: number[]
  readonly modules_to_save?: string[]
}

export function checkTrainFiles(root: string, report: Report): void {
  if (existsSync(join(root, 'clean', 'variants.json'))) checkConfigs(join(root, 'clean'), report)
  if (existsSync(join(root, 'trl-eager', 'rows.json'))) checkTrlRows(root, report)
}

function checkConfigs(folder: string, report: Report): void {
  const variants = JSON.parse(readFileSync(join(folder, 'variants.json'), 'utf8')) as Record<string, Variant>
  const recorded = readdirSync(folder).filter((name) => existsSync(join(folder, name, 'adapter_config.json')))
  const wrong = recorded.filter((name) => {
    const { rank, alpha, rslora = false, dora = false, trainable_tokens = [], modules_to_save = [] } = variants[name]!
    const config = resolveTrainConfig({
      preset: 'guide', r: rank, lora_alpha: alpha, lora_dropout: 0, use_rslora: rslora, use_dora: dora, modules_to_save,
      trainable_token_indices: trainable_tokens, train_turn_tokens: false,
    })
    const golden = readFileSync(join(folder, name, 'adapter_config.json'), 'utf8')
    return normal(adapterConfig(config, 'gemma3-tiny', trainable_tokens)) !== normal(golden)
  })
  report.equal('adapter_config.json of every variant', wrong.length, recorded.length)
  for (const name of wrong) console.log(`        ${name}`)
}

/** As text, with the modules in one order: PEFT's depends on a hash seed. */
function normal(text: string): string {
  const config = JSON.parse(text) as { target_modules: string[] }
  const modules = [...config.target_modules].sort()
  return text.replace(/"target_modules": \[[^\]]*\]/, `"target_modules": ${JSON.stringify(modules)}`).trim()
}

/** TRL's rows: samples of each, cut to max_length, and the divisor of every step, which counts unshifted labels. */
function checkTrlRows(root: string, report: Report): void {
  const rows = JSON.parse(readFileSync(join(root, 'trl-eager', 'rows.json'), 'utf8')) as { samples: number[]; lengths: number[] }[]
  const ids = readLines(join(root, 'base', 'samples.jsonl')).map((sample) => (sample as { input_ids: number[] }).input_ids)
  const used = rows.flatMap(({ samples }) => samples).length
  const maxLength = Math.max(...rows.map(({ lengths }) => lengths.reduce((a, b) => a + b)))
  const lengths = ids.slice(0, used).map((sample) => Math.min(sample.length, maxLength))
  const { samples, starts } = packAsTrl(lengths, maxLength)
  const found = rows.map((_, row) => [...samples.subarray(starts[row], starts[row + 1])])
  const nWrong = found.filter((row, i) => JSON.stringify(row) !== JSON.stringify(rows[i]!.samples)).length
  report.equal('rows of TRL\'s run', nWrong, starts.length - 1)
  const steps = readLines(join(root, 'trl-eager', 'trajectory.jsonl')) as { rows: number[]; num_items: number; targets: number }[]
  const wrong = steps.filter(({ rows: stepRows, num_items, targets }) => {
    const batches = stepRows.map((row) =>
      buildMicroBatch([found[row]!.map((i) => Int32Array.from(ids[i]!.slice(0, maxLength), (id, at) => (at === 0 ? ~id : id)))],
        { isTrl: true, onAll: true }))
    const sum = (count: (batch: (typeof batches)[number]) => number) => batches.reduce((n, batch) => n + count(batch), 0)
    return sum(({ divisor }) => divisor) !== num_items || sum(({ nTargets }) => nTargets) !== targets
  })
  report.equal('divisor and targets of TRL\'s steps', wrong.length, steps.length)
}

function readLines(path: string): unknown[] {
  return readFileSync(path, 'utf8').trim().split('\n').map((line) => JSON.parse(line) as unknown)
}
