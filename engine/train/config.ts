// Hyper-parameters by their PEFT and TRL names -> a checked TrainConfig. Flags, configuration files and request bodies all come here.

import { EngineError } from '../errors.js'
import { PRESET_NAMES, type PresetName, presetConfig } from './presets.js'
import type { TrainConfig } from './types.js'

type Check = (value: unknown) => unknown
type Field = keyof TrainConfig

export const LINEARS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'] as const

const FIELDS: { readonly [K in Field]-?: Check } = {
  r: integer(1, 512),
  loraAlpha: number(0, 1e6),
  loraDropout: number(0, 0.999),
  useRslora: boolean,
  useDora: boolean,
  targetModules: list(oneOf('all-linear', ...LINEARS), 1),
  layersToTransform: list(integer(0, 1000)),
  trainableTokenIndices: list(integer(0, 1 << 20)),
  trainTurnTokens: boolean,
  modulesToSave: list(oneOf('embed_tokens', 'lm_head')),
  initFrom: string,
  maxLength: integer(2, 131_072),
  packing: (value) => (value === true ? 'bfd' : value === false ? 'none' : oneOf('bfd', 'none')(value)),
  truncation: oneOf('drop', 'truncate', 'error'),
  lossOn: oneOf('all', 'completion', 'assistant'),
  validationSplit: number(0, 0.9),
  shuffle: boolean,
  badRows: oneOf('refuse', 'skip'),
  numTrainEpochs: number(Number.MIN_VALUE, 1e6),
  maxSteps: (value) => integer(0, 1e9)(value === -1 ? 0 : value),
  perDeviceTrainBatchSize: integer(1, 4096),
  gradientAccumulationSteps: integer(1, 65_536),
  lossNormalization: oneOf('token-mean', 'mean-of-means'),
  learningRate: number(0, 10),
  lrSchedulerType: oneOf('constant', 'constant_with_warmup', 'linear', 'cosine', 'cosine_with_min_lr'),
  warmupRatio: number(0, 1),
  warmupSteps: integer(0, 1e9),
  minLrRatio: number(0, 1),
  optim: optimizer,
  weightDecay: number(0, 10),
  adamBeta1: number(0, 0.9999999),
  adamBeta2: number(0, 0.9999999),
  adamEpsilon: number(1e-30, 1),
  maxGradNorm: number(0, 1e9),
  seed: integer(0, Number.MAX_SAFE_INTEGER),
  gradientCheckpointing: (value) => (value === true ? 'layer' : value === false ? 'none' : oneOf('auto', 'none', 'mlp', 'layer')(value)),
  compat: oneOf('none', 'trl-0.21-eager'),
  loggingSteps: integer(1, 1e9),
  evalSteps: integer(0, 1e9),
  earlyStoppingPatience: integer(0, 1e9),
  loadBestModelAtEnd: boolean,
  saveSteps: integer(0, 1e9),
  saveTotalLimit: integer(0, 1e6),
  trainShare: number(Number.MIN_VALUE, 1),
}

const ALIASES: Readonly<Record<string, Field>> = { max_seq_length: 'maxLength', min_lr_rate: 'minLrRatio' }

/** Every hyper-parameter's public name: learning_rate, lora_alpha, ... */
export const HYPER_PARAMETERS: readonly string[] = (Object.keys(FIELDS) as Field[]).map(publicName)

