import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { WebSocket } from 'undici'
import { openAdapters } from '../../server/open-adapters.js'
import { loadConfig } from '../../server/config.js'
import { createKey, KeyStore, type NewKey } from '../../server/keys.js'
import { EngineError } from '../../engine/errors.js'
import { peftFolder } from '../unit/adapters-fixtures.js'
import { FakeEngine } from './fake-engine.js'
import { chat, listen, MODEL, post, startApp, until, type HarnessOptions } from './harness.js'

interface AdapterHarnessOptions extends HarnessOptions {
  /** A folder that an earlier server used. */
  readonly root?: string
  readonly key?: Omit<NewKey, 'name'>
}

/** A server over a real store in an empty folder; its engine answers with the version that it was told to apply. */
async function startAdapters(t: Test, options: AdapterHarnessOptions = {}) {
  const root = options.root ?? mkdtempSync(join(tmpdir(), 'lorikeet-routes-'))
  t.teardown(() => rmSync(root, { recursive: true, force: true }))
  const flags = ['--served-model-name', MODEL, '--data-dir', join(root, 'data'), '--adapter-root', root, ...(options.flags ?? [])]
  const engine = options.engine ?? new FakeEngine({ reply: ({ adapter }) => [adapter?.version ?? 'base'] })
  const adapters = await openAdapters(loadConfig(flags, {}), engine)
  const { secret, keys } = options.key === undefined ? { secret: undefined, keys: undefined }
    : makeKey(join(root, 'keys.json'), options.key)
  const app = await startApp(t, { engine, adapters, flags, ...(keys && { keys }) })
  const url = await listen(app)
  const headers: Record<string, string> = secret === undefined ? {} : { authorization: `Bearer ${secret}` }
  const call = async (method: string, path: string, body?: object | FormData) => {
    const isForm = body instanceof FormData
    const init = body === undefined ? {} : { body: isForm ? body : JSON.stringify(body) }
    const type: Record<string, string> = body === undefined || isForm ? {} : { 'content-type': 'application/json' }
    const response = await fetch(url + path, { method, ...init, headers: { ...headers, ...type } })
    const text = await response.text()
    return { status: response.status, text, json: text.startsWith('{') ? JSON.parse(text) : undefined }
  }
  return { root, app, adapters, url, call, engine }
}

function makeKey(path: string, key: Omit<NewKey, 'name'>) {
  const { secret } = createKey(path, { name: 'test', ...key })
  return { secret, keys: new KeyStore(path) }
}

function form(name: string | undefined, content: string, extra: Record<string, string> = {}): FormData {
  const body = new FormData()
  body.append('file', new Blob([content]), 'adapter_model.safetensors')
  body.append('adapter_config.json', new Blob(['{"peft_type":"LORA","r":8}']), 'blob')
  if (name !== undefined) body.append('name', name)
  for (const [field, value] of Object.entries(extra)) body.append(field, value)
  return body
}

const answerOf = async (app: Parameters<typeof chat>[0], model: string) => {
  const response = await chat(app, { model })
  return response.statusCode === 200 ? response.json().choices[0].message.content : response.json().error.code
}

t.test('an uploaded adapter answers by its name at once, mixed with the base', async (t) => {
  const { app, call } = await startAdapters(t)
  const { status, json } = await call('POST', '/admin/adapters', form('sql', 'one'))
  t.equal(status, 201)
  t.match(json, { object: 'adapter.version', name: 'sql', version: /^[0-9a-f]{64}$/, rank: 8, n_tensors: 14, current: true,
    source: 'upload' })
  t.equal(await answerOf(app, 'sql'), json.version)
  t.equal(await answerOf(app, `${MODEL}:sql`), json.version)
  t.equal(await answerOf(app, `sql@${json.version.slice(0, 12)}`), json.version)
  t.equal(await answerOf(app, MODEL), 'base')
  t.equal(await answerOf(app, 'sql2'), 'model_not_found')
  const { json: models } = await call('GET', '/v1/models')
  t.match(models.data, [{ id: MODEL, parent: null }, { id: 'sql', parent: MODEL, root: /adapters\/sql/ }])
})

