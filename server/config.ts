// Every setting of the server: name, unit, default, check. A flag wins over its LORIKEET_* variable. The only reader of
// process.env.

import { homedir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs, type ParseArgsConfig } from 'node:util'
import type { EngineOptions } from '../engine/api.js'
import type { SlowReaderPolicy } from './openai/sse.js'
import { bytes, choice, duration, flag, integer, list, pattern, share, text, UsageError, type Setting } from './settings.js'

export { UsageError } from './settings.js'

const MIB = 2 ** 20

export const SETTINGS = {
  model: text('', 'PATH', 'Checkpoint directory, .gguf file or hub id; none serves the embedded model.'),
  host: text('127.0.0.1', 'ADDRESS', 'Address to listen on; anything but loopback needs --api-keys.'),
  port: integer(8000, 0, 65_535, 'Port to listen on; 0 takes a free one.'),
  dataDir: text('', 'DIR', 'Adapters, jobs and caches (default ~/.lorikeet).'),
  servedModelName: list('NAME', 'Name of the base in the API; the first is shown. Repeatable.', (name) => name),

  device: pattern('auto', /^(auto|cpu|cuda(:\d{1,2})?)$/, 'auto|cpu|cuda[:N]', 'Where the model runs.'),
  compute: choice('auto', ['auto', 'fp32', 'bf16'], 'Arithmetic of the CPU backend; fp32 is exact.'),
  weights: choice('nf4', ['nf4', 'bf16', 'f32'], 'How the base is held in memory.'),
  head: choice('auto', ['auto', 'bf16', 'int8', 'nf4'], 'How the output head is held in memory.'),
  isa: choice('auto', ['auto', 'scalar', 'avx2', 'avx512', 'amx'], 'Instruction set of the CPU backend.'),
  threads: integer(0, 0, 1_024, 'Threads of the CPU backend; 0 is one a physical core.'),
  maxModelLen: integer(0, 0, 1_000_000, 'Context in tokens; 0 is the model\'s own.'),
  gpuMemoryUtilization: share(0.9, 'Part of a GPU\'s memory for weights, adapters, steps and, with the rest, the KV cache.'),
  kvCacheBytes: bytes(0, 0, 'Memory of the KV cache; 0 is automatic: what a GPU has left, 1 GiB at most on the CPU.'),
  maxNumSeqs: integer(128, 1, 4_096, 'Sequences in one step.'),
  maxBatchTokens: integer(512, 16, 65_536, 'Tokens in one step: the prefill chunk.'),
  maxQueue: integer(512, 0, 100_000, 'Sequences that may wait beyond those that run; more are refused with 429.'),
  prefixCache: flag(true, 'Reuse the states of shared prompt prefixes.'),
  nvtx: flag(false, 'Ranges of steps for NVIDIA\'s profilers; needs --device cuda.'),

  maxLoras: integer(8, 0, 1_024, 'Adapters resident on the device.'),
  maxLoraRank: integer(64, 1, 512, 'Largest rank of an adapter.'),
  adapter: list('NAME=PATH', 'Adapter to serve from the start. Repeatable.', parseAdapter),
  adapterRoot: list('DIR', 'Directory that load_lora_adapter may read. Repeatable.', (dir) => dir),

  adapterPin: list('NAME', 'Adapter that stays resident, loaded at the start. Repeatable.', (name) => name),
  adapterMiss: choice('wait', ['wait', 'error'], 'A request for an adapter that is not resident: wait for it, or 404.'),
  adapterWait: duration(10_000, 1, 'Longest wait for an adapter slot; then 429.'),
  adapterHostBytes: bytes(2 ** 30, 0, 'Adapters kept verified in host memory; on a GPU as much again in pinned memory.'),
  metricsAdapters: integer(32, 0, 1_000, 'Adapters named in /metrics: the most used; the rest count as "other".'),

  trainRoot: list('DIR', 'Folder that POST /admin/train may read data from. Repeatable.', (path) => path),
  trainShare: share(0.5, 'Most of the device\'s time that training takes while requests run.'),
  maxJobs: integer(16, 1, 10_000, 'Training jobs of one key that may wait or run.'),
  maxFileBytes: bytes(512 * MIB, 1_024, 'Largest file that may be uploaded for training.'),
  fileQuota: bytes(16 * 1_024 * MIB, 1_024, 'Bytes of files that one key may store.'),

  apiKeys: text('', 'FILE', 'Key file made by "lorikeet keys create".'),
  allowedHost: list('HOST', 'Further names that the Host header may hold on loopback. Repeatable.', (host) => host.toLowerCase()),
  corsOrigin: list('ORIGIN', 'Web origin that may call the API from a browser. Repeatable.', parseOrigin),

  maxBodyBytes: bytes(MIB, 1_024, 'Largest request body.'),
  requestTimeout: duration(300_000, 1, 'Longest time of one request.'),
  drainTimeout: duration(30_000, 0, 'After SIGTERM, how long requests in flight may finish.'),
  recoveryTimeout: duration(10_000, 0, 'How long requests wait for an engine that restarts.'),
  slowReaderBytes: bytes(64 * 1_024, 1_024, 'Unread bytes at which a stream pauses.'),
  slowReaderTimeout: duration(10_000, 1, 'How long a paused stream waits before it is cut.'),
  wsPing: duration(15_000, 10, 'Time between WebSocket pings; two unanswered end the socket.'),
  logLevel: choice('info', ['debug', 'info', 'warn', 'error', 'silent'], 'Log on standard error.'),
} as const satisfies Record<string, Setting<unknown>>

