// Answers as schemas, for OpenAPI only: bodies are written by JSON.stringify as they are built.

import { Type, type TSchema } from 'typebox'

const nullable = (schema: TSchema) => Type.Union([schema, Type.Null()])
const stringOrNull = () => nullable(Type.String())

export const ErrorResponse = Type.Object({
  error: Type.Object({ message: Type.String(), type: Type.String(), param: stringOrNull(), code: stringOrNull() }),
}, { description: 'Every error has this shape.' })

const usage = Type.Object({
  prompt_tokens: Type.Integer(),
  completion_tokens: Type.Integer(),
  total_tokens: Type.Integer(),
  prompt_tokens_details: Type.Object({ cached_tokens: Type.Integer() }),
})

const chatLogprob = { token: Type.String(), logprob: Type.Number(), bytes: Type.Array(Type.Integer()) }

const chatLogprobs = Type.Object({
  content: Type.Array(Type.Object({ ...chatLogprob, top_logprobs: Type.Array(Type.Object(chatLogprob)) })),
  refusal: Type.Null(),
})

const finishReason = nullable(Type.Enum(['stop', 'length']))
const stopReason = Type.Union([Type.String(), Type.Integer(), Type.Null()])

const chatCompletion = Type.Object({
  id: Type.String(),
  object: Type.Literal('chat.completion'),
  created: Type.Integer(),
  model: Type.String(),
  system_fingerprint: Type.String(),
  choices: Type.Array(Type.Object({
    index: Type.Integer(),
    message: Type.Object({ role: Type.Literal('assistant'), content: Type.String(), refusal: Type.Null() }),
    logprobs: nullable(chatLogprobs),
    finish_reason: finishReason,
    stop_reason: stopReason,
    token_ids: Type.Optional(Type.Array(Type.Integer())),
  })),
  usage,
}, { description: 'With stream: true, chat.completion.chunk objects as server-sent events, then [DONE].' })

const legacyLogprobs = Type.Object({
  tokens: Type.Array(Type.String()),
  token_logprobs: Type.Array(nullable(Type.Number())),
  top_logprobs: Type.Array(nullable(Type.Object({}, { additionalProperties: { type: 'number' } }))),
  text_offset: Type.Array(Type.Integer()),
})

const completion = Type.Object({
  id: Type.String(),
  object: Type.Literal('text_completion'),
  created: Type.Integer(),
  model: Type.String(),
  system_fingerprint: Type.String(),
  choices: Type.Array(Type.Object({
    index: Type.Integer(),
    text: Type.String(),
    logprobs: nullable(legacyLogprobs),
    finish_reason: finishReason,
    stop_reason: stopReason,
    token_ids: Type.Optional(Type.Array(Type.Integer())),
    prompt_token_ids: Type.Optional(Type.Array(Type.Integer())),
  })),
  usage,
}, { description: 'With stream: true, the same object in pieces as server-sent events, then [DONE].' })

const model = Type.Object({
  id: Type.String(),
  object: Type.Literal('model'),
  created: Type.Integer(),
  owned_by: Type.String(),
  root: Type.String(),
  parent: stringOrNull(),
  max_model_len: Type.Integer(),
})

const modelList = Type.Object({ object: Type.Literal('list'), data: Type.Array(model) })
const health = Type.Object({ status: Type.Enum(['ok', 'unavailable']), reason: Type.String() })

export const chatResponses = { 200: chatCompletion, '4xx': ErrorResponse, '5xx': ErrorResponse }
export const completionResponses = { 200: completion, '4xx': ErrorResponse, '5xx': ErrorResponse }
export const modelResponses = { 200: model, '4xx': ErrorResponse, '5xx': ErrorResponse }
export const modelListResponses = { 200: modelList, '4xx': ErrorResponse, '5xx': ErrorResponse }
export const healthResponses = { 200: health, 503: health }
