import t from 'tap'
import { BAD_CHATS, BAD_COMPLETIONS, type BadRequest } from './bad-requests.js'
import { chat, chatBody, complete, post, startApp } from './harness.js'

const LISTS: ReadonlyArray<[url: string, list: readonly BadRequest[]]> = [
  ['/v1/chat/completions', BAD_CHATS],
  ['/v1/completions', BAD_COMPLETIONS],
]

t.test('at least 150 malformed requests are refused by name, and none reaches the engine', async (t) => {
  const app = await startApp(t)
  for (const [url, list] of LISTS) {
    for (const { name, body, status, code, param } of list) {
      const response = await post(app, url, body)
      const { error } = response.json()
      t.same([response.statusCode, error.code, error.param], [status, code, param], `${url} ${name}: ${error.message}`)
      t.same(Object.keys(error), ['message', 'type', 'param', 'code'], name)
      t.equal(error.type, 'invalid_request_error', name)
    }
  }
  t.ok(BAD_CHATS.length + BAD_COMPLETIONS.length >= 150, `${BAD_CHATS.length + BAD_COMPLETIONS.length} requests`)
  t.equal(app.engine.requests.length, 0)
  t.equal(app.context.active.size, 0)
  t.equal(app.context.gate.inFlight, 0)
  t.equal((await chat(app)).statusCode, 200, 'the server still answers')
})

t.test('a limit is kept to the unit: L passes, L + 1 does not', async (t) => {
  const app = await startApp(t)
  const x = (n: number) => 'x'.repeat(n)
  const ids = (n: number) => Object.fromEntries(Array.from({ length: n }, (_, i) => [i, 1]))
  const cases: ReadonlyArray<[ok: object, tooMuch: object]> = [
    [{ n: 4 }, { n: 5 }],
    [{ stop: x(128) }, { stop: x(129) }],
    [{ stop: ['a', 'b', 'c', 'd'] }, { stop: ['a', 'b', 'c', 'd', 'e'] }],
    [{ logit_bias: ids(300) }, { logit_bias: ids(301) }],
    [{ logit_bias: { 999: 100 } }, { logit_bias: { 1000: 100 } }],
    [{ logprobs: true, top_logprobs: 20 }, { logprobs: true, top_logprobs: 21 }],
    [{ seed: Number.MAX_SAFE_INTEGER }, { seed: 2 ** 53 }],
    [{ messages: Array(512).fill({ role: 'user', content: 'a' }) }, { messages: Array(513).fill({ role: 'user', content: 'a' }) }],
    [{ metadata: nest(30) }, { metadata: nest(32) }],
  ]
  for (const [ok, tooMuch] of cases) {
    t.equal((await chat(app, ok)).statusCode, 200, JSON.stringify(ok).slice(0, 60))
    t.equal((await chat(app, tooMuch)).statusCode, 400, JSON.stringify(tooMuch).slice(0, 60))
  }
})

function nest(levels: number): object {
  return levels === 0 ? {} : { a: nest(levels - 1) }
}

t.test('a body over the limit is 413, one at the limit passes', async (t) => {
  const app = await startApp(t)
  const overhead = Buffer.byteLength(JSON.stringify(chatBody({ user: undefined, messages: [{ role: 'user', content: '' }] })))
  const sized = (bytes: number) => ({ messages: [{ role: 'user', content: 'x'.repeat(bytes - overhead) }] })
  t.equal((await chat(app, sized(2 ** 20))).statusCode, 200)
  const response = await chat(app, sized(2 ** 20 + 1))
  t.equal(response.statusCode, 413)
  t.equal(response.json().error.code, 'request_too_large')
})

t.test('only application/json is a body', async (t) => {
  const app = await startApp(t)
  const types = [
    'text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'application/jsonp', 'text/json',
    'application/json\ta', 'application/xml', '',
  ]
  for (const type of types) {
    const response = await post(app, '/v1/chat/completions', JSON.stringify(chatBody()), { headers: { 'content-type': type } })
    t.ok([400, 415].includes(response.statusCode), `${type}: ${response.statusCode}`)
    t.match(response.json().error, { type: 'invalid_request_error', code: String, message: String })
  }
  for (const type of ['application/json; charset=utf-8', 'Application/JSON']) {
    t.equal(
      (await post(app, '/v1/chat/completions', JSON.stringify(chatBody()), { headers: { 'content-type': type } })).statusCode, 200, type,
    )
  }
  t.equal(app.engine.requests.length, 2)
})

t.test('bytes that are not UTF-8 are refused', async (t) => {
  const app = await startApp(t)
  const body = Buffer.concat([
    Buffer.from('{"model":"fake","messages":[{"role":"user","content":"'), Buffer.from([0xff, 0xc3]), Buffer.from('"}]}'),
  ])
  const response = await post(app, '/v1/chat/completions', body as unknown as string)
  t.same([response.statusCode, response.json().error.code], [400, 'invalid_utf8'])
})

t.test('an unknown path is 404, a wrong method 405 with Allow, both in OpenAI\'s shape', async (t) => {
  const app = await startApp(t)
  const missing = await app.server.inject('/v1/nothing')
  t.same([missing.statusCode, missing.json().error.code, missing.json().error.type], [404, 'unknown_url', 'invalid_request_error'])
  for (const [method, url] of [
    ['DELETE', '/v1/chat/completions'], ['GET', '/v1/completions'], ['POST', '/v1/models'], ['PUT', '/v1/models/fake'],
  ] as const) {
    const response = await app.server.inject({ method, url })
    t.equal(response.statusCode, 405, `${method} ${url}`)
    t.ok(response.headers.allow, 'says what is allowed')
    t.equal(response.json().error.code, 'method_not_allowed')
  }
  t.equal((await app.server.inject('/%zz')).statusCode, 400)
})

t.test('a deep or poisoned field that nobody reads passes as data', async (t) => {
  const app = await startApp(t)
  t.equal((await chat(app, { metadata: { constructor: 'x', prototype: 1 } })).statusCode, 200)
  t.equal((await complete(app, { prompt: '{"__proto__": [[[[' })).statusCode, 200)
})
