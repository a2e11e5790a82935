// What `lorikeet train` was asked for: its own flags, every hyper-parameter as a flag, a YAML file below them, an engine's flags.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse as parseYaml } from 'yaml'
import { checkAdapterName } from '../../adapters/names.js'
import { EngineError } from '../../engine/errors.js'
import { HYPER_PARAMETERS, isHyperParameter, publicName, resolveTrainConfig } from '../../engine/train/config.js'
import { PRESET_NAMES, presetConfig } from '../../engine/train/presets.js'
import type { TrainConfig } from '../../engine/train/types.js'
import { type ServerConfig, clientApiKey, loadConfig } from '../config.js'
import { UsageError } from '../settings.js'

/** Flag: [placeholder, help]. */
const OWN_FLAGS = {
  data: ['PATH', 'Training data: .jsonl, .csv, .parquet, or a folder of them. Repeatable.'],
  'validation-data': ['PATH', 'Data to evaluate on. Repeatable. Or --validation-split 0.1.'],
  name: ['NAME', 'Name of the adapter.'],
  'output-dir': ['DIR', 'Checkpoints, logs and the adapter (default: <data-dir>/runs/NAME). A run that is there goes on.'],
  config: ['FILE', 'YAML file with any of these settings and hyper-parameters; flags win over it.'],
  server: ['URL', 'Train on a server that runs, while it serves.'],
  'api-key': ['KEY', 'Key for that server (or LORIKEET_API_KEY).'],
} as const
const PUBLISH_HELP = 'Put the result into the data directory, to be served by its name; without, it stays in the output.'
/** Settings that a configuration file may hold beside hyper-parameters. */
const FILE_SETTINGS = ['model', 'data', 'validation_data', 'name', 'output_dir']
/** Texts that look like numbers or lists stay texts. */
const TEXTS: ReadonlySet<string> = new Set(['init_from', 'preset', 'compat'])

export interface TrainOptions {
  readonly server: string | undefined
  readonly apiKey: string | undefined
  readonly name: string
  readonly data: readonly string[]
  readonly validationData: readonly string[]
  readonly outputDir: string
  readonly publish: boolean
  /** Hyper-parameters by their public names, as given: for a server. */
  readonly values: Readonly<Record<string, unknown>>
  readonly train: TrainConfig
  readonly config: ServerConfig
}

interface Given {
  readonly own: Map<string, string[]>
  readonly values: Record<string, unknown>
  /** For the engine. */
  readonly rest: string[]
  publish: boolean
}

/** @throws UsageError naming the flag */
export function trainOptions(args: readonly string[]): TrainOptions {
  const given = readFlags(args)
  const file = given.own.has('config') ? readConfigFile(one(given, 'config')!) : {}
  const setting = (name: string) => texts(given.own.get(name.replaceAll('_', '-')) ?? file[name])
  const name = setting('name').at(-1) ?? ''
  const config = loadConfig([...texts(file['model']).flatMap((model) => ['--model', model]), ...given.rest])
  const hyper = Object.fromEntries(Object.entries(file).filter(([key]) => !FILE_SETTINGS.includes(key)))
  const values = { ...hyper, ...given.values }
  if (name === '') throw new UsageError('--name is needed')
  const data = setting('data')
  if (data.length === 0) throw new UsageError('--data is needed')
  return asUsage(() => ({
    server: one(given, 'server'), apiKey: clientApiKey(one(given, 'api-key')), name: checkAdapterName(name, '--name'), data,
    validationData: setting('validation_data'), outputDir: setting('output_dir').at(-1) ?? join(config.dataDir, 'runs', name),
    publish: given.publish, values, train: resolveTrainConfig(values), config,
  }))
}