/** learningRate -> learning_rate. */
export function publicName(field: string): string {
  return field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

/** True where `name` (snake_case) is a hyper-parameter, an alias of one, or `preset`. */
export function isHyperParameter(name: string): boolean {
  return name === 'preset' || fieldOf(name) !== undefined || name === 'assistant_only_loss' || name === 'completion_only_loss'
}

/**
 * Values by public name over a preset (`preset`, "default" where absent). Null counts as absent.
 * @throws EngineError INVALID_REQUEST naming the hyper-parameter
 */
export function resolveTrainConfig(values: Readonly<Record<string, unknown>>): TrainConfig {
  const given = Object.entries(values).filter(([, value]) => value !== undefined && value !== null)
  const named = Object.fromEntries(given)
  const preset = check('preset', oneOf(...PRESET_NAMES), named['preset'] ?? 'default') as PresetName
  const compat = check('compat', FIELDS.compat, named['compat'] ?? 'none') as TrainConfig['compat']
  const config: Record<string, unknown> = { ...presetConfig(preset, compat) }
  for (const [name, value] of given) {
    if (name === 'preset') continue
    if (name === 'assistant_only_loss' || name === 'completion_only_loss') {
      if (check(name, boolean, value) === true) config['lossOn'] = name === 'assistant_only_loss' ? 'assistant' : 'completion'
      continue
    }
    const field = fieldOf(name)
    if (field === undefined) throw invalid(name, 'is no hyper-parameter of a training run')
    config[field] = check(name, FIELDS[field], value)
  }
  return checkTogether(config as unknown as TrainConfig)
}

function checkTogether(config: TrainConfig): TrainConfig {
  if (config.earlyStoppingPatience > 0 && config.loadBestModelAtEnd === false) return { ...config, loadBestModelAtEnd: true }
  if (config.useDora && config.compat !== 'none') throw invalid('use_dora', 'is not part of what compat reproduces')
  return config
}

function fieldOf(name: string): Field | undefined {
  if (Object.hasOwn(ALIASES, name)) return ALIASES[name]
  const field = name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
  return Object.hasOwn(FIELDS, field) && publicName(field) === name ? (field as Field) : undefined
}

function check(name: string, test: Check, value: unknown): unknown {
  try {
    return test(value)
  } catch (error) {
    throw invalid(name, (error as Error).message)
  }
}

function invalid(name: string, message: string): EngineError {
  return new EngineError('INVALID_REQUEST', `${name}: ${message}`, { param: name })
}

function integer(minimum: number, maximum: number): Check {
  return (value) => {
    if (Number.isSafeInteger(value) && (value as number) >= minimum && (value as number) <= maximum) return value
    throw new Error(`expected a whole number from ${minimum} to ${maximum}, not ${show(value)}`)
  }
}

function number(minimum: number, maximum: number): Check {
  const least = minimum === Number.MIN_VALUE ? 'above 0' : `from ${minimum}`
  return (value) => {
    if (typeof value === 'number' && value >= minimum && value <= maximum) return value
    throw new Error(`expected a number ${least} to ${maximum}, not ${show(value)}`)
  }
}

function oneOf(...choices: readonly string[]): Check {
  return (value) => {
    if (choices.includes(value as string)) return value
    throw new Error(`expected one of ${choices.join(', ')}, not ${show(value)}`)
  }
}

function list(item: Check, minimum = 0): Check {
  return (value) => {
    const items = Array.isArray(value) ? value : [value]
    if (items.length < minimum) throw new Error('expected at least one entry')
    return [...new Set(items.map(item))]
  }
}

function boolean(value: unknown): unknown {
  if (typeof value === 'boolean') return value
  throw new Error(`expected true or false, not ${show(value)}`)
}

function string(value: unknown): unknown {
  if (typeof value === 'string' && value !== '') return value
  throw new Error(`expected text, not ${show(value)}`)
}

/** transformers has many names for AdamW. */
function optimizer(value: unknown): unknown {
  if (typeof value === 'string' && /^adamw(_torch|_torch_fused|_hf)?$/.test(value)) return 'adamw'
  if (typeof value === 'string' && /^(paged_)?adamw_(8bit|bnb_8bit)$/.test(value)) return 'adamw_8bit'
  throw new Error(`expected adamw or adamw_8bit, not ${show(value)}`)
}

function show(value: unknown): string {
  return (JSON.stringify(value) ?? String(value)).slice(0, 80)
}
