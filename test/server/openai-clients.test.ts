// The OpenAI clients of the field against the server on the fake engine.

import t from 'tap'
import OpenAI from 'openai'
import { createKey, KeyStore } from '../../server/keys.js'
import { EngineError } from '../../engine/errors.js'
import { clientSuite, refused } from '../e2e/openai-clients.js'
import { FakeEngine } from './fake-engine.js'
import { chatBody, listen, MODEL, startApp, until } from './harness.js'

const engine = new FakeEngine({
  delayMs: 2,
  reply: ({ maxTokens }) => Array.from({ length: Math.min(maxTokens ?? 20, 500) }, (_, i) => `w${i} `),
})

clientSuite(t, async () => {
  const app = await startApp(t, { engine })
  const idle = () => until(() => app.engine.active === 0 && app.context.active.size === 0, 'idle')
  return { url: await listen(app), model: MODEL, idle }
})

t.test('the openai client meets 401, 403, 422, 429 and 503 in its own classes', async (t) => {
  const path = `${t.testdir({})}/keys.json`
  const { secret } = createKey(path, { name: 'a', scopes: ['infer'], models: [MODEL] })
  const metrics = createKey(path, { name: 'b', scopes: ['metrics'] }).secret
  const app = await startApp(t, { keys: new KeyStore(path) })
  const baseURL = `${await listen(app)}/v1`
  const ask = (apiKey: string) =>
    new OpenAI({ baseURL, apiKey, maxRetries: 0 }).chat.completions.create(chatBody() as OpenAI.ChatCompletionCreateParamsNonStreaming)
  await refused(t, ask('sk-wrong'), OpenAI.AuthenticationError, { status: 401, code: 'invalid_api_key' })
  await refused(t, ask(metrics), OpenAI.PermissionDeniedError, { status: 403, code: 'insufficient_scope' })
  const refusals = [
    ['QUARANTINED', OpenAI.UnprocessableEntityError, 422],
    ['QUEUE_FULL', OpenAI.RateLimitError, 429],
    ['ENGINE_UNAVAILABLE', OpenAI.InternalServerError, 503],
  ] as const
  for (const [code, type, status] of refusals) {
    app.engine.script = { refuse: new EngineError(code, 'no') }
    await refused(t, ask(secret), type, { status })
  }
})

t.test('the openai client retries what says Retry-After, and gets its answer', async (t) => {
  const app = await startApp(t, { script: { refuse: new EngineError('QUEUE_FULL', 'full', { retryAfterMs: 20 }) } })
  const client = new OpenAI({ baseURL: `${await listen(app)}/v1`, apiKey: 'x', maxRetries: 2 })
  setTimeout(() => (app.engine.script = {}), 30)
  const answer = await client.chat.completions.create(chatBody() as OpenAI.ChatCompletionCreateParamsNonStreaming)
  t.equal(answer.choices[0]!.message.content, 'Hello, world!')
})

t.test('the openai client raises an APIError where a stream breaks off', async (t) => {
  const app = await startApp(t, { script: { failAt: { token: 2, error: new EngineError('OUT_OF_MEMORY', 'no blocks left') } } })
  const client = new OpenAI({ baseURL: `${await listen(app)}/v1`, apiKey: 'x', maxRetries: 0 })
  const stream = await client.chat.completions.create({ ...(chatBody() as OpenAI.ChatCompletionCreateParams), stream: true })
  let text = ''
  const read = async () => {
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? ''
  }
  await refused(t, read(), OpenAI.APIError, { code: 'out_of_memory' })
  t.equal(text, 'Hello,')
})

t.test('the openai client reads our bytes however they are cut', async (t) => {
  const { Stream } = await import('openai/core/streaming')
  const app = await startApp(t, { script: { reply: () => ['a\n\nb', '\u{1f99c}', 'data: x', 'é\r\n'] } })
  const { rawPayload } = await app.server.inject({ method: 'POST', url: '/v1/chat/completions', payload: chatBody({ stream: true }) })
  for (let at = 1; at < rawPayload.length; at += 7) {
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(rawPayload.subarray(0, at))
        controller.enqueue(rawPayload.subarray(at))
        controller.close()
      },
    })
    let text = ''
    for await (const chunk of Stream.fromSSEResponse<any>(new Response(body), new AbortController())) {
      text += chunk.choices[0]?.delta.content ?? ''
    }
    t.equal(text, 'a\n\nb\u{1f99c}data: xé\r\n', `cut at ${at}`)
  }
})
