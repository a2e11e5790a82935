// adapter_config.json exactly as PEFT 0.21 writes it.

/** Fields of adapter_config.json that have a meaning here; `null` and absence are the same. */
export interface PeftConfig {
  readonly r: number
  readonly lora_alpha: number
  readonly lora_dropout?: number
  /** Names, or one regular expression over whole module names. */
  readonly target_modules: readonly string[] | string
  readonly base_model_name_or_path?: string | null
  readonly use_rslora?: boolean
  readonly use_dora?: boolean
  readonly rank_pattern?: Readonly<Record<string, number>>
  readonly alpha_pattern?: Readonly<Record<string, number>>
  readonly layers_to_transform?: readonly number[] | null
  readonly modules_to_save?: readonly string[] | null
  readonly trainable_token_indices?: readonly number[] | null
  readonly ensure_weight_tying?: boolean
}

const PEFT_VERSION = '0.21.0'

/** Every field of PEFT 0.21's LoraConfig at its default. */
const DEFAULTS = {
  alora_invocation_tokens: null, alpha_pattern: {}, arrow_config: null, auto_mapping: null, base_model_name_or_path: null, bias: 'none',
  corda_config: null, ensure_weight_tying: false, eva_config: null, exclude_modules: null, fan_in_fan_out: false, inference_mode: true,
  init_lora_weights: true, kasa_config: null, layer_replication: null, layers_pattern: null, layers_to_transform: null, loftq_config: {},
  lora_alpha: 8, lora_bias: false, lora_dropout: 0, lora_ga_config: null, megatron_config: null, megatron_core: 'megatron.core',
  modules_to_save: null, monteclora_config: null, peft_type: 'LORA', peft_version: PEFT_VERSION, qalora_group_size: 16, r: 8,
  rank_pattern: {}, revision: null, target_modules: null, target_parameters: null, task_type: 'CAUSAL_LM', trainable_token_indices: null,
  use_bdlora: null, use_dora: false, use_qalora: false, use_rslora: false, velora_config: null,
} as const

/** adapter_config.json as PEFT saves it: every field, keys and module names sorted. */
export function formatPeftConfig(config: PeftConfig): string {
  const modules = Array.isArray(config.target_modules) ? [...config.target_modules].sort() : config.target_modules
  const all = { ...DEFAULTS, ...config, target_modules: modules }
  // A dropout of 0 is a float there.
  return `${JSON.stringify(sorted(all), null, 2).replace(/^( {2}"lora_dropout": \d+)(,?)$/m, '$1.0$2')}\n`
}

function sorted(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, inner]) => [key, sorted(inner)]))
}
