import t from 'tap'
import { chat, MODEL, sseEvents, startApp } from './harness.js'

t.test('a chat answer has every field that the OpenAI spec requires', async (t) => {
  const app = await startApp(t)
  const response = await chat(app)
  t.equal(response.statusCode, 200)
  const body = response.json()
  t.match(body.id, /^chatcmpl-[0-9a-f]{32}$/)
  t.match(response.headers['x-request-id'], /^req-/)
  t.same({ ...body, id: 'ID', created: 0 }, {
    id: 'ID', object: 'chat.completion', created: 0, model: MODEL, system_fingerprint: 'fp_abcdef012345',
    choices: [{
      index: 0, message: { role: 'assistant', content: 'Hello, world!', refusal: null }, logprobs: null,
      finish_reason: 'stop', stop_reason: null,
    }],
    usage: { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8, prompt_tokens_details: { cached_tokens: 0 } },
  })
})

t.test('a stream is role, content, finish, [DONE], byte for byte', async (t) => {
  const app = await startApp(t)
  const response = await chat(app, { stream: true })
  t.equal(response.headers['content-type'], 'text/event-stream; charset=utf-8')
  const { id, created } = sseEvents(response.body)[0]
  const chunk = (delta: string, finish = 'null', extra = '') =>
    `data: {"id":"${id}","object":"chat.completion.chunk","created":${created},"model":"fake","system_fingerprint":"fp_abcdef012345",` +
    `"choices":[{"index":0,"delta":${delta},"logprobs":null,"finish_reason":${finish}${extra}}]}\n\n`
  const contents = ['Hello', ',', ' wor', 'ld', '!'].map((text) => chunk(`{"content":"${text}"}`))
  t.equal(response.body, [
    chunk('{"role":"assistant","content":"","refusal":null}'),
    ...contents,
    chunk('{}', '"stop"', ',"stop_reason":null'),
    'data: [DONE]\n\n',
  ].join(''))
})

t.test('include_usage puts null on every chunk and the counts on a last one without choices', async (t) => {
  const app = await startApp(t)
  const events = sseEvents((await chat(app, { stream: true, stream_options: { include_usage: true } })).body)
  t.equal(events.pop(), '[DONE]')
  const last = events.pop()
  t.same(last.choices, [])
  t.same(last.usage, { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8, prompt_tokens_details: { cached_tokens: 0 } })
  t.ok(events.every((event) => event.usage === null))
})

t.test('n choices come with their own index, streamed or not, and the prompt counts once', async (t) => {
  const app = await startApp(t, { script: { reply: (_, choice) => [`choice ${choice}`] } })
  const body = (await chat(app, { n: 3 })).json()
  t.same(body.choices.map((choice: any) => [choice.index, choice.message.content]), [[0, 'choice 0'], [1, 'choice 1'], [2, 'choice 2']])
  t.same([body.usage.prompt_tokens, body.usage.completion_tokens], [3, 3])
  const texts = ['', '', '']
  for (const event of sseEvents((await chat(app, { n: 3, stream: true })).body)) {
    if (event !== '[DONE]') texts[event.choices[0].index] += event.choices[0].delta.content ?? ''
  }
  t.same(texts, ['choice 0', 'choice 1', 'choice 2'])
})

t.test('a stop string ends the answer and is named', async (t) => {
  const app = await startApp(t)
  for (const stop of ['world', ['zzz', 'world']]) {
    const [choice] = (await chat(app, { stop })).json().choices
    t.same([choice.message.content, choice.finish_reason, choice.stop_reason], ['Hello, ', 'stop', 'world'])
  }
  const events = sseEvents((await chat(app, { stop: 'world', stream: true })).body)
  t.equal(events.slice(0, -1).map((event) => event.choices[0].delta.content ?? '').join(''), 'Hello, ')
})

t.test('max_completion_tokens wins over max_tokens, and finish_reason says length', async (t) => {
  const app = await startApp(t)
  const [choice] = (await chat(app, { max_tokens: 4, max_completion_tokens: 2 })).json().choices
  t.same([choice.message.content, choice.finish_reason], ['Hello,', 'length'])
})

t.test('logprobs have token, bytes and as many alternatives as asked for', async (t) => {
  const app = await startApp(t)
  const [choice] = (await chat(app, { logprobs: true, top_logprobs: 2, max_tokens: 1 })).json().choices
  t.same(choice.logprobs, {
    content: [{
      token: 'Hello', logprob: -0.5, bytes: [72, 101, 108, 108, 111],
      top_logprobs: [
        { token: 'Hello', logprob: -0.5, bytes: [72, 101, 108, 108, 111] },
        { token: 'Hello~1', logprob: -1.5, bytes: [72, 101, 108, 108, 111] },
      ],
    }],
    refusal: null,
  })
  const streamed = sseEvents((await chat(app, { logprobs: true, max_tokens: 2, stream: true })).body)
  const entries = streamed.flatMap((event) => event.choices?.[0].logprobs?.content ?? [])
  t.same(entries.map((entry) => [entry.token, entry.top_logprobs]), [['Hello', []], [',', []]])
})

