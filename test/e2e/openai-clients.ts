// What the OpenAI clients of the field must find, whatever the model: run on the fake engine by test/server and on the real one
// by test/e2e. Only the shapes and the rules are checked, never a text.

import type { Test } from 'tap'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { ChatOpenAI } from '@langchain/openai'
import { generateText, streamText } from 'ai'
import OpenAI from 'openai'

export interface ClientTarget {
  /** Base URL, without /v1. */
  readonly url: string
  readonly model: string
  /** False where an answer's bits may depend on what else is in the batch. Default true. */
  readonly isAloneAsInBatch?: boolean
  /** Resolves once nothing is in flight in the server. */
  readonly idle: () => Promise<void>
}

const MESSAGES = [{ role: 'user' as const, content: 'Say hello to the world.' }]
const PROMPT = 'Say hello to the world.'

type ErrorClass = abstract new (...args: never[]) => Error

/** The promise is rejected with an error of this class and these fields. */
export async function refused(t: Test, promise: Promise<unknown>, type: ErrorClass, fields: object): Promise<void> {
  const error: unknown = await promise.then(() => undefined, (reason: unknown) => reason)
  t.ok(error instanceof type, `${(error as Error | undefined)?.name} is a ${type.name}`)
  t.match(error, fields)
}

/** Registers the subtests of all three clients. */
export function clientSuite(t: Test, target: () => Promise<ClientTarget>): void {
  t.test('openai', async (t) => openaiSuite(t, await target()))
  t.test('ai with @ai-sdk/openai-compatible', async (t) => aiSdkSuite(t, await target()))
  t.test('@langchain/openai', async (t) => langchainSuite(t, await target()))
}

