// Requests that must be refused, each with what must be said. `param` is what the error names, null where it names nothing.

import { chatBody, completionBody } from './harness.js'

export interface BadRequest {
  readonly name: string
  readonly body: string | object
  readonly status: number
  readonly code: string
  readonly param: string | null
}

const text = (n: number) => 'x'.repeat(n)
const deep = (n: number) => `${'['.repeat(n)}${']'.repeat(n)}`
const user = (content: unknown) => ({ role: 'user', content })

function bad(name: string, body: string | object, code: string, param: string | null, status = 400): BadRequest {
  return { name, body, status, code, param }
}

/** One field of a chat body replaced. A string as value with `raw` goes in as JSON text, for what JSON.stringify cannot say. */
const field = (param: string, value: unknown, code: string, named: string | null = param) =>
  bad(`${param}: ${JSON.stringify(value)?.slice(0, 40)}`, chatBody({ [param]: value }), code, named)

const raw = (param: string, json: string, code: string, named: string | null = param) =>
  bad(`${param}: ${json.slice(0, 40)}`, JSON.stringify(chatBody()).replace(/}$/, `,"${param}":${json}}`), code, named)

const messages = (name: string, value: unknown, code: string, param: string) =>
  bad(`messages ${name}`, chatBody({ messages: value }), code, param)

const notJson: BadRequest[] = [
  bad('an empty body', '', 'invalid_type', null),
  bad('no JSON', 'hello', 'invalid_json', null),
  bad('JSON cut short', '{"model": "fake", "messages": [', 'invalid_json', null),
  bad('a trailing comma', '{"model": "fake",}', 'invalid_json', null),
  bad('single quotes', "{'model': 'fake'}", 'invalid_json', null),
  bad('two documents', '{}{}', 'invalid_json', null),
  bad('NaN', '{"temperature": NaN}', 'invalid_json', null),
  bad('Infinity', '{"temperature": Infinity}', 'invalid_json', null),
  bad('a comment', '{/* x */}', 'invalid_json', null),
  bad('a raw control character in a string', '{"model": "a\u0001"}', 'invalid_json', null),
  bad('an unfinished escape', '{"model": "\\u12"}', 'invalid_json', null),
  bad('an unclosed string', '{"model": "fake', 'invalid_json', null),
  bad('an array', '[]', 'invalid_type', null),
  bad('null', 'null', 'invalid_type', null),
  bad('a number', '42', 'invalid_type', null),
  bad('a string', '"fake"', 'invalid_type', null),
  bad('an empty object', '{}', 'missing_required_parameter', 'model'),
  bad('33 levels', deep(33), 'json_too_deep', null),
  bad('100,000 levels', deep(100_000), 'json_too_deep', null),
  bad('100,000 objects deep', '{"a":'.repeat(100_000), 'json_too_deep', null),
  bad('33 levels within a field', JSON.stringify(chatBody()).replace(/}$/, `,"metadata":${deep(32)}}`), 'json_too_deep', null),
  bad('__proto__', '{"__proto__": {"model": "fake"}}', 'invalid_json', null),
  bad('__proto__ inside', JSON.stringify(chatBody()).replace(/}$/, ',"metadata":{"__proto__":1}}'), 'invalid_json', null),
  bad('constructor.prototype', '{"constructor": {"prototype": {"x": 1}}}', 'invalid_json', null),
]

const text_: BadRequest[] = [
  messages('with a lone high surrogate', [user('\ud800')], 'invalid_value', 'messages[0].content'),
  messages('with a lone low surrogate', [user('a\udc00b')], 'invalid_value', 'messages[0].content'),
  messages('with surrogates in the wrong order', [user('\udc00\ud800')], 'invalid_value', 'messages[0].content'),
  messages('with NUL', [user('a\0b')], 'invalid_value', 'messages[0].content'),
  messages('with NUL in a part', [user([{ type: 'text', text: '\0' }])], 'invalid_value', 'messages[0].content[0].text'),
  field('stop', '\ud800', 'invalid_value'),
  field('stop', ['a', 'b\0'], 'invalid_value', 'stop[1]'),
  field('user', '\ud83d', 'invalid_value'),
  field('model', 'fake\0', 'invalid_value'),
  field('cache_salt', '\udfff', 'invalid_value'),
  field('metadata', { note: '\ud800' }, 'invalid_value', 'metadata.note'),
]