t.test('a file much larger than a JSON body arrives whole', async (t) => {
  const { call, adapters } = await startAdapters(t)
  const content = 'x'.repeat(5_000_000)
  t.equal((await call('POST', '/admin/adapters', form('sql', content))).status, 201)
  t.equal(await readFile(join(adapters.store.find('sql').path, 'adapter_model.safetensors'), 'utf8'), content)
})

t.test('promote, roll back and delete move what a name answers with', async (t) => {
  const { app, call } = await startAdapters(t)
  const one = (await call('POST', '/admin/adapters', form('sql', 'one'))).json.version
  const two = (await call('POST', '/admin/adapters', form('sql', 'two'))).json.version
  const three = (await call('POST', '/admin/adapters', form('sql', 'three', { promote: 'false' }))).json
  t.equal(three.current, false)
  t.equal(await answerOf(app, 'sql'), two)
  t.match((await call('POST', '/admin/adapters/sql/promote', { version: three.version.slice(0, 8) })).json, { current: three.version })
  t.equal(await answerOf(app, 'sql'), three.version)
  t.match((await call('POST', '/admin/adapters/sql/rollback')).json, { current: two })
  t.match((await call('POST', '/admin/adapters/sql/rollback')).json, { current: one })
  t.match(await call('POST', '/admin/adapters/sql/rollback'), { status: 400, json: { error: { code: 'invalid_value' } } })
  t.match(await call('DELETE', `/admin/adapters/sql/versions/${one}`), { status: 400, json: { error: { param: 'version' } } })
  t.match(await call('DELETE', `/admin/adapters/sql/versions/${two}`), { status: 200, json: { deleted: true } })
  t.match(await call('DELETE', '/admin/adapters/sql'), { status: 200, json: { name: 'sql', deleted: true } })
  t.equal(await answerOf(app, 'sql'), 'model_not_found')
  t.match(await call('GET', '/admin/adapters/sql'), { status: 404, json: { error: { code: 'adapter_not_found' } } })
})

t.test('the list tells tiers, pins and slots', async (t) => {
  const engine = new FakeEngine({ reply: () => ['a', 'b', 'c'], delayMs: 20 }, { maxLoras: 1 })
  const { app, call } = await startAdapters(t, { engine })
  await call('POST', '/admin/adapters', form('a', 'one'))
  await call('POST', '/admin/adapters', form('b', 'two'))
  const running = chat(app, { model: 'a' })
  await until(() => engine.active === 1, 'running')
  const { json } = await call('GET', '/admin/adapters')
  t.match(json, { slots: { total: 1, used: 1, pinned: 1 },
    data: [{ name: 'a', versions: [{ tier: 'device', pins: 1 }] }, { name: 'b', versions: [{ tier: 'disk', pins: 0 }] }] })
  await running
  await chat(app, { model: 'b' })
  t.match((await call('GET', '/admin/adapters')).json.data,
    [{ versions: [{ tier: 'host', pins: 0 }] }, { versions: [{ tier: 'device', pins: 0 }] }])
})

t.test('load and unload speak as vLLM does', async (t) => {
  const { app, call, root } = await startAdapters(t)
  const lora_path = await peftFolder(root, 'one')
  const load = (body: object) => call('POST', '/v1/load_lora_adapter', body)
  t.match(await load({ lora_name: 'sql', lora_path, base_model_name: null }),
    { status: 200, text: "Success: LoRA adapter 'sql' added successfully." })
  t.match(await load({ lora_name: 'sql', lora_path }), { status: 400, json: { error: { message: /has already been loaded/ } } })
  t.equal((await load({ lora_name: 'sql', lora_path, load_inplace: true })).status, 200)
  t.match(await load({ lora_name: 'x', lora_path: join(root, 'none') }), { status: 404 })
  t.match(await load({ lora_name: 'x', lora_path: '/etc' }), { status: 400, json: { error: { param: 'lora_path' } } })
  t.match(await load({ lora_name: '../x', lora_path }), { status: 400, json: { error: { param: 'lora_name' } } })
  t.match(await load({ lora_path }), { status: 400, json: { error: { code: 'missing_required_parameter', param: 'lora_name' } } })
  t.match(await call('POST', '/v1/unload_lora_adapter', { lora_name: 'sql' }),
    { status: 200, text: "Success: LoRA adapter 'sql' removed successfully." })
  t.match(await call('POST', '/v1/unload_lora_adapter', { lora_name: 'sql' }), { status: 404 })
  t.equal(await answerOf(app, 'sql'), 'model_not_found')
  t.equal((await load({ lora_name: 'sql', lora_path })).status, 200)
})

