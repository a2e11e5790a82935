import { readFileSync, statSync, writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { WebSocket } from 'undici'
import type { InjectOptions } from 'fastify'
import { createKey, KeyStore, revokeKey, SCOPES, type NewKey } from '../../server/keys.js'
import { UsageError } from '../../server/settings.js'
import { chatBody, completionBody, listen, startApp, until, type Harness, type HarnessOptions } from './harness.js'

interface Guarded {
  readonly app: Harness
  readonly path: string
  readonly add: (fields?: Partial<NewKey>) => string
}

async function guarded(t: Test, options: HarnessOptions = {}): Promise<Guarded> {
  const path = `${t.testdir({})}/keys.json`
  createKey(path, { name: 'first', scopes: ['infer'] })
  const add = (fields: Partial<NewKey> = {}) => createKey(path, { name: 'test', scopes: ['infer'], ...fields }).secret
  const keys = new KeyStore(path)
  t.teardown(() => keys.close())
  return { app: await startApp(t, { ...options, keys }), path, add }
}

/** The key file is read at most twice a second: tests reload it by a store of their own. */
async function reload(t: Test, { path }: Guarded, options: HarnessOptions = {}): Promise<Harness> {
  return startApp(t, { ...options, keys: new KeyStore(path) })
}

const call = (app: Harness, secret: string | undefined, options: InjectOptions) =>
  app.server.inject({
    remoteAddress: '10.0.0.9',
    ...options,
    headers: { ...options.headers, ...(secret !== undefined && { authorization: `Bearer ${secret}` }) },
  })

const chatCall = (app: Harness, secret: string | undefined, fields: object = {}) =>
  call(app, secret, { method: 'POST', url: '/v1/chat/completions', payload: chatBody(fields) })

t.test('every route needs its scope: none, a wrong key, a key without it, a key with it', async (t) => {
  const first = await guarded(t)
  const infer = first.add({ scopes: ['infer'] })
  const metrics = first.add({ scopes: ['metrics'] })
  const admin = first.add({ scopes: ['admin'] })
  const app = await reload(t, first)
  const routes: ReadonlyArray<[InjectOptions, scope: 'infer' | 'metrics' | 'open']> = [
    [{ method: 'POST', url: '/v1/chat/completions', payload: chatBody() }, 'infer'],
    [{ method: 'POST', url: '/v1/completions', payload: completionBody() }, 'infer'],
    [{ url: '/v1/chat/completions' }, 'infer'],
    [{ url: '/v1/models' }, 'infer'],
    [{ url: '/v1/models/fake' }, 'infer'],
    [{ url: '/metrics' }, 'metrics'],
    [{ url: '/livez' }, 'open'],
    [{ url: '/readyz' }, 'open'],
    [{ url: '/startupz' }, 'open'],
    [{ url: '/health' }, 'open'],
    [{ url: '/openapi.json' }, 'open'],
    [{ url: '/docs/' }, 'open'],
  ]
  const wrong = `${infer.slice(0, -1)}${infer.endsWith('A') ? 'B' : 'A'}`
  for (const [route, scope] of routes) {
    const statuses = []
    for (const secret of [undefined, '', 'x', wrong, infer, metrics, admin]) statuses.push((await call(app, secret, route)).statusCode)
    const ok = statuses.at(-1)
    t.ok(ok! < 400 || ok === 426, `${String(route.url)}: ${ok}`)
    const open = scope === 'open'
    t.same(statuses.slice(0, 4), Array(4).fill(open ? ok : 401), `${String(route.url)} without a good key`)
    t.same(
      statuses.slice(4, 6), [open || scope === 'infer' ? ok : 403, open || scope === 'metrics' ? ok : 403], `${String(route.url)} by scope`,
    )
  }
  const { error } = (await chatCall(app, undefined)).json()
  t.match(error, { type: 'authentication_error', code: 'invalid_api_key', param: null, message: String })
  t.match((await call(app, infer, { url: '/metrics' })).json().error, { type: 'permission_error', code: 'insufficient_scope' })
  t.equal((await chatCall(app, undefined)).headers['www-authenticate'], 'Bearer')
})

t.test('a bad body without a key is 401, not a lesson in the schema', async (t) => {
  const { app } = await guarded(t)
  const bad: InjectOptions = { method: 'POST', url: '/v1/chat/completions', payload: '{', headers: { 'content-type': 'application/json' } }
  t.equal((await call(app, undefined, bad)).statusCode, 401)
  t.equal(app.engine.requests.length, 0)
})

t.test('metrics are open to a scraper on the same machine, unless it speaks for another', async (t) => {
  const { app } = await guarded(t)
  t.equal((await app.server.inject({ url: '/metrics', remoteAddress: '127.0.0.1' })).statusCode, 200)
  t.equal((await app.server.inject({ url: '/metrics', remoteAddress: '::ffff:127.0.0.1' })).statusCode, 200)
  const proxied = { url: '/metrics', remoteAddress: '127.0.0.1', headers: { 'x-forwarded-for': '8.8.8.8' } }
  t.equal((await app.server.inject(proxied)).statusCode, 401)
})

t.test('a route that names no scope does not register', async (t) => {
  const app = await startApp(t)
  t.throws(() => app.server.get('/oops', async () => 'x'), /names no scope/)
})

t.test('a key may be bound to models', async (t) => {
  const first = await guarded(t)
  const secret = first.add({ models: ['sql'] })
  const app = await reload(t, first)
  const response = await chatCall(app, secret)
  t.same([response.statusCode, response.json().error.code, response.json().error.param], [403, 'model_not_allowed', 'model'])
  t.same((await call(app, secret, { url: '/v1/models' })).json().data, [])
  const pinned = await chatCall(app, secret, { model: 'sql@abc' })
  t.equal(pinned.json().error.code, 'model_not_found', 'a pinned version of an allowed name gets further')
})

t.test('requests a minute and requests at once are limited by key', async (t) => {
  const first = await guarded(t)
  const rated = first.add({ requestsPerMinute: 2 })
  const narrow = first.add({ maxConcurrent: 1 })
  const app = await reload(t, first, { script: { delayMs: 20 } })
  const statuses = [await chatCall(app, rated), await chatCall(app, rated), await chatCall(app, rated)].map(({ statusCode }) => statusCode)
  t.same(statuses, [200, 200, 429])
  t.ok(Number((await chatCall(app, rated)).headers['retry-after']) >= 1)
  const both = await Promise.all([chatCall(app, narrow), chatCall(app, narrow)])
  t.same(both.map(({ statusCode }) => statusCode).sort(), [200, 429])
  t.equal((await chatCall(app, narrow)).statusCode, 200, 'and it is free again')
})

t.test('an expired key is refused', async (t) => {
  const first = await guarded(t)
  const old = first.add({ expiresAt: '2020-01-01T00:00:00Z' })
  const young = first.add({ expiresAt: '2999-01-01T00:00:00Z' })
  const app = await reload(t, first)
  t.same([(await chatCall(app, old)).statusCode, (await chatCall(app, young)).statusCode], [401, 200])
})

t.test('a revoked key is dead within a second, its streams too', async (t) => {
  const path = `${t.testdir({})}/keys.json`
  const { secret, key } = createKey(path, { name: 'x', scopes: ['infer'] })
  const keys = new KeyStore(path)
  const app = await startApp(t, { keys, script: { delayMs: 5, reply: () => Array<string>(10_000).fill('x') } })
  keys.watch((id) => app.context.active.abortKey(id, 'key_revoked'), (error) => t.fail(String(error)))
  t.teardown(() => keys.close())
  const stream = chatCall(app, secret, { stream: true })
  await until(() => app.engine.active === 1, 'running')
  t.equal(revokeKey(path, key.id), true)
  const before = performance.now()
  t.match((await stream).body, /"code":"invalid_api_key"\}\}\n\n$/)
  t.ok(performance.now() - before < 1_000)
  t.equal((await chatCall(app, secret)).statusCode, 401)
})