const chatMessages: BadRequest[] = [
  bad('no messages', { model: 'fake' }, 'missing_required_parameter', 'messages'),
  messages('null', null, 'invalid_type', 'messages'),
  messages('a string', 'hello', 'invalid_type', 'messages'),
  messages('an object', {}, 'invalid_type', 'messages'),
  messages('empty', [], 'array_below_min_length', 'messages'),
  messages('513 of them', Array(513).fill(user('a')), 'array_above_max_length', 'messages'),
  messages('a number inside', [1], 'invalid_type', 'messages[0]'),
  messages('null inside', [user('a'), null], 'invalid_type', 'messages[1]'),
  messages('without role', [{ content: 'a' }], 'missing_required_parameter', 'messages[0].role'),
  messages('without content', [{ role: 'user' }], 'missing_required_parameter', 'messages[0].content'),
  messages('role tool', [{ role: 'tool', content: 'a' }], 'invalid_value', 'messages[0].role'),
  messages('role function', [{ role: 'function', content: 'a' }], 'invalid_value', 'messages[0].role'),
  messages('role User', [{ role: 'User', content: 'a' }], 'invalid_value', 'messages[0].role'),
  messages('role null', [{ role: null, content: 'a' }], 'invalid_value', 'messages[0].role'),
  messages('role number', [{ role: 3, content: 'a' }], 'invalid_value', 'messages[0].role'),
  messages('content null', [user(null)], 'invalid_type', 'messages[0].content'),
  messages('content number', [user(5)], 'invalid_type', 'messages[0].content'),
  messages('content object', [user({ type: 'text', text: 'a' })], 'invalid_type', 'messages[0].content'),
  messages('content no parts', [user([])], 'array_below_min_length', 'messages[0].content'),
  messages('content a list of strings', [user(['a'])], 'invalid_type', 'messages[0].content[0]'),
  messages('an image part', [user([{ type: 'image_url', image_url: {} }])], 'missing_required_parameter', 'messages[0].content[0].text'),
  messages('an image part with text', [user([{ type: 'image_url', text: 'a' }])], 'invalid_value', 'messages[0].content[0].type'),
  messages('a part without text', [user([{ type: 'text' }])], 'missing_required_parameter', 'messages[0].content[0].text'),
  messages('a part with text 5', [user([{ type: 'text', text: 5 }])], 'invalid_type', 'messages[0].content[0].text'),
  messages('257 parts', [user(Array(257).fill({ type: 'text', text: 'a' }))], 'array_above_max_length', 'messages[0].content'),
  messages('name number', [{ ...user('a'), name: 4 }], 'invalid_type', 'messages[0].name'),
  messages('name too long', [{ ...user('a'), name: text(513) }], 'string_above_max_length', 'messages[0].name'),
]

const models: BadRequest[] = [
  bad('model missing', { messages: [user('a')] }, 'missing_required_parameter', 'model'),
  field('model', null, 'invalid_type'),
  field('model', 5, 'invalid_type'),
  field('model', ['fake'], 'invalid_type'),
  field('model', text(257), 'string_above_max_length'),
  bad('model empty', chatBody({ model: '' }), 'model_not_found', 'model', 404),
  bad('model unknown', chatBody({ model: 'gpt-4' }), 'model_not_found', 'model', 404),
  bad('model a path', chatBody({ model: '../../etc/passwd' }), 'model_not_found', 'model', 404),
  bad('model __proto__', chatBody({ model: '__proto__' }), 'model_not_found', 'model', 404),
]

/** [field, lowest, highest]: one below, one above, wrong types, and what JSON can overflow to. */
const ranges: ReadonlyArray<[param: string, low: unknown, high: unknown, lowCode?: string]> = [
  ['temperature', -0.1, 2.1],
  ['top_p', 0, 1.1, 'decimal_below_min_value'],
  ['presence_penalty', -2.1, 2.1],
  ['frequency_penalty', -2.1, 2.1],
  ['min_p', -0.1, 1.1],
  ['repetition_penalty', 0, 101, 'decimal_below_min_value'],
  ['n', 0, 5],
  ['top_k', -2, 2 ** 31],
  ['max_tokens', 0, 2 ** 31],
  ['max_completion_tokens', -1, 2 ** 53],
  ['min_tokens', -1, 2 ** 31],
  ['prompt_logprobs', -1, 21],
]

const numbers: BadRequest[] = ranges.flatMap(([param, low, high, lowCode = 'integer_below_min_value']) => [
  field(param, low, lowCode),
  field(param, high, 'integer_above_max_value'),
  field(param, '1', 'invalid_type'),
  field(param, true, 'invalid_type'),
  raw(param, '1e309', 'invalid_type'),
])

const integers: BadRequest[] = ['n', 'top_k', 'max_tokens', 'min_tokens', 'seed', 'prompt_logprobs'].map(
  (param) => field(param, 1.5, 'invalid_type'),
)