function openaiSuite(t: Test, { url, model, idle, isAloneAsInBatch = true }: ClientTarget): void {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 })
  const create = (fields: object = {}) => client.chat.completions.create({ model, messages: MESSAGES, max_tokens: 8, ...fields })

  t.test('lists and retrieves models', async (t) => {
    const ids = []
    for await (const entry of client.models.list()) ids.push(entry.id)
    t.ok(ids.includes(model))
    t.equal((await client.models.retrieve(model)).id, model)
  })

  t.test('chat gives one complete choice, and counts it', async (t) => {
    const answer = await create()
    t.match(answer, { object: 'chat.completion', model })
    t.match(answer.choices, [{ index: 0, message: { role: 'assistant', content: String }, finish_reason: /stop|length/ }])
    t.equal(answer.usage!.total_tokens, answer.usage!.prompt_tokens + answer.usage!.completion_tokens)
    t.ok(answer._request_id?.startsWith('req-'))
  })

  t.test('a stream with usage is the plain answer in pieces', async (t) => {
    const fields = { temperature: 0, seed: 1 }
    const plain = await create(fields)
    let text = ''
    let usage: unknown
    const reasons = []
    const stream = await client.chat.completions.create({
      model, messages: MESSAGES, max_tokens: 8, ...fields, stream: true, stream_options: { include_usage: true },
    })
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? ''
      if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason)
      usage = chunk.usage ?? usage
    }
    t.equal(text, plain.choices[0]!.message.content)
    t.same(reasons, [plain.choices[0]!.finish_reason])
    t.match(usage, { prompt_tokens: plain.usage!.prompt_tokens, completion_tokens: plain.usage!.completion_tokens })
  })

  t.test('the stream helper puts the same message together', async (t) => {
    const stream = client.chat.completions.stream({ model, messages: MESSAGES, max_tokens: 8, temperature: 0 })
    const final = await stream.finalChatCompletion()
    t.equal(final.choices[0]!.message.content, (await create({ temperature: 0 })).choices[0]!.message.content)
  })

  t.test('a stop string ends the answer before it', async (t) => {
    const full = (await create({ temperature: 0 })).choices[0]!.message.content!
    const stop = full.slice(2, 4)
    const [choice] = (await create({ temperature: 0, stop })).choices
    t.equal(choice!.message.content, full.slice(0, full.indexOf(stop)))
    t.equal(choice!.finish_reason, 'stop')
  })

  t.test('n choices are numbered', async (t) => {
    const { choices, usage } = await create({ n: 3, temperature: 1, seed: 5 })
    t.same(choices.map(({ index }) => index), [0, 1, 2])
    t.ok(usage!.completion_tokens >= 3)
  })

  t.test('log-probabilities have bytes and alternatives', async (t) => {
    const { choices: [choice], usage } = await create({ logprobs: true, top_logprobs: 3, temperature: 0 })
    const content = choice!.logprobs!.content!
    t.ok(content.length >= 1 && content.length <= usage!.completion_tokens)
    for (const { logprob, top_logprobs: top } of content) {
      t.ok(logprob <= 0, `${logprob}`)
      t.equal(top.length, 3)
      t.ok(top.every((entry, i) => i === 0 || entry.logprob <= top[i - 1]!.logprob), 'falling')
    }
  })

  t.test('legacy completions: several prompts, echo, logprobs, a stream', async (t) => {
    const { choices } = await client.completions.create({
      model, prompt: [PROMPT, 'Again: '], max_tokens: 4, temperature: 0, echo: true, logprobs: 1,
    })
    t.same(choices.map(({ index }) => index), [0, 1])
    t.ok(choices[0]!.text.startsWith(PROMPT))
    t.equal(choices[0]!.logprobs!.tokens!.length, choices[0]!.logprobs!.token_logprobs!.length)
    const alone = { model, prompt: PROMPT, max_tokens: 4, temperature: 0 }
    let text = ''
    for await (const chunk of await client.completions.create({ ...alone, stream: true })) text += chunk.choices[0]?.text ?? ''
    t.equal(text, (await client.completions.create(alone)).choices[0]!.text)
    if (isAloneAsInBatch) t.equal(`${PROMPT}${text}`, choices[0]!.text)
  })

  t.test('errors arrive as the client\'s own classes', async (t) => {
    const { BadRequestError, NotFoundError, APIError } = OpenAI
    await refused(t, create({ temperature: 9 }), BadRequestError, {
      status: 400, code: 'integer_above_max_value', param: 'temperature', type: 'invalid_request_error',
    })
    await refused(t, create({ model: 'no-such-model' }), NotFoundError, { status: 404, code: 'model_not_found' })
    await refused(t, create({ tools: [{ type: 'function', function: { name: 'f' } }] }), BadRequestError, {
      code: 'unsupported_parameter', param: 'tools',
    })
    await refused(t, client.models.retrieve('no-such-model'), NotFoundError, { status: 404 })
    await refused(t, create({ messages: [{ role: 'user', content: 'x'.repeat(2 ** 20) }] }), APIError, { status: 413 })
  })

  t.test('an aborted stream ends in the server', async (t) => {
    const stream = await client.chat.completions.create({ model, messages: MESSAGES, max_tokens: 500, stream: true })
    for await (const _chunk of stream) break
    await idle()
    const controller = new AbortController()
    const plain = client.chat.completions.create({ model, messages: MESSAGES, max_tokens: 500 }, { signal: controller.signal })
    setTimeout(() => controller.abort(), 30)
    await plain.catch((error: unknown) => t.ok(error instanceof OpenAI.APIUserAbortError))
    await idle()
    t.pass('nothing is left in flight')
  })
}

