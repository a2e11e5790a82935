// Every field of a request checked once more inside the engine: whatever door it came through, nothing malformed reaches native code.

import type { GenerateRequest, ModelInfo, Prompt, SamplingParams } from './api.js'
import { EngineError } from './errors.js'

const LIMITS = {
  n: 128, messages: 4096, stopStrings: 64, stopLength: 1024, stopTokenIds: 1024, logitBias: 1024, logprobs: 20, saltLength: 512,
  resume: 1 << 20,
}

/** @throws EngineError INVALID_REQUEST naming the field in the spelling of the public API */
export function validateRequest(request: GenerateRequest, info: ModelInfo): void {
  check(typeof request.id === 'string' && request.id !== '', 'id', 'a non-empty string')
  validatePrompt(request.prompt, info)
  integer(request.n, 'n', 1, LIMITS.n)
  integer(request.maxTokens, 'max_tokens', 0, Number.MAX_SAFE_INTEGER)
  integer(request.minTokens, 'min_tokens', 0, request.maxTokens ?? info.maxModelLen)
  integer(request.logprobs, 'logprobs', 0, LIMITS.logprobs)
  integer(request.promptLogprobs, 'prompt_logprobs', 0, LIMITS.logprobs)
  integer(request.promptLogprobsFrom, 'prompt_logprobs_from', 1, Number.MAX_SAFE_INTEGER)
  for (const name of ['includeStopInOutput', 'ignoreEos', 'skipSpecialTokens'] as const) {
    check(request[name] === undefined || typeof request[name] === 'boolean', name, 'a boolean')
  }
  validateStops(request, info)
  validateSampling(request.sampling ?? {}, info)
  const salt = request.cacheSalt
  check(salt === undefined || (typeof salt === 'string' && salt.length <= LIMITS.saltLength), 'cache_salt',
    `a string of at most ${LIMITS.saltLength} characters`)
  for (const choice of request.resume ?? []) tokenIds(choice.tokenIds, 'resume', info, LIMITS.resume)
  check((request.resume?.length ?? 0) <= (request.n ?? 1), 'resume', 'at most one entry a choice')
}

export function validatePrompt(prompt: Prompt, info: ModelInfo): void {
  check(typeof prompt === 'object' && prompt !== null, 'prompt', 'an object')
  if ('tokenIds' in prompt) {
    check(prompt.tokenIds.length > 0, 'prompt', 'at least one token')
    tokenIds(prompt.tokenIds, 'prompt', info, Number.MAX_SAFE_INTEGER)
    return
  }
  if (!info.hasTokenizer) {
    throw new EngineError('TEXT_WITHOUT_TOKENIZER', 'the model has no tokenizer: give the prompt as token ids', { param: 'prompt' })
  }
  if ('text' in prompt) return text(prompt.text, 'prompt')
  check(Array.isArray(prompt.messages) && prompt.messages.length <= LIMITS.messages, 'messages', `at most ${LIMITS.messages} messages`)
  for (const message of prompt.messages) {
    text(message.role, 'messages')
    text(message.content, 'messages')
  }
}

function validateStops(request: GenerateRequest, info: ModelInfo): void {
  const stop = request.stop ?? []
  check(Array.isArray(stop) && stop.length <= LIMITS.stopStrings, 'stop', `at most ${LIMITS.stopStrings} strings`)
  for (const entry of stop) {
    text(entry, 'stop')
    check(entry.length > 0 && entry.length <= LIMITS.stopLength, 'stop', `strings of 1 to ${LIMITS.stopLength} characters`)
  }
  tokenIds(request.stopTokenIds ?? [], 'stop_token_ids', info, LIMITS.stopTokenIds)
}

function validateSampling(sampling: SamplingParams, info: ModelInfo): void {
  number(sampling.temperature, 'temperature', 0, 100)
  integer(sampling.topK, 'top_k', -1, 2 ** 31 - 1)
  number(sampling.topP, 'top_p', Number.MIN_VALUE, 1)
  number(sampling.minP, 'min_p', 0, 1)
  number(sampling.repetitionPenalty, 'repetition_penalty', 1e-6, 1e6)
  number(sampling.presencePenalty, 'presence_penalty', -2, 2)
  number(sampling.frequencyPenalty, 'frequency_penalty', -2, 2)
  integer(sampling.seed, 'seed', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)
  const bias = sampling.logitBias ?? []
  check(Array.isArray(bias) && bias.length <= LIMITS.logitBias, 'logit_bias', `at most ${LIMITS.logitBias} entries`)
  tokenIds(bias.map(([tokenId]) => tokenId), 'logit_bias', info, LIMITS.logitBias)
  for (const [, value] of bias) number(value, 'logit_bias', -100, 100)
}

function tokenIds(ids: readonly number[], param: string, info: ModelInfo, most: number): void {
  check(Array.isArray(ids) && ids.length <= most, param, `at most ${most} token ids`)
  for (const id of ids) {
    if (!Number.isInteger(id) || id < 0 || id >= info.vocabSize) {
      throw invalid(param, `token ids in [0, ${info.vocabSize}), got ${String(id)}`)
    }
  }
}

function text(value: unknown, param: string): asserts value is string {
  check(typeof value === 'string', param, 'text')
  check(!/\p{Surrogate}/u.test(value), param, 'well-formed Unicode (it holds a lone surrogate)')
}

function integer(value: unknown, param: string, least: number, most: number): void {
  check(value === undefined || (Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most), param,
    `an integer in [${least}, ${most}]`)
}

function number(value: unknown, param: string, least: number, most: number): void {
  check(value === undefined || (typeof value === 'number' && value >= least && value <= most), param, `a number in [${least}, ${most}]`)
}

function check(holds: boolean, param: string, expected: string): asserts holds {
  if (!holds) throw invalid(param, expected)
}

function invalid(param: string, expected: string): EngineError {
  return new EngineError('INVALID_REQUEST', `${param}: expected ${expected}`, { param })
}