t.test('prefix states are never shared between keys', async (t) => {
  const first = await guarded(t)
  const secrets = [first.add(), first.add()]
  const app = await reload(t, first)
  for (const secret of secrets) for (const salt of ['s', undefined]) await chatCall(app, secret, { cache_salt: salt })
  const salts = app.engine.requests.map((request) => request.cacheSalt)
  t.equal(new Set(salts).size, 4)
  t.ok(salts.every((salt) => salt !== undefined))
})

t.test('the file holds hashes, for its owner only, and no secret', async (t) => {
  const path = `${t.testdir({})}/keys.json`
  const { secret } = createKey(path, { name: 'x', scopes: ['infer'] })
  t.match(secret, /^lk_[0-9a-f]{12}_[\w-]{43}$/)
  t.notOk(readFileSync(path, 'utf8').includes(secret.slice(16)))
  t.equal(statSync(path).mode & 0o777, 0o600)
})

t.test('a malformed key file stops the start; one that turns malformed keeps the keys of before', async (t) => {
  const malformed = [
    '', '[]', '{"version":2,"keys":[]}', '{"version":1,"keys":[{"id":"a"}]}',
    '{"version":1,"keys":[{"id":"a","name":"b","sha256":"00","scopes":["infer"]}]}',
  ]
  for (const text of malformed) {
    const path = `${t.testdir({ 'keys.json': text })}/keys.json`
    t.throws(() => new KeyStore(path), UsageError, text)
  }
  t.throws(() => new KeyStore('/nowhere/keys.json'), /lorikeet keys create/)
  const path = `${t.testdir({})}/keys.json`
  const { secret } = createKey(path, { name: 'x', scopes: [...SCOPES] })
  const store = new KeyStore(path)
  let told: unknown
  store.watch(() => t.fail('revoked'), (error) => (told = error))
  writeFileSync(path, 'not json')
  await until(() => told !== undefined, 'told')
  t.ok(store.verify(secret))
  store.close()
})

