// `lorikeet bench`: speed of a model on this machine, in the engine's process without HTTP, or of a server that runs.

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { shapeOf, writeRandomAdapter } from '../../adapters/random-adapter.js'
import type { AdapterHandle, Engine, EngineOptions } from '../../engine/api.js'
import { startEngine } from '../../engine/client.js'
import { EngineTarget, HttpTarget } from '../bench/targets.js'
import { formatBench, measure, type BenchPlan, type BenchReport } from '../bench/measure.js'
import { median } from '../bench/statistics.js'
import { clientApiKey, loadConfig } from '../config.js'
import type { StartEngine } from '../main.js'
import { ProgressBar } from '../progress-bar.js'
import { UsageError } from '../settings.js'
import { describeFlags, numberFlag, parseFlags, splitFlags, type FlagValues } from './command-flags.js'
import { told } from './told.js'

const FLAGS = {
  'prompt-tokens': ['N', 'Tokens of a prompt [128].'],
  'output-tokens': ['N', 'Tokens of an answer [512].'],
  concurrency: ['LIST', 'Requests at once [1,8,64].'],
  rounds: ['N', 'Measurements of each; the median counts [3].'],
  adapters: ['N', 'Random adapters on every linear layer, spread over the requests [0].'],
  rank: ['N', 'Their rank [16].'],
  server: ['URL', 'Measure this running server over HTTP, its base.'],
  'api-key': ['KEY', 'Key for that server (or LORIKEET_API_KEY).'],
  json: ['FILE', 'Where the figures go as JSON; "-" is standard output.'],
} as const

const USAGE = `Usage: lorikeet bench [--model PATH] [--device cuda] [FLAGS]
       lorikeet bench --server URL [FLAGS]

Random prompts, greedy answers of full length, all requests of a measurement at once. Prefill is measured alone, by answers of one token;
decode is what all requests get together while all of them decode.

${describeFlags(FLAGS)}

The flags of "lorikeet serve" say which model is loaded, and how: --model random:gemma-3-1b is a shape with random weights.
`

/** Ids that every vocabulary has: what is asked of a server whose vocabulary is not known. */
const COMMON_IDS = 1_000

type Print = (text: string) => unknown

/** Resolves with the exit code. @throws UsageError */
export async function bench(
  args: readonly string[], start: StartEngine = startEngine, print: Print = (text) => process.stdout.write(text),
): Promise<number> {
  const { own, rest } = splitFlags(args, FLAGS)
  const flags = parseFlags([...own, ...rest.filter((arg) => arg === '--help' || arg === '-h')], FLAGS)
  if (flags === undefined) {
    print(USAGE)
    return 0
  }
  const plan = readPlan(flags)
  const config = loadConfig(rest)
  return told(async () => {
    const report = flags.server === undefined
      ? await benchEngine(engineOptions(config.engine, plan), plan, start)
      : await benchServer(flags.server, clientApiKey(flags['api-key']), plan)
    await show(report, flags.json, print)
  })
}

/** @throws UsageError */
export function readPlan(flags: FlagValues<typeof FLAGS>): BenchPlan {
  const number = (name: keyof typeof flags & string, fallback: number, limits: [number, number]) =>
    numberFlag(flags[name], name, fallback, limits)
  const plan = {
    promptTokens: number('prompt-tokens', 128, [1, 1e6]), outputTokens: number('output-tokens', 512, [2, 1e6]),
    concurrency: (flags.concurrency ?? '1,8,64').split(',').map((n) => numberFlag(n.trim(), 'concurrency', 1, [1, 4_096])),
    rounds: number('rounds', 3, [1, 1_000]), adapters: number('adapters', 0, [0, 1_024]), rank: number('rank', 16, [1, 512]),
  }
  if (flags.server !== undefined && plan.adapters > 0) throw new UsageError('--adapters needs an engine of its own, not --server')
  return plan
}

/** What the measurement needs beyond what the flags ask: room for every request and adapter, and no prompt answered from the cache. */
export function engineOptions(options: EngineOptions, { concurrency, adapters, rank }: BenchPlan): EngineOptions {
  const most = Math.max(...concurrency)
  return {
    ...options, maxNumSeqs: Math.max(options.maxNumSeqs, most), maxQueue: Math.max(options.maxQueue, most), prefixCache: false,
    maxLoras: adapters, maxLoraRank: adapters > 0 ? Math.max(options.maxLoraRank, rank) : options.maxLoraRank,
  }
}

async function benchEngine(options: EngineOptions, plan: BenchPlan, start: StartEngine): Promise<BenchReport> {
  const bar = new ProgressBar()
  const folder = await mkdtemp(join(tmpdir(), 'lorikeet-bench-'))
  const engine = await start(options, (progress) => bar.update(progress)).finally(() => bar.finish())
  try {
    const { handles, loadMs } = await loadAdapters(engine, folder, plan)
    const { name, device, compute, weights, head, vocabSize } = engine.info
    const results = await measure(new EngineTarget(engine, handles), plan, vocabSize)
    const adapterLoadMs = loadMs.length > 0 ? { adapterLoadMs: median(loadMs) } : {}
    return { model: name, device, compute, weights, head, ...plan, ...adapterLoadMs, results }
  } finally {
    await engine.close()
    await rm(folder, { recursive: true, force: true })
  }
}

/** One random adapter in every slot: what it holds does not matter to its speed, where it lies does. */
async function loadAdapters(
  engine: Engine, folder: string, { adapters, rank }: BenchPlan,
): Promise<{ readonly handles: readonly AdapterHandle[]; readonly loadMs: readonly number[] }> {
  if (adapters === 0) return { handles: [], loadMs: [] }
  await writeRandomAdapter(folder, { shape: shapeOf(engine.info.hiddenSize), rank })
  const handles = Array.from({ length: adapters }, (_, slot) => ({ slot, version: `bench-${slot}` }))
  const loadMs: number[] = []
  for (const handle of handles) {
    const beganAt = performance.now()
    await engine.loadAdapter({ ...handle, path: folder })
    loadMs.push(performance.now() - beganAt)
  }
  return { handles, loadMs }
}

async function benchServer(url: string, apiKey: string | undefined, plan: BenchPlan): Promise<BenchReport> {
  const target = await HttpTarget.connect(url, { apiKey })
  try {
    return { model: target.model, server: url, ...plan, results: await measure(target, plan, COMMON_IDS) }
  } finally {
    await target.close()
  }
}

async function show(report: BenchReport, file: string | undefined, print: Print): Promise<void> {
  const json = `${JSON.stringify(report, null, 2)}\n`
  print(file === '-' ? json : `${formatBench(report)}\n`)
  if (file !== undefined && file !== '-') await writeFile(file, json)
}