type SettingName = keyof typeof SETTINGS
type Values = { -readonly [K in SettingName]: (typeof SETTINGS)[K] extends Setting<infer T> ? T : never }

export interface AdapterOption {
  readonly name: string
  readonly path: string
}

export interface ServerConfig extends Readonly<Values> {
  /** First = the name shown. */
  readonly modelNames: readonly string[]
  readonly engine: EngineOptions
  readonly recoveryMs: number
  readonly slowReader: SlowReaderPolicy
}

/** Flags, then variables, then defaults. @throws UsageError that names the flag or variable. */
export function loadConfig(args: readonly string[], env: NodeJS.ProcessEnv = process.env): ServerConfig {
  const flags = parseFlags(args)
  const values = Object.fromEntries(settingNames().map((name) => [name, valueOf(name, flags[flagName(name)], env)])) as Values
  return complete(values, hubCache(env))
}

function complete(values: Values, hfCacheDir: string | undefined): ServerConfig {
  const dataDir = values.dataDir === '' ? join(homedir(), '.lorikeet') : values.dataDir
  const config: ServerConfig = {
    ...values,
    dataDir,
    modelNames: modelNames(values),
    engine: { ...engineOptions(values, dataDir), ...(hfCacheDir !== undefined && { hfCacheDir }) },
    recoveryMs: values.recoveryTimeout,
    slowReader: { maxBufferedBytes: values.slowReaderBytes, patienceMs: values.slowReaderTimeout },
  }
  if (config.apiKeys === '' && !isLoopback(config.host)) {
    throw new UsageError(
      `--host ${config.host} would serve anyone who can reach it: ` +
      'give --api-keys FILE ("lorikeet keys create" makes one), or listen on 127.0.0.1',
    )
  }
  return config
}

function engineOptions(values: Values, dataDir: string): EngineOptions {
  const { model, device, compute, weights, head, isa, threads: nThreads, maxModelLen, kvCacheBytes } = values
  const { gpuMemoryUtilization, maxNumSeqs, maxBatchTokens, maxQueue, maxLoras, maxLoraRank, adapterHostBytes } = values
  const { prefixCache, nvtx } = values
  return {
    model, dataDir, device, compute, weights, head, isa, nThreads, maxModelLen, kvCacheBytes,
    gpuMemoryUtilization, maxNumSeqs, maxBatchTokens, maxQueue, maxLoras, maxLoraRank, adapterHostBytes,
    prefixCache, nvtx,
  }
}