const others: BadRequest[] = [
  field('seed', 2 ** 53, 'integer_above_max_value'),
  raw('seed', '-9223372036854775808', 'integer_below_min_value'),
  raw('seed', '-1e309', 'invalid_type'),
  field('seed', 'x', 'invalid_type'),
  field('temperature', [], 'invalid_type'),
  field('temperature', {}, 'invalid_type'),
  field('n', [1], 'invalid_type'),

  field('stop', '', 'string_below_min_length'),
  field('stop', [''], 'string_below_min_length', 'stop[0]'),
  field('stop', text(129), 'string_above_max_length'),
  field('stop', ['a', text(129)], 'string_above_max_length', 'stop[1]'),
  field('stop', ['a', 'b', 'c', 'd', 'e'], 'array_above_max_length'),
  field('stop', 5, 'invalid_type'),
  field('stop', { a: 1 }, 'invalid_type'),
  field('stop', ['a', 5], 'invalid_type', 'stop[1]'),
  field('stop', [null], 'invalid_type', 'stop[0]'),

  field('stop_token_ids', 'x', 'invalid_type'),
  field('stop_token_ids', [-1], 'integer_below_min_value', 'stop_token_ids[0]'),
  field('stop_token_ids', [1.5], 'invalid_type', 'stop_token_ids[0]'),
  field('stop_token_ids', [2 ** 31], 'integer_above_max_value', 'stop_token_ids[0]'),
  field('stop_token_ids', [1_000], 'invalid_value'),
  field('stop_token_ids', Array(129).fill(1), 'array_above_max_length'),

  field('logit_bias', [], 'invalid_type'),
  field('logit_bias', 'x', 'invalid_type'),
  field('logit_bias', { a: 1 }, 'invalid_value'),
  field('logit_bias', { '-1': 1 }, 'invalid_value'),
  field('logit_bias', { '1.5': 1 }, 'invalid_value'),
  field('logit_bias', { '1': 101 }, 'integer_above_max_value', 'logit_bias[1]'),
  field('logit_bias', { '1': -101 }, 'integer_below_min_value', 'logit_bias[1]'),
  field('logit_bias', { '1': 'x' }, 'invalid_type', 'logit_bias[1]'),
  field('logit_bias', { '1': null }, 'invalid_type', 'logit_bias[1]'),
  field('logit_bias', { '1000': 1 }, 'invalid_value'),
  field('logit_bias', { '99999999999': 1 }, 'invalid_value'),
  field('logit_bias', Object.fromEntries(Array.from({ length: 301 }, (_, i) => [i, 1])), 'object_above_max_properties'),

  field('stream', 'true', 'invalid_type'),
  field('stream', 1, 'invalid_type'),
  field('stream_options', { include_usage: true }, 'invalid_value'),
  bad('stream_options a string', chatBody({ stream: true, stream_options: 'x' }), 'invalid_type', 'stream_options'),
  bad('include_usage 1', chatBody({ stream: true, stream_options: { include_usage: 1 } }), 'invalid_type', 'stream_options.include_usage'),
  bad('prompt_logprobs in a stream', chatBody({ stream: true, prompt_logprobs: 1 }), 'unsupported_parameter', 'prompt_logprobs'),

  field('logprobs', 5, 'invalid_type'),
  field('logprobs', 'true', 'invalid_type'),
  field('top_logprobs', 3, 'invalid_value'),
  bad('top_logprobs with logprobs false', chatBody({ logprobs: false, top_logprobs: 1 }), 'invalid_value', 'top_logprobs'),
  bad('top_logprobs 21', chatBody({ logprobs: true, top_logprobs: 21 }), 'integer_above_max_value', 'top_logprobs'),
  bad('top_logprobs -1', chatBody({ logprobs: true, top_logprobs: -1 }), 'integer_below_min_value', 'top_logprobs'),
  bad('min_tokens above max_tokens', chatBody({ min_tokens: 5, max_tokens: 4 }), 'invalid_value', 'min_tokens'),

  field('user', 5, 'invalid_type'),
  field('user', text(513), 'string_above_max_length'),
  field('cache_salt', '', 'string_below_min_length'),
  field('cache_salt', text(129), 'string_above_max_length'),
  field('ignore_eos', 'yes', 'invalid_type'),
  field('echo', 1, 'invalid_type'),
  field('skip_special_tokens', 'no', 'invalid_type'),
  field('include_stop_str_in_output', 1, 'invalid_type'),
  field('return_token_ids', 'x', 'invalid_type'),
  field('add_generation_prompt', 'x', 'invalid_type'),
]

