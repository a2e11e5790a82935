// Adapters merged into their base: weights beside PEFT's own merge, and logits of the merged model loaded anew.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeMergedModel } from '../../adapters/export/merge.js'
import { openMergedModel } from '../../engine/merged-weights.js'
import { arithmeticOf, openModel } from './models.js'
import { largestDifference, type Report } from './report.js'
import { TensorFile } from './tensors.js'

/** Elements that may be one step of bf16 off, of 1; logits. */
const STEPS_SHARE = 1e-3
const LOGITS_TOLERANCE = 2e-3
const N_POSITIONS = 8

interface MergeFile {
  readonly prompt_sample: number
  readonly adapters: Readonly<Record<string, { readonly tie_word_embeddings: boolean }>>
}

export async function checkMerge(root: string, report: Report): Promise<void> {
  const { adapters, prompt_sample: sample } = JSON.parse(readFileSync(join(root, 'merge', 'merge.json'), 'utf8')) as MergeFile
  const ids = promptOf(root, sample)
  for (const base of ['bf16', 'nf4'] as const) {
    report.section(`merged into ${base}`)
    for (const [adapter, { tie_word_embeddings: tied }] of Object.entries(adapters)) {
      const folder = mkdtempSync(join(tmpdir(), 'lorikeet-merge-'))
      try {
        const out = join(folder, 'model')
        const source = { model: join(root, 'base', base), adapter: join(root, adapter), base: base === 'nf4' ? 'nf4' : '16bit' } as const
        const written = await writeMergedModel(openMergedModel(source), out)
        report.holds(`${adapter} tie_word_embeddings`, written.tied === tied, String(written.tied))
        if (adapter === 'clean/adamw') checkWeights(join(root, 'merge', 'weights.safetensors'), out, base, report)
        const expected = new TensorFile(join(root, 'merge', 'logits.safetensors')).f32(`${base}.${adapter.replace('clean/', '')}`)
        report.difference(`${adapter} logits`, await logitsDifference(out, ids, expected), LOGITS_TOLERANCE)
      } finally {
        rmSync(folder, { recursive: true, force: true })
      }
    }
  }
}

function promptOf(root: string, sample: number): Int32Array {
  const line = readFileSync(join(root, 'base', 'samples.jsonl'), 'utf8').split('\n')[sample]!
  return Int32Array.from((JSON.parse(line) as { input_ids: number[] }).input_ids)
}

function checkWeights(expectedPath: string, out: string, base: string, report: Report): void {
  const [expected, found] = [new TensorFile(expectedPath), new TensorFile(join(out, 'model.safetensors'))]
  for (const name of expected.names.filter((key) => key.startsWith(`${base}.`))) {
    const [a, b] = [expected.i16(name), found.i16(name.slice(base.length + 1))]
    const steps = a.map((bits, i) => Math.abs(bits - b[i]!))
    const nOff = steps.filter((step) => step > 0).length
    const holds = steps.every((step) => step <= 1) && nOff <= STEPS_SHARE * a.length
    report.holds(name.slice(base.length + 1), holds, `${nOff} of ${a.length} one step off`)
  }
}

/** Of the last positions. */
async function logitsDifference(model: string, ids: Int32Array, expected: Float32Array): Promise<number> {
  const engine = await openModel(arithmeticOf('cpu'), model, { weights: 'bf16' })
  try {
    const logits = await engine.model.logits(ids, -1)
    return largestDifference(logits.subarray(logits.length - N_POSITIONS * engine.info.vocabSize), expected)
  } finally {
    await engine.close()
  }
}