t.test('an infinite log-probability is a finite number in JSON', async (t) => {
  const { chatLogprobs } = await import('../../server/openai/logprobs.js')
  const token = { tokenId: 1, bytes: [], text: 'x', logprob: -Infinity, top: [] }
  t.equal(chatLogprobs([token]).content[0]!.logprob, -9999)
})

t.test('every sampling field reaches the engine under its own name', async (t) => {
  const app = await startApp(t)
  await chat(app, {
    temperature: 0.5, top_p: 0.9, top_k: 40, min_p: 0.1, repetition_penalty: 1.1, presence_penalty: -1, frequency_penalty: 2, seed: 7,
    logit_bias: { '5': -100, '6': 1.5 }, stop: ['a'], stop_token_ids: [9], include_stop_str_in_output: true, ignore_eos: true,
    min_tokens: 1, max_tokens: 3, skip_special_tokens: false, cache_salt: 'salt', add_generation_prompt: false, logprobs: true,
    top_logprobs: 3, prompt_logprobs: 1,
  })
  const { id, ...request } = app.engine.requests[0]!
  t.match(id, /^chatcmpl-/)
  t.same(request, {
    prompt: { messages: [{ role: 'user', content: 'Say hello' }], addGenerationPrompt: false },
    sampling: {
      temperature: 0.5, topP: 0.9, topK: 40, minP: 0.1, repetitionPenalty: 1.1, presencePenalty: -1, frequencyPenalty: 2, seed: 7,
      logitBias: [[5, -100], [6, 1.5]],
    },
    stop: ['a'], stopTokenIds: [9], includeStopInOutput: true, ignoreEos: true, minTokens: 1, maxTokens: 3, skipSpecialTokens: false,
    cacheSalt: 'salt', logprobs: 3, promptLogprobs: 1, adapter: null,
  })
})

t.test('fields that are null are as if absent', async (t) => {
  const app = await startApp(t)
  const response = await chat(app, {
    temperature: null, top_p: null, n: null, stop: null, max_tokens: null, seed: null, logit_bias: null, logprobs: null, stream: null,
    stream_options: null, user: null, tools: null, response_format: null, top_k: null,
  })
  t.equal(response.statusCode, 200)
})

t.test('fields that change nothing are accepted and ignored', async (t) => {
  const app = await startApp(t)
  const response = await chat(app, {
    store: true, metadata: { a: 'b' }, service_tier: 'auto', user: 'u', safety_identifier: 's', prompt_cache_key: 'k', verbosity: 'low',
    prediction: { type: 'content', content: 'x' }, response_format: { type: 'text' }, tools: [], tool_choice: 'none', modalities: ['text'],
    parallel_tool_calls: true, reasoning_effort: 'low', something_new: { deep: [1] },
  })
  t.equal(response.statusCode, 200)
})

t.test('text parts are joined, developer and system roles pass', async (t) => {
  const app = await startApp(t)
  await chat(app, {
    messages: [
      { role: 'developer', content: 'Be brief' },
      { role: 'user', content: [{ type: 'text', text: 'a' }, { type: 'text', text: ' b' }], name: 'ann' },
    ],
  })
  t.same(app.engine.requests[0]!.prompt, {
    messages: [{ role: 'developer', content: 'Be brief' }, { role: 'user', content: 'a b', name: 'ann' }],
  })
})

t.test('return_token_ids gives the ids of prompt and answer', async (t) => {
  const app = await startApp(t)
  const body = (await chat(app, { return_token_ids: true })).json()
  t.equal(body.prompt_token_ids.length, 3)
  t.equal(body.choices[0].token_ids.length, 5)
  const events = sseEvents((await chat(app, { return_token_ids: true, stream: true })).body)
  t.same(events[0].prompt_token_ids, body.prompt_token_ids)
  t.same(events.flatMap((event) => event.choices?.[0].token_ids ?? []), body.choices[0].token_ids)
})

t.test('echo puts the assistant message that is continued in front', async (t) => {
  const app = await startApp(t)
  const messages = [{ role: 'user', content: 'Hi' }, { role: 'assistant', content: 'So: ' }]
  t.equal((await chat(app, { messages, echo: true })).json().choices[0].message.content, 'So: Hello, world!')
})
