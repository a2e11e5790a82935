// PEFT adapters over both bases, and directories that must be refused for the recorded reason.

import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { EngineError } from '../../engine/errors.js'
import type { LocalEngine } from '../../engine/engine.js'
import { checkGreedy, openModel, promptsOf, type Arithmetic } from './models.js'
import { type Report, countBits, largestDifference } from './report.js'
import { TensorFile } from './tensors.js'

/** `bases`: directory of the checkpoint that each prefix of expected.safetensors stands for. */
export async function checkAdapters(directory: string, bases: Readonly<Record<'bf16' | 'nf4', string>>, arithmetic: Arithmetic,
  report: Report): Promise<void> {
  for (const base of ['bf16', 'nf4'] as const) {
    report.section(`adapters over ${base}`)
    if (!existsSync(bases[base])) {
      report.skip(base, `no base at ${bases[base]}`)
      continue
    }
    const engine = await openModel(arithmetic, bases[base], { weights: base })
    try {
      await checkGood(engine, directory, base, arithmetic, report)
      if (base === 'nf4') await checkBad(engine, directory, report)
    } finally {
      await engine.close()
    }
  }
}

async function checkGood(engine: LocalEngine, directory: string, base: string, { logits: tolerance, clearMargin }: Arithmetic,
  report: Report): Promise<void> {
  const names = readdirSync(directory).filter((name) => existsSync(join(directory, name, 'expected.safetensors')))
  for (const name of names.sort()) {
    const file = new TensorFile(join(directory, name, 'expected.safetensors'))
    const adapter = { slot: 0, version: name }
    await engine.loadAdapter({ ...adapter, path: join(directory, name) })
    for (const prompt of promptsOf(file)) {
      const ids = file.i32(`${prompt}.input_ids`)
      const logits = await engine.model.logits(ids, 0)
      report.difference(`${name} ${prompt} logits`, largestDifference(logits, file.f32(`${base}.${prompt}.logits`)), tolerance)
      await checkGreedy(engine, `${name} ${prompt} greedy`, ids, file, `${base}.${prompt}.greedy`, clearMargin, adapter, report)
    }
    await engine.unloadAdapter(0)
  }
}

interface BadCase {
  readonly directory: string
  readonly error: string | null
}

/** Refusals begin with the kind of fault; what is resident meanwhile does not change by a bit. */
async function checkBad(engine: LocalEngine, directory: string, report: Report): Promise<void> {
  const list = join(directory, 'bad', 'cases.json')
  if (!existsSync(list)) return
  const resident = readdirSync(directory).find((name) => existsSync(join(directory, name, 'expected.safetensors')))!
  await engine.loadAdapter({ slot: 0, version: resident, path: join(directory, resident) })
  const ids = Int32Array.of(2, 17, 33, 105, 9)
  const before = await engine.model.logits(ids, 0)
  for (const { directory: name, error } of JSON.parse(readFileSync(list, 'utf8')) as BadCase[]) {
    const found = await engine.loadAdapter({ slot: 1, version: name, path: join(directory, 'bad', name) })
      .then(() => null, (reason: unknown) => reason)
    if (found === null) await engine.unloadAdapter(1)
    if (error === null) report.holds(`bad/${name} loads`, found === null, found === null ? 'loaded' : String(found))
    else report.holds(`bad/${name}: ${error}`, isRefusal(found, error), found === null ? 'LOADED' : firstLine(found))
  }
  report.equal('the resident adapter afterwards', countBits(await engine.model.logits(ids, 0), before), before.length)
  await engine.unloadAdapter(0)
}

function isRefusal(found: unknown, kind: string): boolean {
  return found instanceof EngineError && found.code.startsWith('ADAPTER_')
    && (found.message.startsWith(`${kind}: `) || (kind === 'config' && found.code === 'ADAPTER_RANK_TOO_LARGE'))
}

function firstLine(error: unknown): string {
  return error instanceof EngineError ? `${error.code} ${error.message}`.split('\n')[0]!.slice(0, 90) : String(error)
}
