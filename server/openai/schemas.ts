// Request bodies of /v1/chat/completions and /v1/completions: one source for types, validation and OpenAPI.
// Unknown fields pass (clients send vendor extras); known fields are checked strictly and never coerced.

import { Type, type Static, type TSchema } from 'typebox'
import { LIMITS } from './limits.js'
import { missPolicyField } from './miss-policy.js'

const INT32_MAX = 2 ** 31 - 1

/** Optional, and null means absent, as in OpenAI's spec. For schemas of a single `type`. */
function optional<T extends TSchema>(schema: T) {
  const plain = schema as unknown as { type: string; enum?: unknown[] }
  const nullable = { ...plain, type: [plain.type, 'null'], ...(plain.enum === undefined ? {} : { enum: [...plain.enum, null] }) }
  return Type.Optional(Type.Unsafe<Static<T> | null>(nullable))
}

const number = (minimum: number, maximum: number, description?: string) =>
  Type.Number({ minimum, maximum, ...(description && { description }) })
const integer = (minimum: number, maximum: number, description?: string) =>
  Type.Integer({ minimum, maximum, ...(description && { description }) })
const string = (maxLength: number, description?: string) => Type.String({ maxLength, ...(description && { description }) })

const tokenId = () => Type.Integer({ minimum: 0, maximum: INT32_MAX })
const stopString = () => Type.String({ minLength: 1, maxLength: LIMITS.stopChars })

/** Sampling and stopping, the same for both routes: OpenAI's fields, then vLLM's. */
const generationFields = {
  model: string(LIMITS.modelChars, 'The base, an adapter, or a pinned version of one, as listed by /v1/models.'),
  n: optional(integer(1, LIMITS.n, 'Choices to sample.')),
  temperature: optional(number(0, 2, '0 is greedy. Default: the model\'s own.')),
  top_p: optional(Type.Number({ exclusiveMinimum: 0, maximum: 1 })),
  presence_penalty: optional(number(-2, 2)),
  frequency_penalty: optional(number(-2, 2)),
  seed: optional(integer(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, 'Same seed and request, same tokens.')),
  stop: Type.Optional(Type.Union([stopString(), Type.Array(stopString(), { maxItems: LIMITS.stopStrings }), Type.Null()])),
  logit_bias: optional(Type.Unsafe<Record<string, number>>({
    type: 'object',
    description: 'Token id to bias, -100 to 100.',
    maxProperties: LIMITS.logitBias,
    propertyNames: { type: 'string', pattern: '^[0-9]{1,9}$' },
    additionalProperties: { type: 'number', minimum: -100, maximum: 100 },
  })),
  stream: optional(Type.Boolean()),
  stream_options: optional(Type.Object({
    include_usage: optional(Type.Boolean()),
    include_obfuscation: optional(Type.Boolean()),
    continuous_usage_stats: optional(Type.Boolean()),
  })),
  user: optional(string(LIMITS.userChars)),

  top_k: optional(integer(-1, INT32_MAX, 'vLLM: 0 or -1 is all.')),
  min_p: optional(number(0, 1, 'vLLM.')),
  repetition_penalty: optional(Type.Number({ exclusiveMinimum: 0, maximum: 100, description: 'vLLM: over prompt and output, 1 is none.' })),
  stop_token_ids: optional(Type.Array(tokenId(), { maxItems: LIMITS.stopTokenIds })),
  include_stop_str_in_output: optional(Type.Boolean()),
  ignore_eos: optional(Type.Boolean()),
  min_tokens: optional(integer(0, INT32_MAX)),
  skip_special_tokens: optional(Type.Boolean()),
  echo: optional(Type.Boolean()),
  cache_salt: optional(
    Type.String({ minLength: 1, maxLength: LIMITS.saltChars, description: 'vLLM: only requests of one salt share cached prefixes.' }),
  ),
  return_token_ids: optional(Type.Boolean()),
  prompt_logprobs: optional(integer(0, LIMITS.topLogprobs)),

  adapter_miss: missPolicyField,
}

const textPart = Type.Object({ type: Type.Literal('text'), text: Type.String() })

const message = Type.Object({
  role: Type.Enum(['system', 'developer', 'user', 'assistant']),
  content: Type.Union([Type.String(), Type.Array(textPart, { minItems: 1, maxItems: LIMITS.contentParts })]),
  name: optional(string(LIMITS.userChars)),
})

export const ChatCompletionRequest = Type.Object({
  ...generationFields,
  messages: Type.Array(message, { minItems: 1, maxItems: LIMITS.messages }),
  max_tokens: optional(integer(1, INT32_MAX, 'Deprecated by OpenAI; max_completion_tokens wins.')),
  max_completion_tokens: optional(integer(1, INT32_MAX)),
  logprobs: optional(Type.Boolean()),
  top_logprobs: optional(integer(0, LIMITS.topLogprobs)),
  response_format: optional(Type.Object({ type: Type.String() })),
  add_generation_prompt: optional(Type.Boolean()),
}, { description: 'OpenAI chat completion, with vLLM\'s extra fields.' })

export const CompletionRequest = Type.Object({
  ...generationFields,
  prompt: Type.Union([
    Type.String(),
    Type.Array(Type.String(), { minItems: 1, maxItems: LIMITS.prompts }),
    Type.Array(tokenId(), { minItems: 1 }),
    Type.Array(Type.Array(tokenId(), { minItems: 1 }), { minItems: 1, maxItems: LIMITS.prompts }),
  ], { description: 'Text, token ids, or a list of either.' }),
  max_tokens: optional(integer(0, INT32_MAX, 'Default 16. 0 only scores the prompt, with echo or prompt_logprobs.')),
  logprobs: optional(integer(0, LIMITS.topLogprobs)),
  best_of: optional(integer(1, LIMITS.n)),
  suffix: optional(Type.String()),
}, { description: 'OpenAI (legacy) completion, with vLLM\'s extra fields.' })

export type ChatCompletionBody = Static<typeof ChatCompletionRequest>
export type CompletionBody = Static<typeof CompletionRequest>
/** Fields that both bodies share. */
export type GenerationBody = Omit<CompletionBody, 'prompt' | 'max_tokens' | 'logprobs' | 'best_of' | 'suffix'>
