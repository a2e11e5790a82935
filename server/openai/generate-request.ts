// Bodies as the engine's GenerateRequest: defaults resolved, ids checked against the vocabulary, content parts joined.

import type { ChatMessage, GenerateRequest, ModelInfo, Prompt, SamplingParams } from '../../engine/api.js'
import { ApiError } from '../errors.js'
import { LIMITS } from './limits.js'
import type { ChatCompletionBody, CompletionBody, GenerationBody } from './schemas.js'

/** vLLM's and OpenAI's default of the legacy route. */
const DEFAULT_COMPLETION_TOKENS = 16

export interface RequestIdentity {
  readonly id: string
  /** Prefix states are never shared between tenants. */
  readonly tenant: string
}

export function chatRequest(body: ChatCompletionBody, identity: RequestIdentity, info: ModelInfo): GenerateRequest {
  const messages = body.messages.map(toChatMessage)
  const maxTokens = body.max_completion_tokens ?? body.max_tokens
  checkMinTokens(body, maxTokens)
  const { add_generation_prompt: addGenerationPrompt } = body
  return {
    ...commonRequest(body, identity, info),
    ...defined({
      maxTokens,
      logprobs: body.logprobs === true ? (body.top_logprobs ?? 0) : undefined,
      promptLogprobs: body.prompt_logprobs,
    }),
    prompt: { messages, ...defined({ addGenerationPrompt }) },
  }
}

function toChatMessage({ role, content, name }: ChatCompletionBody['messages'][number]): ChatMessage {
  const text = typeof content === 'string' ? content : content.map((part) => part.text).join('')
  return { role, content: text, ...defined({ name }) }
}

/** One engine request a prompt, in order. */
export function completionRequests(body: CompletionBody, identity: RequestIdentity, info: ModelInfo): GenerateRequest[] {
  const prompts = toPrompts(body.prompt)
  const n = body.n ?? 1
  if (prompts.length * n > LIMITS.choices) {
    throw new ApiError(400, 'array_above_max_length', `prompts times n must be at most ${LIMITS.choices}.`, { param: 'prompt' })
  }
  const maxTokens = body.max_tokens ?? DEFAULT_COMPLETION_TOKENS
  const promptLogprobs = body.prompt_logprobs ?? (body.echo === true ? body.logprobs : undefined)
  if (maxTokens === 0 && body.echo !== true && promptLogprobs === undefined) {
    throw new ApiError(
      400, 'integer_below_min_value', "'max_tokens' must be at least 1 without 'echo' or 'prompt_logprobs'.", { param: 'max_tokens' },
    )
  }
  checkMinTokens(body, maxTokens)
  return prompts.map((prompt, i) => {
    if ('tokenIds' in prompt) checkTokenIds(prompt.tokenIds, 'prompt', info)
    return {
      ...commonRequest(body, { ...identity, id: `${identity.id}-${i}` }, info),
      ...defined({ maxTokens, logprobs: body.logprobs, promptLogprobs }),
      prompt,
    }
  })
}

function toPrompts(prompt: CompletionBody['prompt']): Prompt[] {
  if (typeof prompt === 'string') return [{ text: prompt }]
  const [first] = prompt
  if (typeof first === 'number') return [{ tokenIds: prompt as number[] }]
  if (typeof first === 'string') return (prompt as string[]).map((text) => ({ text }))
  return (prompt as number[][]).map((tokenIds) => ({ tokenIds }))
}

function commonRequest(body: GenerationBody, identity: RequestIdentity, info: ModelInfo): Omit<GenerateRequest, 'prompt'> {
  if (body.stop_token_ids) checkTokenIds(body.stop_token_ids, 'stop_token_ids', info)
  const stop = typeof body.stop === 'string' ? [body.stop] : body.stop
  return {
    id: identity.id,
    sampling: samplingParams(body, info),
    ...defined({
      n: body.n,
      minTokens: body.min_tokens,
      stop,
      stopTokenIds: body.stop_token_ids,
      includeStopInOutput: body.include_stop_str_in_output,
      ignoreEos: body.ignore_eos,
      skipSpecialTokens: body.skip_special_tokens,
      cacheSalt: cacheSalt(identity.tenant, body.cache_salt),
    }),
  }
}

function samplingParams(body: GenerationBody, info: ModelInfo): SamplingParams {
  return defined({
    temperature: body.temperature,
    topK: body.top_k,
    topP: body.top_p,
    minP: body.min_p,
    repetitionPenalty: body.repetition_penalty,
    presencePenalty: body.presence_penalty,
    frequencyPenalty: body.frequency_penalty,
    logitBias: body.logit_bias ? toLogitBias(body.logit_bias, info) : undefined,
    seed: body.seed,
  })
}

function toLogitBias(bias: Readonly<Record<string, number>>, info: ModelInfo): Array<readonly [number, number]> {
  const entries = Object.entries(bias).map(([id, value]) => [Number(id), value] as const)
  checkTokenIds(entries.map(([id]) => id), 'logit_bias', info)
  return entries
}

/** @throws ApiError 400 when an id is outside the vocabulary. */
function checkTokenIds(ids: readonly number[], param: string, { vocabSize }: ModelInfo): void {
  const bad = ids.find((id) => id >= vocabSize)
  if (bad === undefined) return
  throw new ApiError(400, 'invalid_value', `'${param}' holds token id ${bad}; the vocabulary has ${vocabSize} tokens.`, { param })
}

function checkMinTokens({ min_tokens: minTokens }: GenerationBody, maxTokens: number | null | undefined): void {
  if (minTokens == null || maxTokens == null || minTokens <= maxTokens) return
  throw new ApiError(
    400, 'invalid_value', `'min_tokens' (${minTokens}) is above the tokens asked for (${maxTokens}).`, { param: 'min_tokens' },
  )
}

function cacheSalt(tenant: string, salt: string | null | undefined): string | undefined {
  if (tenant === '') return salt ?? undefined
  return `${tenant}:${salt ?? ''}`
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], null | undefined> }

/** Without the fields that are absent or null. */
function defined<T extends object>(fields: T): Defined<T> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null)) as Defined<T>
}