/** Where the Hugging Face tools keep what they have downloaded, when told so; the engine knows the default. */
function hubCache({ HF_HUB_CACHE, HF_HOME }: NodeJS.ProcessEnv): string | undefined {
  return HF_HUB_CACHE ?? (HF_HOME === undefined ? undefined : join(HF_HOME, 'hub'))
}

/** The given names, else what the model's path ends in. */
function modelNames({ servedModelName, model }: Values): readonly string[] {
  if (servedModelName.length > 0) return servedModelName
  return [model === '' ? 'lorikeet' : basename(model).replace(/\.gguf$/i, '')]
}

/** The key that a command sends to a server: its flag, else LORIKEET_API_KEY. */
export function clientApiKey(flagValue: string | undefined, env: NodeJS.ProcessEnv = process.env): string | undefined {
  return flagValue ?? env['LORIKEET_API_KEY']
}

/** The key file that a command works on: its flag, else LORIKEET_API_KEYS. */
export function keyFile(flagValue: string | undefined, env: NodeJS.ProcessEnv = process.env): string | undefined {
  return flagValue ?? env['LORIKEET_API_KEYS']
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host)
}

function parseFlags(args: readonly string[]): Readonly<Record<string, string | boolean | Array<string | boolean> | undefined>> {
  const options: ParseArgsConfig['options'] = {}
  for (const name of settingNames()) {
    const setting: Setting<unknown> = SETTINGS[name]
    options[flagName(name)] = { type: typeof setting.fallback === 'boolean' ? 'boolean' : 'string', multiple: setting.repeatable ?? false }
  }
  try {
    return parseArgs({ args: [...args], options, strict: true, allowPositionals: false, allowNegative: true }).values
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

function valueOf(name: SettingName, given: string | boolean | Array<string | boolean> | undefined, env: NodeJS.ProcessEnv): unknown {
  const setting: Setting<unknown> = SETTINGS[name]
  if (typeof given === 'boolean') return given
  if (Array.isArray(given)) return given.flatMap((item) => named(`--${flagName(name)}`, () => setting.parse(String(item))) as unknown[])
  if (given !== undefined) return named(`--${flagName(name)}`, () => setting.parse(given))
  const variable = env[variableName(name)]
  if (variable === undefined || variable === '') return setting.fallback
  return named(variableName(name), () => setting.parse(variable))
}

function named<T>(name: string, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    throw new UsageError(`${name} ${(error as Error).message}`)
  }
}

function parseAdapter(value: string): AdapterOption {
  const at = value.indexOf('=')
  if (at < 1 || at === value.length - 1) throw new UsageError(`expects NAME=PATH, not "${value}"`)
  return { name: value.slice(0, at), path: value.slice(at + 1) }
}

function parseOrigin(value: string): string {
  if (URL.canParse(value) && new URL(value).origin === value) return value
  throw new UsageError(`expects an origin like https://tools.example.com, not "${value}"`)
}

export const settingNames = (): SettingName[] => Object.keys(SETTINGS) as SettingName[]

/** maxModelLen -> max-model-len. */
export const flagName = (name: SettingName): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)

/** maxModelLen -> LORIKEET_MAX_MODEL_LEN. */
export const variableName = (name: SettingName): string => `LORIKEET_${flagName(name).replaceAll('-', '_').toUpperCase()}`

const HELP_COLUMN = 34

/** The flags as lines of --help. */
export function describeSettings(): string {
  return settingNames().map((name) => describeSetting(name, SETTINGS[name])).join('\n')
}

function describeSetting(name: SettingName, { fallback, placeholder, help, shown }: Setting<unknown>): string {
  const usage = `  --${fallback === true ? '[no-]' : ''}${flagName(name)}${placeholder === '' ? '' : ` ${placeholder}`}`
  const left = usage.length < HELP_COLUMN ? usage.padEnd(HELP_COLUMN) : `${usage}\n${' '.repeat(HELP_COLUMN)}`
  return `${left}${help}${shown === '' ? '' : ` [${shown}]`}`
}
