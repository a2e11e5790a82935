import t from 'tap'
import { complete, MODEL, sseEvents, startApp } from './harness.js'

t.test('a completion has the legacy shape', async (t) => {
  const app = await startApp(t)
  const body = (await complete(app)).json()
  t.match(body.id, /^cmpl-/)
  t.same({ ...body, id: 'ID', created: 0 }, {
    id: 'ID', object: 'text_completion', created: 0, model: MODEL, system_fingerprint: 'fp_abcdef012345',
    choices: [{ index: 0, text: 'Hello, world!', logprobs: null, finish_reason: 'stop', stop_reason: null }],
    usage: { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8, prompt_tokens_details: { cached_tokens: 0 } },
  })
})

t.test('a stream ends with the finish reason and [DONE]', async (t) => {
  const app = await startApp(t)
  const events = sseEvents((await complete(app, { stream: true, stream_options: { include_usage: true } })).body)
  t.equal(events.pop(), '[DONE]')
  t.equal(events.pop().usage.total_tokens, 8)
  t.equal(events.map((event) => event.choices[0].text).join(''), 'Hello, world!')
  t.equal(events.at(-1).choices[0].finish_reason, 'stop')
  t.ok(events.every((event) => event.usage === null && event.object === 'text_completion'))
})

t.test('prompts come as text, as ids, or as a list of either', async (t) => {
  const app = await startApp(t)
  for (const prompt of ['a', [5, 6], ['a', 'b'], [[5], [6, 7]]]) t.equal((await complete(app, { prompt })).statusCode, 200)
  t.same(app.engine.requests.map((request) => request.prompt), [
    { text: 'a' }, { tokenIds: [5, 6] }, { text: 'a' }, { text: 'b' }, { tokenIds: [5] }, { tokenIds: [6, 7] },
  ])
})

t.test('choices of several prompts are numbered prompt * n + i', async (t) => {
  const app = await startApp(t, { script: { reply: ({ prompt }, choice) => [`${(prompt as { text: string }).text}${choice}`] } })
  const fields = { prompt: ['a', 'b'], n: 2 }
  const body = (await complete(app, fields)).json()
  t.same(body.choices.map(({ index, text }: any) => [index, text]), [[0, 'a0'], [1, 'a1'], [2, 'b0'], [3, 'b1']])
  t.same([body.usage.prompt_tokens, body.usage.completion_tokens], [4, 4])
  const texts: string[] = ['', '', '', '']
  for (const event of sseEvents((await complete(app, { ...fields, stream: true })).body)) {
    if (event !== '[DONE]') texts[event.choices[0].index] += event.choices[0].text
  }
  t.same(texts, ['a0', 'a1', 'b0', 'b1'])
})

t.test('max_tokens is 16 unless given', async (t) => {
  const app = await startApp(t)
  await complete(app)
  await complete(app, { max_tokens: 3 })
  t.same(app.engine.requests.map((request) => request.maxTokens), [16, 3])
})

t.test('logprobs have the legacy shape, offsets in code points', async (t) => {
  const app = await startApp(t, { script: { reply: () => ['a', '\u{1f99c}', 'b'] } })
  const [choice] = (await complete(app, { logprobs: 1 })).json().choices
  t.same(choice.logprobs, {
    tokens: ['a', '\u{1f99c}', 'b'], token_logprobs: [-0.5, -0.5, -0.5],
    top_logprobs: [{ a: -0.5 }, { '\u{1f99c}': -0.5 }, { b: -0.5 }], text_offset: [0, 1, 2],
  })
  const [zero] = (await complete(app, { logprobs: 0, max_tokens: 1 })).json().choices
  t.same(zero.logprobs.top_logprobs, [{ a: -0.5 }], 'the sampled token is always there')
})

t.test('tokens that are no whole characters are named by their bytes', async (t) => {
  const { LegacyLogprobsWriter } = await import('../../server/openai/logprobs.js')
  const token = { tokenId: 1, bytes: [0xe2, 0x80], text: '\ufffd', logprob: -1, top: [] }
  t.same(new LegacyLogprobsWriter().write([token]).tokens, ['bytes:\\xe2\\x80'])
})

t.test('echo gives the prompt back, with its log-probabilities where asked for', async (t) => {
  const app = await startApp(t)
  t.equal((await complete(app, { echo: true })).json().choices[0].text, 'Once uponHello, world!')
  const [choice] = (await complete(app, { echo: true, logprobs: 0, max_tokens: 1 })).json().choices
  t.same(choice.logprobs.tokens, ['<bos>', 'Once ', 'upon', 'Hello'])
  t.same(choice.logprobs.token_logprobs, [null, -0.5, -0.5, -0.5])
  t.same(choice.logprobs.text_offset, [0, 0, 5, 9], 'the <bos> that was put in front is not part of the text')
  const events = sseEvents((await complete(app, { echo: true, stream: true })).body)
  t.equal(events.slice(0, -1).map((event) => event.choices[0].text).join(''), 'Once uponHello, world!')
})

t.test('max_tokens 0 with echo only scores the prompt', async (t) => {
  const app = await startApp(t)
  const body = (await complete(app, { echo: true, logprobs: 2, max_tokens: 0 })).json()
  t.equal(body.choices[0].text, 'Once upon')
  t.equal(body.choices[0].finish_reason, 'length')
  t.equal(body.usage.completion_tokens, 0)
  t.equal(body.choices[0].logprobs.tokens.length, 3)
})

t.test('echo of token ids is their text', async (t) => {
  const app = await startApp(t)
  t.equal((await complete(app, { prompt: [7, 8], echo: true })).json().choices[0].text, '<7><8>Hello, world!')
  const [choice] = (await complete(app, { prompt: [2, 7], echo: true, logprobs: 0, max_tokens: 1 })).json().choices
  t.same([choice.text, choice.logprobs.text_offset], ['<bos><7>Hello', [0, 5, 8]])
})

t.test('prompt_logprobs are keyed by token id, as in vLLM', async (t) => {
  const app = await startApp(t)
  const [choice] = (await complete(app, { prompt: [2, 7], prompt_logprobs: 1 })).json().choices
  t.same(choice.prompt_logprobs, [null, { '7': { logprob: -0.5, rank: 1, decoded_token: '<7>' } }])
})

t.test('return_token_ids gives the ids of prompt and answer in the choice', async (t) => {
  const app = await startApp(t)
  const [choice] = (await complete(app, { prompt: [5, 6], return_token_ids: true })).json().choices
  t.same(choice.prompt_token_ids, [5, 6])
  t.equal(choice.token_ids.length, 5)
})

t.test('best_of passes when it equals n', async (t) => {
  const app = await startApp(t)
  t.equal((await complete(app, { n: 2, best_of: 2 })).statusCode, 200)
  t.equal((await complete(app, { suffix: '', best_of: null })).statusCode, 200)
})