t.test('an unloaded adapter stays unloaded over a restart, with its files, until one of its versions is made current again', async (t) => {
  const first = await startAdapters(t)
  const one = (await first.call('POST', '/admin/adapters', form('sql', 'one'))).json.version
  const two = (await first.call('POST', '/admin/adapters', form('sql', 'two'))).json.version
  await first.call('POST', '/v1/unload_lora_adapter', { lora_name: 'sql' })
  const { app, call } = await startAdapters(t, { root: first.root, flags: ['--adapter-pin', 'sql'] })
  for (const model of ['sql', `sql@${one.slice(0, 8)}`, `${MODEL}:sql`]) t.equal(await answerOf(app, model), 'model_not_found')
  t.same((await call('GET', '/v1/models')).json.data.map(({ id }: { id: string }) => id), [MODEL])
  t.match((await call('GET', '/admin/adapters')).json,
    { slots: { used: 0, pinned: 0 }, data: [{ name: 'sql', served: false, pinned: false, versions: [{ tier: 'disk' }, { tier: 'disk' }] }] })
  t.match((await call('POST', '/admin/adapters', form('sql', 'three', { promote: 'false' }))).json, { current: false })
  t.equal(await answerOf(app, 'sql'), 'model_not_found', 'a version that is not promoted serves nothing')
  t.match((await call('POST', '/admin/adapters/sql/promote', { version: two })).json, { served: true, pinned: true, current: two })
  t.equal(await answerOf(app, 'sql'), two)
  await call('POST', '/v1/unload_lora_adapter', { lora_name: 'sql' })
  t.match((await call('GET', '/admin/adapters')).json, { slots: { used: 0, pinned: 0 } })
  t.match((await call('POST', '/admin/adapters/sql/rollback')).json, { served: true, pinned: true, current: one })
  t.equal(await answerOf(app, 'sql'), one)
  const again = await startAdapters(t, { root: first.root, flags: ['--adapter', `sql=${await peftFolder(first.root, 'four')}`] })
  t.equal((await again.call('GET', '/v1/models')).json.data.length, 2, 'the command line loads it again, as --lora-modules does')
})

t.test('a bad upload is named, publishes nothing and leaves nothing behind', async (t) => {
  const engine = new FakeEngine()
  engine.validateAdapter = async () => { throw new EngineError('ADAPTER_INVALID', 'shape: lora_A has 5 rows') }
  const { call, root, url } = await startAdapters(t, { engine })
  t.match(await call('POST', '/admin/adapters', form('sql', 'one')),
    { status: 400, json: { error: { code: 'adapter_invalid', message: /^shape/ } } })
  t.match(await call('POST', '/admin/adapters', form(undefined, 'one')), { status: 400, json: { error: { param: 'name' } } })
  t.match(await call('POST', '/admin/adapters', form('../sql', 'one')), { status: 400, json: { error: { param: 'name' } } })
  t.match(await call('POST', '/admin/adapters', form(MODEL, 'one')), { status: 400, json: { error: { code: 'adapter_exists' } } })
  const half = new FormData()
  half.append('name', 'sql')
  t.match(await call('POST', '/admin/adapters', half), { status: 400, json: { error: { message: /missing file/ } } })
  half.append('f', new Blob(['x']), 'adapter_model.bin')
  t.match(await call('POST', '/admin/adapters', half), { status: 400, json: { error: { message: /unsupported format/ } } })
  t.match(await call('POST', '/admin/adapters', { name: 'sql' }), { status: 415 })
  await cutUpload(url)
  await until(() => readdirSync(join(root, 'data', 'adapters')).length === 0, 'the folder of the upload that was cut is gone')
})

