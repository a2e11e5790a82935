// `lorikeet eval`: a base and an adapter measured on a data set, side by side.

import { writeFile } from 'node:fs/promises'
import { EngineModel } from '../../adapters/evaluation/engine-model.js'
import { evaluate, type EvaluateOptions } from '../../adapters/evaluation/evaluate.js'
import type { EvaluationModel } from '../../adapters/evaluation/evaluation-model.js'
import { formatReports, METRICS, type EvaluationReport, type Metric } from '../../adapters/evaluation/report.js'
import { readSamples, type EvaluationSample } from '../../adapters/evaluation/samples.js'
import { SqlJudge } from '../../adapters/evaluation/sql-judge.js'
import { adapterFolder } from '../../adapters/stored-folder.js'
import type { AdapterHandle, Engine } from '../../engine/api.js'
import { startEngine } from '../../engine/client.js'
import { clientApiKey, loadConfig, type ServerConfig } from '../config.js'
import type { StartEngine } from '../main.js'
import { ProgressBar } from '../progress-bar.js'
import { UsageError } from '../settings.js'
import { describeFlags, needFlag, numberFlag, parseFlags, splitFlags, type FlagValues } from './command-flags.js'
import { modelsOfServer } from './eval-server.js'
import { ServerClient } from './server-client.js'
import { told } from './told.js'

const FLAGS = {
  data: ['PATH', 'JSONL, CSV or Parquet, as for training; the last answer is the expected one.'],
  server: ['URL', 'Measure models of this running server; --adapter is then the name of one.'],
  'api-key': ['KEY', 'Key for that server (or LORIKEET_API_KEY).'],
  adapter: ['NAME|DIR', 'PEFT folder, or NAME or NAME@VERSION of the data directory.'],
  'only-adapter': ['', 'Do not measure the base beside it.'],
  database: ['FILE', 'SQLite file that expected and written SQL run against (read-only).'],
  metrics: ['LIST', `Of ${METRICS.join(',')} [all that the data allows].`],
  limit: ['N', 'Samples to take [all].'],
  'max-tokens': ['N', 'Longest answer [256].'],
  'sql-timeout-ms': ['N', 'Longest time of one query [5000].'],
  concurrency: ['N', 'Samples in flight [8].'],
  json: ['FILE', 'Where the reports go as JSON; "-" is standard output.'],
} as const

const USAGE = `Usage: lorikeet eval --model PATH --data PATH [--adapter NAME|DIR] [--database FILE] [FLAGS]
       lorikeet eval --server URL --data PATH [--adapter NAME] [--database FILE] [FLAGS]

Greedy answers. Execution accuracy compares rows, in their order where the expected query orders them.

${describeFlags(FLAGS)}

The flags of "lorikeet serve" say which model is loaded, and how.
`

/** Resolves with the exit code. @throws UsageError */
export async function evaluateModel(args: readonly string[], start: StartEngine = startEngine): Promise<number> {
  const { own, rest } = splitFlags(args, FLAGS)
  const flags = parseFlags([...own, ...rest.filter((arg) => arg === '--help' || arg === '-h')], FLAGS)
  if (flags === undefined) {
    process.stdout.write(USAGE)
    return 0
  }
  const data = needFlag(flags.data, 'data')
  const config = loadConfig(rest)
  const metrics = metricsOf(flags.metrics, flags.database !== undefined)
  const limit = numberFlag(flags.limit, 'limit', 1e9, [1, 1e9])
  const options = {
    metrics, maxTokens: numberFlag(flags['max-tokens'], 'max-tokens', 256, [1, 1e6]),
    concurrency: numberFlag(flags.concurrency, 'concurrency', 8, [1, 1_024]),
    ...(flags.database !== undefined && { database: flags.database }),
  }
  const timeoutMs = numberFlag(flags['sql-timeout-ms'], 'sql-timeout-ms', 5_000, [1, 1e7])
  return told(async () => {
    const samples = await readSamples([data], limit)
    const judge = new SqlJudge({ timeoutMs })
    const reports: EvaluationReport[] = []
    const { models, close } = flags.server === undefined
      ? await loadModels(config, start, flags) : await servedModels(flags.server, flags)
    try {
      for (const model of models) reports.push(await measure(model, samples, { ...options, judge }))
    } finally {
      judge.close()
      await close()
    }
    await show(reports, flags.json)
  })
}

interface Models {
  readonly models: readonly EvaluationModel[]
  close(): Promise<void>
}

type Flags = FlagValues<typeof FLAGS>

async function servedModels(server: string, flags: Flags): Promise<Models> {
  const client = new ServerClient(server, clientApiKey(flags['api-key']))
  return { models: await modelsOfServer(client, flags.adapter, flags['only-adapter'] === true), close: async () => {} }
}

async function loadModels(config: ServerConfig, start: StartEngine, flags: Flags): Promise<Models> {
  const { adapter: name } = flags
  const adapter = name === undefined ? undefined : { name, path: await adapterFolder(name, config.dataDir) }
  const bar = new ProgressBar()
  const engine = await start(config.engine, (progress) => bar.update(progress))
  bar.finish()
  const close = () => engine.close()
  try {
    return { models: await modelsOf(engine, config.modelNames[0]!, adapter, flags['only-adapter'] === true), close }
  } catch (error) {
    await close()
    throw error
  }
}

function metricsOf(list: string | undefined, hasDatabase: boolean): Metric[] {
  if (list === undefined) return METRICS.filter((metric) => hasDatabase || metric !== 'execution_accuracy')
  const names = list.split(',').map((name) => name.trim())
  const wrong = names.find((name) => !METRICS.includes(name as Metric))
  if (wrong !== undefined) throw new UsageError(`--metrics expects some of ${METRICS.join(', ')}, not "${wrong}"`)
  if (names.includes('execution_accuracy') && !hasDatabase) throw new UsageError('execution_accuracy needs --database')
  return names as Metric[]
}

/** The base, the adapter, or both. */
async function modelsOf(
  engine: Engine, baseName: string, adapter: { readonly name: string; readonly path: string } | undefined, isAlone: boolean,
): Promise<EngineModel[]> {
  const base = new EngineModel(engine, baseName, null)
  if (adapter === undefined) return [base]
  const handle: AdapterHandle = { slot: 0, version: adapter.path }
  const { warnings } = await engine.loadAdapter({ ...handle, path: adapter.path })
  for (const warning of warnings) process.stderr.write(`${adapter.name}: ${warning}\n`)
  const adapted = new EngineModel(engine, adapter.name, handle)
  return isAlone ? [adapted] : [base, adapted]
}

async function measure(
  model: EvaluationModel, samples: readonly EvaluationSample[], options: EvaluateOptions,
): Promise<EvaluationReport> {
  const bar = new ProgressBar()
  const tell = (done: number, total: number) => bar.update({ phase: model.name, done, total })
  tell(0, samples.length)
  const report = await evaluate(model, samples, { ...options, onProgress: tell })
  bar.finish()
  return report
}

async function show(reports: readonly EvaluationReport[], file: string | undefined): Promise<void> {
  if (file === '-') {
    process.stdout.write(`${JSON.stringify(reports, null, 2)}\n`)
    return
  }
  process.stdout.write(`${formatReports(reports)}\n`)
  if (file !== undefined) await writeFile(file, `${JSON.stringify(reports, null, 2)}\n`)
}