const unsupported: BadRequest[] = [
  field('tools', [{ type: 'function', function: { name: 'f' } }], 'unsupported_parameter'),
  field('tool_choice', 'required', 'unsupported_parameter'),
  field('tool_choice', { type: 'function' }, 'unsupported_parameter'),
  field('functions', [{ name: 'f' }], 'unsupported_parameter'),
  field('function_call', { name: 'f' }, 'unsupported_parameter'),
  field('response_format', { type: 'json_object' }, 'unsupported_parameter'),
  field('response_format', { type: 'json_schema', json_schema: {} }, 'unsupported_parameter'),
  field('response_format', {}, 'missing_required_parameter', 'response_format.type'),
  field('response_format', 'json', 'invalid_type'),
  field('audio', { voice: 'x' }, 'unsupported_parameter'),
  field('modalities', ['text', 'audio'], 'unsupported_parameter'),
  field('web_search_options', {}, 'unsupported_parameter'),
  field('chat_template', '{{ 1 }}', 'unsupported_parameter'),
  field('chat_template_kwargs', { a: 1 }, 'unsupported_parameter'),
  field('continue_final_message', true, 'unsupported_parameter'),
  field('structured_outputs', { json: {} }, 'unsupported_parameter'),
  field('guided_regex', '(a+)+', 'unsupported_parameter'),
  field('bad_words', ['x'], 'unsupported_parameter'),
  field('allowed_token_ids', [1], 'unsupported_parameter'),
  field('truncate_prompt_tokens', 5, 'unsupported_parameter'),
  field('use_beam_search', true, 'unsupported_parameter'),
  field('prompt_embeds', 'AAAA', 'unsupported_parameter'),
]

export const BAD_CHATS: readonly BadRequest[] = [
  ...notJson, ...text_, ...chatMessages, ...models, ...numbers, ...integers, ...others, ...unsupported,
]

const prompt = (value: unknown, code: string, param: string | null = 'prompt') =>
  bad(`prompt: ${JSON.stringify(value)?.slice(0, 40)}`, completionBody({ prompt: value }), code, param)

const completion = (fields: object, code: string, param: string) =>
  bad(JSON.stringify(fields).slice(0, 60), completionBody(fields), code, param)

export const BAD_COMPLETIONS: readonly BadRequest[] = [
  bad('no prompt', { model: 'fake' }, 'missing_required_parameter', 'prompt'),
  prompt(null, 'invalid_type'),
  prompt(5, 'invalid_type'),
  prompt({}, 'invalid_type'),
  prompt([], 'array_below_min_length'),
  prompt([[]], 'array_below_min_length', 'prompt[0]'),
  prompt([[1], []], 'array_below_min_length', 'prompt[1]'),
  prompt([1, 'a'], 'invalid_type', 'prompt[1]'),
  prompt(['a', null], 'invalid_type', 'prompt[1]'),
  prompt([1.5], 'invalid_type', 'prompt[0]'),
  prompt([-1], 'integer_below_min_value', 'prompt[0]'),
  prompt([2 ** 31], 'integer_above_max_value', 'prompt[0]'),
  prompt([1_000], 'invalid_value'),
  prompt([[5], [1_000]], 'invalid_value'),
  prompt([[[1]]], 'invalid_type', 'prompt[0][0]'),
  prompt(Array(129).fill('a'), 'array_above_max_length'),
  prompt('\ud800', 'invalid_value'),
  prompt(['a', 'b\0'], 'invalid_value', 'prompt[1]'),
  completion({ prompt: Array(64).fill('a'), n: 4 }, 'array_above_max_length', 'prompt'),
  completion({ suffix: 'x' }, 'unsupported_parameter', 'suffix'),
  completion({ best_of: 2 }, 'unsupported_parameter', 'best_of'),
  completion({ best_of: 5 }, 'integer_above_max_value', 'best_of'),
  completion({ n: 2, best_of: 3 }, 'unsupported_parameter', 'best_of'),
  completion({ max_tokens: 0 }, 'integer_below_min_value', 'max_tokens'),
  completion({ max_tokens: -1 }, 'integer_below_min_value', 'max_tokens'),
  completion({ logprobs: 21 }, 'integer_above_max_value', 'logprobs'),
  completion({ logprobs: true }, 'invalid_type', 'logprobs'),
  completion({ logprobs: -1 }, 'integer_below_min_value', 'logprobs'),
  completion({ min_tokens: 17 }, 'invalid_value', 'min_tokens'),
  completion({ stream: true, prompt_logprobs: 0 }, 'unsupported_parameter', 'prompt_logprobs'),
  completion({ guided_json: {} }, 'unsupported_parameter', 'guided_json'),
  completion({ temperature: 'hot' }, 'invalid_type', 'temperature'),
]