/** Begins an upload and hangs up in the middle of a file. */
async function cutUpload(url: string): Promise<void> {
  const head = ['--b', 'content-disposition: form-data; name="f"; filename="adapter_model.safetensors"', '',
    'x'.repeat(10_000)].join('\r\n')
  const socket = createConnection(Number(new URL(url).port), '127.0.0.1')
  await new Promise<void>((resolve) => {
    const headers = ['host: 127.0.0.1', 'content-type: multipart/form-data; boundary=b', 'content-length: 100000']
    socket.write(['POST /admin/adapters HTTP/1.1', ...headers, '', head].join('\r\n'))
    setTimeout(() => socket.destroy(), 50)
    socket.on('close', () => resolve())
  })
}

t.test('reading and changing adapters need their scopes, and a key bound to models sees only those', async (t) => {
  const reader = await startAdapters(t, { key: { scopes: ['adapters:read'] } })
  t.equal((await reader.call('GET', '/admin/adapters')).status, 200)
  for (const [method, path, body] of [
    ['POST', '/admin/adapters', form('a', 'one')], ['DELETE', '/admin/adapters/a', undefined],
      ['POST', '/admin/adapters/a/rollback', undefined],
    ['POST', '/admin/adapters/a/promote', { version: 'abcd' }], ['POST', '/v1/load_lora_adapter', { lora_name: 'a', lora_path: 'a' }],
    ['POST', '/v1/unload_lora_adapter', { lora_name: 'a' }], ['DELETE', '/admin/adapters/a/versions/abcd', undefined],
  ] as const) t.match(await reader.call(method, path, body), { status: 403, json: { error: { code: 'insufficient_scope' } } },
    `${method} ${path}`)

  const tenant = await startAdapters(t, { key: { scopes: ['adapters:read', 'adapters:write'], models: ['mine'] } })
  await tenant.adapters.publishFolder('theirs', await peftFolder(tenant.root, 'theirs'), true)
  t.equal((await tenant.call('POST', '/admin/adapters', form('mine', 'one'))).status, 201)
  t.match(await tenant.call('POST', '/admin/adapters', form('theirs', 'one')),
    { status: 403, json: { error: { code: 'model_not_allowed' } } })
  t.match(await tenant.call('DELETE', '/admin/adapters/theirs'), { status: 403 })
  t.same((await tenant.call('GET', '/admin/adapters')).json.data.map(({ name }: { name: string }) => name), ['mine'])
})

t.test('with every slot held the next adapter gets 429 with Retry-After', async (t) => {
  const engine = new FakeEngine({ reply: () => Array(50).fill('x'), delayMs: 10 }, { maxLoras: 1 })
  const { app, call } = await startAdapters(t, { engine, flags: ['--adapter-wait', '50ms'] })
  await call('POST', '/admin/adapters', form('a', 'one'))
  await call('POST', '/admin/adapters', form('b', 'two'))
  const running = chat(app, { model: 'a' })
  await until(() => engine.active === 1, 'running')
  const refused = await chat(app, { model: 'b' })
  t.equal(refused.statusCode, 429)
  t.equal(refused.json().error.code, 'adapter_slots_busy')
  t.equal(refused.headers['retry-after'], '1')
  t.equal((await running).statusCode, 200)
})