function readFlags(args: readonly string[]): Given {
  const given: Given = { own: new Map(), values: {}, rest: [], publish: true }
  for (let i = 0; i < args.length; i++) {
    const [flag = '', inline] = args[i]!.split(/=(.*)/s, 2)
    const name = flag.slice(2)
    const parameter = name.replaceAll('-', '_')
    const next = () => inline ?? (args[i + 1] === undefined || args[i + 1]!.startsWith('--') ? undefined : args[++i])
    if (name === 'publish' || name === 'no-publish') given.publish = name === 'publish'
    else if (Object.hasOwn(OWN_FLAGS, name)) given.own.set(name, [...given.own.get(name) ?? [], needed(flag, next())])
    else if (flag.startsWith('--') && isHyperParameter(parameter)) given.values[parameter] = valueOf(parameter, next())
    else if (flag.startsWith('--no-') && isHyperParameter(parameter.slice(3))) given.values[parameter.slice(3)] = false
    else given.rest.push(args[i]!)
  }
  return given
}

function needed(flag: string, value: string | undefined): string {
  if (value === undefined) throw new UsageError(`${flag} needs a value`)
  return value
}

/** As YAML would read it; a flag alone is true, commas make a list. */
function valueOf(name: string, value: string | undefined): unknown {
  if (value === undefined) return true
  if (TEXTS.has(name)) return value
  return value.includes(',') ? value.split(',').map((item) => scalar(item.trim())) : scalar(value)
}

function scalar(value: string): unknown {
  if (value === 'true' || value === 'false') return value === 'true'
  return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(value) ? Number(value) : value
}

function readConfigFile(path: string): Record<string, unknown> {
  let content: unknown
  try {
    content = parseYaml(readFileSync(path, 'utf8'))
  } catch (error) {
    throw new UsageError(`--config ${path}: ${(error as Error).message}`)
  }
  if (typeof content !== 'object' || content === null || Array.isArray(content)) {
    throw new UsageError(`--config ${path}: expected settings as "name: value"`)
  }
  const unknown = Object.keys(content).find((key) => !FILE_SETTINGS.includes(key) && !isHyperParameter(key))
  if (unknown !== undefined) throw new UsageError(`--config ${path}: "${unknown}" is no setting of a training run`)
  return content as Record<string, unknown>
}

function one(given: Given, name: keyof typeof OWN_FLAGS): string | undefined {
  return given.own.get(name)?.at(-1)
}

function texts(value: unknown): string[] {
  return value === undefined || value === null ? [] : [value].flat().map(String)
}

/** What is wrong with a hyper-parameter is wrong with its flag. */
function asUsage<T>(run: () => T): T {
  try {
    return run()
  } catch (error) {
    throw error instanceof EngineError ? new UsageError(error.message) : error
  }
}

const HELP_COLUMN = 34
const VALUE_COLUMN = 22

export function describeTrainFlags(): string {
  const own = Object.entries(OWN_FLAGS).map(([name, [placeholder, help]]) => `  --${name} ${placeholder}`.padEnd(HELP_COLUMN) + help)
  const publish = '  --[no-]publish'.padEnd(HELP_COLUMN) + PUBLISH_HELP
  const presets = PRESET_NAMES.map((preset) =>
    new Map(Object.entries(presetConfig(preset)).map(([field, value]) => [publicName(field), value])))
  const row = (flag: string, values: readonly unknown[]) =>
    `  --${flag}`.padEnd(HELP_COLUMN) + values.map((value) => show(value).padEnd(VALUE_COLUMN)).join('').trimEnd()
  const hyper = HYPER_PARAMETERS.map((name) => row(name.replaceAll('_', '-'), presets.map((preset) => preset.get(name))))
  const head = 'Hyper-parameters, by their PEFT and TRL names, and what each preset sets:'
  return [...own, publish, '', head, '', row(`preset ${PRESET_NAMES.join('|')}`, PRESET_NAMES), ...hyper].join('\n')
}

function show(value: unknown): string {
  return Array.isArray(value) ? value.join(',') || '-' : value === undefined ? '-' : String(value)
}
