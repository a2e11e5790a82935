// config.json and generation_config.json of a text model as transformers 4 and 5 read them.

import type { NativeModelConfig } from '../../engine/merged-weights.js'

/** Gemma3TextConfig, whatever class the base was of: the vision tower is not part of what we merge. */
export function formatModelConfig(config: NativeModelConfig, dtype: 'bfloat16' | 'float32' = 'bfloat16'): string {
  return json({
    architectures: ['Gemma3ForCausalLM'],
    model_type: 'gemma3_text',
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.nLayers,
    num_attention_heads: config.nHeads,
    num_key_value_heads: config.nKvHeads,
    head_dim: config.headDim,
    hidden_activation: 'gelu_pytorch_tanh',
    max_position_embeddings: config.maxPosition,
    initializer_range: 0.02,
    rms_norm_eps: single(config.rmsNormEps),
    use_cache: true,
    query_pre_attn_scalar: single(config.queryPreAttnScalar),
    sliding_window: config.slidingWindow,
    sliding_window_pattern: slidingPattern(config),
    layer_types: config.isGlobal.map((isGlobal) => (isGlobal ? 'full_attention' : 'sliding_attention')),
    rope_theta: single(config.ropeThetaGlobal),
    rope_local_base_freq: single(config.ropeThetaLocal),
    rope_scaling: config.ropeScalingFactor === 1 ? null : { rope_type: 'linear', factor: single(config.ropeScalingFactor) },
    attention_bias: false,
    attention_dropout: 0.0,
    attn_logit_softcapping: null,
    final_logit_softcapping: null,
    bos_token_id: config.bosId,
    eos_token_id: config.eosIds,
    pad_token_id: config.padId,
    tie_word_embeddings: config.tied,
    torch_dtype: dtype,
  })
}

/** Gemma's published sampling, for a base that brings none. */
export function formatGenerationConfig({ bosId, eosIds, padId }: NativeModelConfig): string {
  return json({
    bos_token_id: bosId, eos_token_id: eosIds, pad_token_id: padId, do_sample: true, temperature: 1.0, top_k: 64, top_p: 0.95,
    cache_implementation: 'hybrid',
  })
}

/** Every how many layers one is global; the number of layers where none is. */
export function slidingPattern({ isGlobal, nLayers }: NativeModelConfig): number {
  const first = isGlobal.indexOf(true)
  return first === -1 ? nLayers + 1 : first + 1
}

/** A 32-bit float as it was written: 1e-6, not 9.999999974752427e-7. */
export function single(value: number): number {
  for (let digits = 1; digits < 10; digits++) {
    const short = Number(value.toPrecision(digits))
    if (Math.fround(short) === Math.fround(value)) return short
  }
  return value
}

const json = (value: object): string => `${JSON.stringify(value, null, 2)}\n`
