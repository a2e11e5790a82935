// Fields that OpenAI's or vLLM's API knows, that would change the answer, and that this server does not do: refused by name,
// never ignored. Fields that change nothing about the text (store, metadata, service_tier, ...) simply pass.

import { ApiError } from '../errors.js'
import type { ChatCompletionBody, CompletionBody, GenerationBody } from './schemas.js'

type Asked = (value: unknown) => boolean

const present: Asked = (value) => value !== null && value !== undefined
const on: Asked = (value) => present(value) && value !== false
const nonEmpty: Asked = (value) => present(value) && !(Array.isArray(value) && value.length === 0)
const notOneOf = (...allowed: unknown[]): Asked => (value) => present(value) && !allowed.includes(value)
const moreThanText: Asked = (value) => present(value) && !(Array.isArray(value) && value.every((item) => item === 'text'))

const SHARED: Readonly<Record<string, Asked>> = {
  structured_outputs: present,
  guided_json: present,
  guided_regex: present,
  guided_choice: present,
  guided_grammar: present,
  bad_words: nonEmpty,
  allowed_token_ids: nonEmpty,
  logprob_token_ids: nonEmpty,
  truncate_prompt_tokens: present,
  use_beam_search: on,
  prompt_embeds: present,
}

const CHAT: Readonly<Record<string, Asked>> = {
  ...SHARED,
  tools: nonEmpty,
  tool_choice: notOneOf('none', 'auto'),
  functions: nonEmpty,
  function_call: notOneOf('none', 'auto'),
  audio: present,
  modalities: moreThanText,
  web_search_options: present,
  chat_template: present,
  chat_template_kwargs: nonEmptyObject,
  continue_final_message: on,
  documents: nonEmpty,
}

const COMPLETION: Readonly<Record<string, Asked>> = { ...SHARED, suffix: notOneOf('') }

function nonEmptyObject(value: unknown): boolean {
  return present(value) && Object.keys(value as object).length > 0
}

export function refuseUnsupportedChat(body: ChatCompletionBody): void {
  refuse(body, CHAT)
  const format = body.response_format?.type ?? 'text'
  if (format !== 'text') {
    throw unsupported('response_format', `response_format '${format.slice(0, 32)}' is not supported by this server: use 'text'.`)
  }
  if (present(body.top_logprobs) && body.logprobs !== true) {
    throw new ApiError(400, 'invalid_value', "'top_logprobs' is only allowed when 'logprobs' is true.", { param: 'top_logprobs' })
  }
  refuseCombinations(body)
}

export function refuseUnsupportedCompletion(body: CompletionBody): void {
  refuse(body, COMPLETION)
  if (present(body.best_of) && body.best_of !== (body.n ?? 1)) {
    throw unsupported('best_of', "'best_of' is only supported when it equals 'n'.")
  }
  refuseCombinations(body)
}

function refuse(body: object, table: Readonly<Record<string, Asked>>): void {
  for (const [param, asked] of Object.entries(table)) {
    if (asked((body as Record<string, unknown>)[param])) throw unsupported(param, `'${param}' is not supported by this server.`)
  }
}

function refuseCombinations(body: GenerationBody): void {
  if (present(body.stream_options) && body.stream !== true) {
    throw new ApiError(400, 'invalid_value', "'stream_options' is only allowed when 'stream' is true.", { param: 'stream_options' })
  }
  if (present(body.prompt_logprobs) && body.stream === true) {
    throw unsupported('prompt_logprobs', "'prompt_logprobs' is not supported when 'stream' is true.")
  }
}

function unsupported(param: string, message: string): ApiError {
  return new ApiError(400, 'unsupported_parameter', message, { param })
}