t.test('on loopback, Host and Origin must be ours: DNS rebinding finds nothing', async (t) => {
  const app = await startApp(t, { flags: ['--allowed-host', 'gpu-box.local', '--cors-origin', 'https://tools.example.com'] })
  const status = async (headers: Record<string, string>) =>
    (await app.server.inject({ method: 'POST', url: '/v1/chat/completions', payload: chatBody(), headers })).statusCode
  for (const host of ['localhost', 'localhost:8000', '127.0.0.1:8000', '[::1]:8000', '127.9.9.9', 'GPU-BOX.local:80']) {
    t.equal(await status({ host }), 200, host)
  }
  for (const host of [
    'evil.com', 'evil.com:8000', 'localhost.evil.com', '127.0.0.1.evil.com', '169.254.169.254', 'localhost@evil.com', '10.0.0.1',
  ]) {
    t.equal(await status({ host }), 403, host)
  }
  for (const origin of ['http://localhost:5173', 'http://127.0.0.1', 'https://tools.example.com']) {
    t.equal(await status({ host: 'localhost', origin }), 200, origin)
  }
  for (const origin of ['https://evil.com', 'null', 'http://localhost.evil.com', 'https://tools.example.com.evil.com', 'garbage']) {
    t.equal(await status({ host: 'localhost', origin }), 403, origin)
  }
  const preflight = await app.server.inject({
    method: 'OPTIONS',
    url: '/v1/chat/completions',
    headers: { host: 'localhost', origin: 'https://tools.example.com', 'access-control-request-method': 'POST' },
  })
  t.equal(preflight.headers['access-control-allow-origin'], 'https://tools.example.com')
  t.equal((await app.server.inject({ url: '/nothing', headers: { host: 'localhost' } })).statusCode, 404)
})

t.test('a WebSocket of a foreign page is refused', async (t) => {
  const app = await startApp(t)
  const url = (await listen(app)).replace('http', 'ws')
  const opens = (origin: string) =>
    new Promise<boolean>((resolve) => {
      const socket = new WebSocket(`${url}/v1/chat/completions`, { headers: { origin } })
      socket.addEventListener('open', () => resolve(socket.close() === undefined))
      socket.addEventListener('close', () => resolve(false))
    })
  t.equal(await opens('https://evil.com'), false)
  t.equal(await opens('http://localhost:3000'), true)
})