t.test('a request says by field or header that it does not wait for a load, and its socket too', async (t) => {
  const engine = new FakeEngine({ reply: ({ adapter }) => [adapter?.version ?? 'base'] }, { maxLoras: 1 })
  const { app, call, url } = await startAdapters(t, { engine })
  for (const name of ['a', 'b']) await call('POST', '/admin/adapters', form(name, name))
  t.equal((await chat(app, { model: 'a' })).statusCode, 200)
  const send = (path: string, body: object, miss?: string) => fetch(url + path, {
    method: 'POST', body: JSON.stringify(body),
    headers: { 'content-type': 'application/json', ...(miss && { 'x-lorikeet-adapter-miss': miss }) },
  })
  const completion = { model: 'b', prompt: 'x' }
  const question = { model: 'b', messages: [{ role: 'user', content: 'x' }] }
  for (const [path, body, header] of [
    ['/v1/completions', { ...completion, adapter_miss: 'error' }], ['/v1/completions', completion, 'error'],
    ['/v1/chat/completions', { ...question, adapter_miss: 'error' }], ['/v1/chat/completions', { ...question, stream: true }, 'error'],
    ['/v1/chat/completions', { ...question, adapter_miss: 'error' }, 'wait'],
  ] as const) {
    const response = await send(path, body, header)
    t.match([response.status, await response.json()], [404, { error: { code: 'adapter_not_found', param: 'model' } }], `${path} ${header}`)
  }
  t.match((await call('GET', '/admin/adapters')).json.data, [{ versions: [{ tier: 'device' }] }, { versions: [{ tier: 'disk' }] }])
  t.equal((await send('/v1/completions', { ...completion, adapter_miss: 'always' })).status, 400)
  t.match(await (await send('/v1/completions', completion, 'always')).json(), { error: { param: 'x-lorikeet-adapter-miss' } })
  t.match(await firstMessage(url, { id: '1', ...question, adapter_miss: 'error' }),
    { type: 'error', id: '1', error: { code: 'adapter_not_found' } })
  t.equal((await send('/v1/completions', { ...completion, adapter_miss: null })).status, 200, 'the server waits unless told otherwise')
  t.equal((await send('/v1/completions', completion, 'error')).status, 200, 'a resident adapter is no miss')
  t.equal((await send('/v1/completions', { ...completion, model: 'nobody', adapter_miss: 'wait' })).status, 404)

  const strict = await startAdapters(t, { flags: ['--adapter-miss', 'error'] })
  await strict.call('POST', '/admin/adapters', form('a', 'a'))
  t.equal(await answerOf(strict.app, 'a'), 'adapter_not_found')
  t.equal((await chat(strict.app, { model: 'a', adapter_miss: 'wait' })).statusCode, 200)
})

