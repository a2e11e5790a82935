// Data set cases, packing and schedules of a directory laid out like ../shared/goldens-training.

import { existsSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { gemmaTemplate } from '../../engine/chat-template.js'
import { loadHfTokenizer } from '../../engine/hf-tokenizer.js'
import { RowFault } from '../../engine/train/data-error.js'
import { listDataFiles, readDataFile } from '../../engine/train/data-files.js'
import { fitSample } from '../../engine/train/dataset.js'
import { type PackedRows, packAsTrl, packBestFit } from '../../engine/train/packing.js'
import { randomPermutation } from '../../engine/train/permutation.js'
import { readRow } from '../../engine/train/row-format.js'
import { type Sample, SampleEncoder } from '../../engine/train/sample-encoder.js'
import { learningRateAt } from '../../engine/train/schedule.js'
import type { LossOn, SchedulerType } from '../../engine/train/types.js'
import type { Report } from './report.js'
import { checkTrainFiles } from './train-files.js'

export async function checkTrainData(root: string, report: Report): Promise<void> {
  report.section('training data')
  const tokenizer = await loadHfTokenizer(join(root, 'base', 'tokenizer', 'tokenizer.json'), null)
  const encoder = new SampleEncoder(tokenizer, gemmaTemplate)
  if (existsSync(join(root, 'dataset', 'cases.json'))) await checkCases(join(root, 'dataset'), encoder, report)
  if (existsSync(join(root, 'dataset', 'packing.json'))) checkPacking(join(root, 'dataset', 'packing.json'), report)
  if (existsSync(join(root, 'schedules.json'))) checkSchedules(join(root, 'schedules.json'), report)
  if (existsSync(join(root, 'trl-eager', 'trajectory.jsonl'))) checkOrder(join(root, 'trl-eager'), report)
  checkTrainFiles(root, report)
}

interface GoldenSample {
  readonly file?: string
  readonly line: number
  readonly input_ids?: number[]
  readonly n_tokens?: number
  readonly first_ids?: number[]
  readonly last_ids?: number[]
  readonly ids_sum?: number
  readonly targets: Record<LossOn, number[][] | null>
}

interface GoldenCase {
  readonly path: string
  readonly accepted: number
  readonly samples: GoldenSample[]
  readonly errors: { readonly line: number | null; readonly kind: string }[]
}

interface GoldenPolicy {
  readonly path: string
  readonly max_length: number
  readonly loss: LossOn
  readonly policy: 'drop' | 'truncate' | 'error'
  readonly kept?: number[][]
  readonly dropped?: number[]
  readonly truncated?: number[]
  readonly no_targets_left?: number[]
  readonly errors?: { readonly line: number; readonly kind: string }[]
}

async function checkCases(folder: string, encoder: SampleEncoder, report: Report): Promise<void> {
  const golden = JSON.parse(readFileSync(join(folder, 'cases.json'), 'utf8')) as
    { kinds: Record<string, string>; cases: Record<string, GoldenCase>; policies: GoldenPolicy[] }
  const wrong: string[] = []
  let nSamples = 0
  for (const [name, expected] of Object.entries(golden.cases)) {
    const found = await readCase(join(folder, expected.path), encoder)
    nSamples += found.samples.length
    const isSame = found.samples.length === expected.accepted && same(found.errors, expected.errors) &&
      expected.samples.every((sample, i) => sameSample(found.samples[i]!, sample))
    if (!isSame) wrong.push(name)
  }
  report.equal(`data set cases (${nSamples} samples)`, wrong.length, Object.keys(golden.cases).length)
  for (const name of wrong.slice(0, 20)) console.log(`        ${name}`)
  const wrongPolicies: string[] = []
  for (const policy of golden.policies) {
    const found = applyPolicy((await readCase(join(folder, policy.path), encoder)).samples, policy)
    const { path: _path, max_length: _length, loss: _loss, policy: _policy, ...expected } = policy
    if (!same(sorted(found), sorted(expected))) wrongPolicies.push(JSON.stringify(policy).slice(0, 120))
  }
  report.equal('policies: drop, truncate, error', wrongPolicies.length, golden.policies.length)
  for (const name of wrongPolicies.slice(0, 5)) console.log(`        ${name}`)
}

interface FoundSample extends Sample {
  readonly file: string
  readonly line: number
}

interface FoundCase {
  readonly samples: FoundSample[]
  readonly errors: { line: number | null; kind: string }[]
}

async function readCase(path: string, encoder: SampleEncoder): Promise<FoundCase> {
  const samples: FoundSample[] = []
  const errors: { line: number | null; kind: string }[] = []
  for (const file of await listDataFiles([path])) {
    for await (const { line, row } of readDataFile(file)) {
      try {
        samples.push({ file: basename(file), line: line!, ...await encoder.encode(readRow(row)) })
      } catch (error) {
        if (!(error instanceof RowFault)) throw error
        errors.push({ line, kind: error.kind })
      }
    }
  }
  return { samples, errors }
}

function sameSample(found: FoundSample, golden: GoldenSample): boolean {
  const { tokenIds, targets } = found
  const sameIds = golden.input_ids !== undefined ? same(tokenIds, golden.input_ids)
    : tokenIds.length === golden.n_tokens && same(tokenIds.slice(0, 16), golden.first_ids) && same(tokenIds.slice(-16), golden.last_ids) &&
      tokenIds.reduce((sum, id) => sum + id, 0) === golden.ids_sum
  const sameFile = golden.file === undefined || basename(golden.file) === found.file
  return sameIds && sameFile && found.line === golden.line && same(sorted(targets), sorted(golden.targets))
}

function applyPolicy(samples: readonly FoundSample[], { max_length: maxLength, loss: lossOn, policy }: GoldenPolicy): object {
  const kept: number[][] = []
  const truncated: number[] = []
  const dropped: number[] = []
  const errors: { line: number; kind: string }[] = []
  for (const sample of samples) {
    try {
      const fit = fitSample(sample, { lossOn, maxLength, truncation: policy })
      if (fit === 'dropped') dropped.push(sample.line)
      else {
        kept.push([sample.line, fit.kept])
        if (fit.truncated) truncated.push(sample.line)
      }
    } catch (error) {
      errors.push({ line: sample.line, kind: (error as RowFault).kind })
    }
  }
  return policy === 'error' ? { errors } : policy === 'drop' ? { dropped, kept } : { truncated, no_targets_left: dropped, kept }
}

function checkPacking(path: string, report: Report): void {
  const cases = JSON.parse(readFileSync(path, 'utf8')) as { max_length: number; chunk: number; lengths: number[]; rows: number[][] }[]
  const wrong = cases.filter(({ max_length, chunk, lengths, rows }) => !same(rowsOf(packAsTrl(lengths, max_length, chunk)), rows))
  report.equal('packing as TRL', wrong.length, cases.length)
  const broken = cases.filter(({ max_length, lengths }) => {
    const rows = rowsOf(packBestFit(lengths, max_length))
    const filled = rows.map((row) => row.reduce((n, i) => n + Math.min(lengths[i]!, max_length), 0))
    return !same(rows.flat().sort((a, b) => a - b), lengths.map((_, i) => i)) || filled.some((n) => n > max_length)
  })
  report.equal('own packing: every sample once, no row too long', broken.length, cases.length)
  const fewer = cases.filter(({ max_length, lengths, rows }) => packBestFit(lengths, max_length).starts.length - 1 > rows.length)
  report.equal('own packing: no more rows than TRL', fewer.length, cases.length)
}

function rowsOf({ samples, starts }: PackedRows): number[][] {
  return Array.from({ length: starts.length - 1 }, (_, row) => [...samples.subarray(starts[row], starts[row + 1])])
}

function checkSchedules(path: string, report: Report): void {
  const cases = JSON.parse(readFileSync(path, 'utf8')) as {
    scheduler: SchedulerType; lr: number; steps: number; warmup_ratio?: number; warmup_steps?: number; min_lr_rate?: number; rates: number[]
  }[]
  let largest = 0
  for (const { scheduler, lr, steps, warmup_ratio = 0, warmup_steps, min_lr_rate = 0, rates } of cases) {
    const warmupSteps = warmup_steps ?? Math.ceil(warmup_ratio * steps)
    const schedule = { type: scheduler, learningRate: lr, totalSteps: steps, warmupSteps, minLrRatio: min_lr_rate }
    rates.forEach((rate, i) => {
      const found = learningRateAt(schedule, i + 1)
      largest = Math.max(largest, rate === 0 ? Math.abs(found) : Math.abs(found / rate - 1))
    })
  }
  report.difference(`schedules (${cases.length}), relative`, largest, 1e-12)
}

/** The rows of each step of TRL's own run, in the order of its seeded sampler. */
function checkOrder(folder: string, report: Report): void {
  const lines = readFileSync(join(folder, 'trajectory.jsonl'), 'utf8').trim().split('\n')
  const steps = lines.map((line) => JSON.parse(line) as { rows: number[] })
  const nRows = (JSON.parse(readFileSync(join(folder, 'rows.json'), 'utf8')) as unknown[]).length
  const seen = steps.flatMap(({ rows }) => rows)
  const expected = Array.from({ length: Math.ceil(seen.length / nRows) }, (_, epoch) => [...randomPermutation(nRows, 42 + epoch)]).flat()
  const nWrong = seen.filter((row, i) => row !== expected[i]).length
  report.equal('rows of TRL\'s run, by its seeded sampler', nWrong, seen.length)
}

function sorted(value: object): object {
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
}

function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}