function aiSdkSuite(t: Test, { url, model, idle }: ClientTarget): void {
  const provider = createOpenAICompatible({ name: 'lorikeet', baseURL: `${url}/v1`, includeUsage: true })
  const settings = { model: provider(model), maxOutputTokens: 8, temperature: 0, maxRetries: 0 }

  t.test('generateText gives text, usage and a finish reason', async (t) => {
    const { text, usage, finishReason } = await generateText({ ...settings, prompt: PROMPT })
    t.ok(text.length > 0)
    t.match(finishReason, /stop|length/)
    t.equal(usage.totalTokens, usage.inputTokens! + usage.outputTokens!)
  })

  t.test('streamText gives the same in pieces, with usage', async (t) => {
    const { text } = await generateText({ ...settings, prompt: PROMPT })
    const result = streamText({ ...settings, prompt: PROMPT })
    let streamed = ''
    for await (const piece of result.textStream) streamed += piece
    t.equal(streamed, text)
    t.ok((await result.usage).outputTokens! > 0)
  })

  t.test('a system prompt and a conversation pass', async (t) => {
    const { text } = await generateText({
      ...settings,
      system: 'Be brief.',
      messages: [...MESSAGES, { role: 'assistant', content: 'Hello.' }, { role: 'user', content: [{ type: 'text', text: 'Once more.' }] }],
    })
    t.type(text, 'string')
  })

  t.test('a refusal is an APICallError with the server\'s message', async (t) => {
    await refused(t, generateText({ ...settings, model: provider('no-such-model'), prompt: PROMPT }), Error, {
      name: 'AI_APICallError', statusCode: 404, message: /no-such-model/,
    })
    await refused(t, generateText({ ...settings, temperature: 9, prompt: PROMPT }), Error, { statusCode: 400, message: /temperature/ })
  })

  t.test('an aborted stream ends in the server', async (t) => {
    const controller = new AbortController()
    const result = streamText({ ...settings, maxOutputTokens: 500, prompt: PROMPT, abortSignal: controller.signal })
    for await (const _piece of result.textStream) {
      controller.abort()
      break
    }
    await idle()
    t.pass('nothing is left in flight')
  })
}

function langchainSuite(t: Test, { url, model, idle }: ClientTarget): void {
  const llm = (fields: object = {}) =>
    new ChatOpenAI({
      model, apiKey: 'none', maxRetries: 0, maxTokens: 8, temperature: 0, configuration: { baseURL: `${url}/v1` }, ...fields,
    })

  t.test('invoke gives a message with its usage', async (t) => {
    const message = await llm().invoke(PROMPT)
    t.ok(message.text.length > 0)
    t.ok(message.usage_metadata!.total_tokens > 0)
  })

  t.test('a stream gives the same in pieces, with usage', async (t) => {
    const { text } = await llm().invoke(PROMPT)
    let streamed = ''
    let tokens = 0
    for await (const chunk of await llm({ streamUsage: true }).stream(PROMPT)) {
      streamed += chunk.text
      tokens = chunk.usage_metadata?.total_tokens ?? tokens
    }
    t.equal(streamed, text)
    t.ok(tokens > 0)
  })

  t.test('stop, n and log-probabilities pass through', async (t) => {
    const { generations } = await llm({ n: 2, temperature: 1 }).generate([MESSAGES.map(({ content }) => ['user', content] as never)])
    t.equal(generations[0]!.length, 2)
    const scored = await llm({ logprobs: true, topLogprobs: 2 }).invoke(PROMPT)
    t.match(scored.response_metadata['logprobs'], { content: [{ token: String, logprob: Number }] })
    const stopped = await llm({ stop: [scored.text.slice(1, 3)] }).invoke(PROMPT)
    t.ok(stopped.text.length < scored.text.length)
  })

  t.test('a refusal keeps its status', async (t) => {
    await refused(t, llm({ model: 'no-such-model' }).invoke(PROMPT), Error, { status: 404 })
    await refused(t, llm({ temperature: 9 }).invoke(PROMPT), Error, { status: 400 })
  })

  t.test('an aborted stream ends in the server', async (t) => {
    const controller = new AbortController()
    const stream = await llm({ maxTokens: 500 }).stream(PROMPT, { signal: controller.signal })
    await t.rejects(async () => {
      for await (const _chunk of stream) controller.abort()
    })
    await idle()
  })
}