/** What a WebSocket answers first. */
async function firstMessage(url: string, message: object): Promise<unknown> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/chat/completions`)
  socket.addEventListener('open', () => socket.send(JSON.stringify(message)))
  const data = await new Promise((resolve) => socket.addEventListener('message', (event) => resolve(event.data)))
  socket.close()
  return JSON.parse(String(data))
}

t.test('requests that wait for a slot are waiting requests, their adapters waiting adapters', async (t) => {
  const engine = new FakeEngine({ reply: () => Array(60).fill('x'), delayMs: 10 }, { maxLoras: 1 })
  const { app, call } = await startAdapters(t, { engine })
  for (const name of ['a', 'b', 'c']) await call('POST', '/admin/adapters', form(name, name))
  const base = await engine.stats()
  engine.stats = async () => ({ ...base, runningSlots: [0] })
  const running = chat(app, { model: 'a' })
  await until(() => engine.active === 1, 'running')
  const waiting = ['c', 'b', 'b'].map((model) => chat(app, { model }))
  await until(() => app.backend.adapters().waiting().size === 2, 'waiting')
  const { body } = await app.server.inject({ url: '/metrics' })
  t.match(body, 'vllm:lora_requests_info{max_lora="1",running_lora_adapters="a",waiting_lora_adapters="b,c"}')
  t.match(body, 'vllm:num_requests_waiting{model_name="fake",engine="0"} 3')
  t.match(body, 'vllm:num_requests_waiting_by_reason{model_name="fake",engine="0",reason="deferred"} 3')
  for (const answer of await Promise.all([running, ...waiting])) t.equal(answer.statusCode, 200)
  t.match((await app.server.inject({ url: '/metrics' })).body, 'waiting_lora_adapters=""')
})

t.test('metrics show where adapters are and what moving them cost', async (t) => {
  const { app, call } = await startAdapters(t)
  await call('POST', '/admin/adapters', form('sql', 'one'))
  await chat(app, { model: 'sql' })
  await chat(app, { model: 'sql' })
  const { body } = await app.server.inject({ url: '/metrics' })
  for (const line of [
    'lorikeet_adapters_stored 1', 'lorikeet_adapters_resident{tier="device"} 1', 'lorikeet_adapters_resident{tier="host"} 1',
      'lorikeet_adapter_loads_total 1',
    'lorikeet_adapter_hits_total{tier="device"} 1', 'lorikeet_adapter_misses_total{tier="device"} 1', 'lorikeet_adapter_pins 0',
    'lorikeet_adapter_resident_bytes{tier="device"} 1024', 'lorikeet_adapter_load_seconds_count{from="disk"} 1',
  ]) t.ok(body.includes(`${line}\n`), line)
})

t.test('latencies are told by adapter for the most used ones, whatever spelling a request uses, and together for the rest', async (t) => {
  const { app, call } = await startAdapters(t, { flags: ['--metrics-adapters', '2'] })
  const { version } = (await call('POST', '/admin/adapters', form('a', 'one'))).json
  for (const name of ['b', 'c', 'd']) await call('POST', '/admin/adapters', form(name, name))
  for (const model of ['a', `a@${version.slice(0, 8)}`, `${MODEL}:a`, MODEL, 'b', 'c', 'd', 'd', 'nobody']) await chat(app, { model })
  const series = async (name: string) => {
    const { body } = await app.server.inject({ url: '/metrics' })
    const counts = body.matchAll(new RegExp(`^lorikeet_adapter_${name}_count{adapter="(.*)"} (.*)$`, 'gm'))
    return Object.fromEntries([...counts].map(([, adapter, n]) => [adapter, Number(n)]))
  }
  t.same(await series('time_to_first_token_seconds'), { a: 3, other: 2, d: 1 }, 'the second d takes the place of b')
  for (let i = 0; i < 20; i++) {
    await call('POST', '/admin/adapters', form(`many-${i}`, `many-${i}`))
    for (let uses = 0; uses < 2 + i / 2; uses++) await chat(app, { model: `many-${i}` })
  }
  const names = Object.keys(await series('time_to_first_token_seconds'))
  t.ok(names.length <= 3 && names.includes('other'), `${names} after 24 adapters`)
})

t.test('adapters of the command line are published, resident, and kept when pinned', async (t) => {
  const root = mkdtempSync(join(tmpdir(), 'lorikeet-start-'))
  t.teardown(() => rmSync(root, { recursive: true, force: true }))
  const [a, b] = [await peftFolder(root, 'a'), await peftFolder(root, 'b')]
  const { adapters } = await startAdapters(t, { flags: ['--adapter', `first=${a}`, '--adapter', `second=${b}`, '--adapter-pin', 'second'] })
  t.match(adapters.statuses(), [{ name: 'first', pinned: false, versions: [{ tier: 'device' }] },
    { name: 'second', pinned: true, versions: [{ tier: 'device', pins: 1 }] }])
  await t.rejects(startAdapters(t, { flags: ['--adapter', `../x=${a}`] }), { code: 'INVALID_REQUEST' })
  await t.rejects(startAdapters(t, { flags: ['--adapter', `x=${join(root, 'none')}`] }), { code: 'ADAPTER_NOT_FOUND' })
})

t.test('a server without adapters says so', async (t) => {
  const app = await startApp(t)
  t.equal((await post(app, '/v1/unload_lora_adapter', { lora_name: 'x' })).json().error.code, 'unsupported')
  t.equal((await app.server.inject({ url: '/admin/adapters' })).statusCode, 400)
})
