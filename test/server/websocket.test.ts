import { once } from 'node:events'
import t, { type Test } from 'tap'
import { WebSocket } from 'undici'
import { createKey, KeyStore } from '../../server/keys.js'
import { BAD_CHATS } from './bad-requests.js'
import { chat, chatBody, listen, startApp, until, type Harness } from './harness.js'

/** A client that keeps every message. */
class Client {
  readonly socket: WebSocket
  readonly messages: any[] = []
  closeCode: number | undefined

  constructor(url: string, protocols: string[] = []) {
    this.socket = new WebSocket(url, protocols)
    this.socket.addEventListener('message', ({ data }) => this.messages.push(JSON.parse(String(data))))
    this.socket.addEventListener('close', ({ code }) => (this.closeCode = code))
    this.socket.addEventListener('error', () => {})
  }

  async open(): Promise<this> {
    await until(() => this.socket.readyState === 1 || this.closeCode !== undefined, 'open')
    return this
  }

  send(message: object | string): void {
    this.socket.send(typeof message === 'string' ? message : JSON.stringify(message))
  }

  async next(predicate: (message: any) => boolean): Promise<any> {
    await until(() => this.messages.some(predicate), 'the message')
    return this.messages.find(predicate)
  }

  text(id: string): string {
    const own = this.messages.filter((message) => message.type === 'chunk' && message.id === id)
    return own.map((message) => message.chunk.choices[0]?.delta.content ?? '').join('')
  }
}

async function connect(t: Test, app: Harness, protocols?: string[]): Promise<Client> {
  const url = (await listen(app)).replace('http', 'ws')
  const client = new Client(`${url}/v1/chat/completions`, protocols)
  t.teardown(() => client.socket.close())
  return client.open()
}

t.test('many chats on one socket are told apart by id, and equal what HTTP streams', async (t) => {
  const app = await startApp(t, { script: { delayMs: 1 } })
  const client = await connect(t, app)
  for (let i = 0; i < 20; i++) {
    client.send({ ...(i % 2 === 0 && { type: 'request' }), id: `c${i}`, ...chatBody({ stream_options: { include_usage: true } }) })
  }
  await until(() => client.messages.filter(({ type }) => type === 'done').length === 20, 'all done')
  for (let i = 0; i < 20; i++) t.equal(client.text(`c${i}`), 'Hello, world!')
  const chunks = client.messages.filter(({ type, id }) => type === 'chunk' && id === 'c3').map(({ chunk }) => chunk)
  t.same(chunks[0].choices[0].delta, { role: 'assistant', content: '', refusal: null })
  t.equal(chunks.at(-2).choices[0].finish_reason, 'stop')
  t.same([chunks.at(-1).choices, chunks.at(-1).usage.total_tokens], [[], 8])
  const own = client.messages.filter(({ id }) => id === 'c3')
  t.equal(own.at(-1).type, 'done')
  t.equal(app.context.active.size, 0)
})

t.test('cancel stops one chat and leaves the others', async (t) => {
  const app = await startApp(t, { script: { delayMs: 2, reply: ({ maxTokens }) => Array<string>(maxTokens ?? 10_000).fill('x') } })
  const client = await connect(t, app)
  client.send({ id: 'long', ...chatBody() })
  client.send({ id: 'short', ...chatBody({ max_tokens: 30 }) })
  await client.next(({ type, id }) => type === 'chunk' && id === 'long')
  client.send({ type: 'cancel', id: 'long' })
  t.match(await client.next(({ type }) => type === 'error'), {
    id: 'long', error: { code: 'request_cancelled', type: String, param: null },
  })
  await client.next(({ type, id }) => type === 'done' && id === 'short')
  t.equal(client.text('short').length, 30)
  t.equal(app.engine.active, 0)
  client.send({ type: 'cancel', id: 'long' })
  await client.next(({ error }) => error?.code === 'unknown_id')
  client.send({ id: 'long', ...chatBody({ max_tokens: 1 }) })
  await client.next(({ type, id }) => type === 'done' && id === 'long')
})

t.test('ping is answered by pong', async (t) => {
  const client = await connect(t, await startApp(t))
  client.send({ type: 'ping' })
  t.same(await client.next(() => true), { type: 'pong' })
})

t.test('a socket that closes aborts every chat on it', async (t) => {
  const app = await startApp(t, { script: { delayMs: 2, reply: () => Array<string>(10_000).fill('x') } })
  const client = await connect(t, app)
  for (const id of ['a', 'b', 'c']) client.send({ id, ...chatBody() })
  await until(() => app.engine.active === 3, 'running')
  client.socket.close()
  await until(() => app.engine.active === 0 && app.context.active.size === 0, 'aborted')
  t.equal(app.engine.aborted, 3)
})

t.test('malformed messages are answered by an error of their id, the same as over HTTP, and the socket lives', async (t) => {
  const app = await startApp(t)
  const client = await connect(t, app)
  // Over a socket every chat streams, so that stream_options is always in place.
  const bodies = BAD_CHATS.filter(
    ({ name, body }) => typeof body === 'object' && !name.startsWith('stream_options: {') && JSON.stringify(body).length < 60_000,
  )
  for (const [i, { body }] of bodies.entries()) client.send({ ...(body as object), id: `bad${i}` })
  await until(() => client.messages.length === bodies.length, 'all answered')
  for (const [i, { name, code, param }] of bodies.entries()) {
    const message = client.messages.find(
      ({ id, error }) => id === `bad${i}` || (id === null && error.param === param && error.code === code),
    )
    t.match(message?.error, { code, param }, name)
  }
  t.ok(bodies.length > 100)
  t.equal(app.engine.requests.length, 0)
  client.messages.length = 0
  const frames: Array<[frame: string, code: string]> = [
    ['', 'invalid_json'], ['hello', 'invalid_json'], ['[]', 'invalid_message'], ['null', 'invalid_message'], ['{}', 'invalid_type'],
    ['{"id": 5}', 'invalid_type'], ['{"id": ""}', 'invalid_type'], [`{"id": "${'x'.repeat(129)}"}`, 'invalid_type'],
    ['{"__proto__": {}, "id": "a"}', 'invalid_json'],
    ['['.repeat(40_000), 'json_too_deep'], ['{"id": "a", "type": "what"}', 'invalid_value'], ['{"type": "cancel"}', 'invalid_type'],
  ]
  for (const [frame] of frames) client.send(frame)
  await until(() => client.messages.length === frames.length, 'all answered')
  t.same(client.messages.map(({ error }) => error.code), frames.map(([, code]) => code))
  client.socket.send(new Uint8Array([1, 2, 3]))
  await client.next(({ error }) => /text frames/.test(error.message))
  client.send({ id: 'ok', ...chatBody() })
  await client.next(({ type }) => type === 'done')
})

t.test('an id in flight cannot be used twice', async (t) => {
  const app = await startApp(t, { script: { delayMs: 5 } })
  const client = await connect(t, app)
  client.send({ id: 'a', ...chatBody() })
  client.send({ id: 'a', ...chatBody() })
  t.match(await client.next(({ type }) => type === 'error'), { id: 'a', error: { code: 'id_in_use', param: 'id' } })
  await client.next(({ type }) => type === 'done')
})

t.test('a socket carries 64 chats, not 65', async (t) => {
  const app = await startApp(t, { script: { delayMs: 20 } })
  const client = await connect(t, app)
  for (let i = 0; i < 65; i++) client.send({ id: `${i}`, ...chatBody() })
  t.match(await client.next(({ type }) => type === 'error'), { id: '64', error: { code: 'too_many_requests' } })
  await until(() => client.messages.filter(({ type }) => type === 'done').length === 64, 'the others are done')
})

t.test('a frame over 64 KiB closes the socket with 1009', async (t) => {
  const app = await startApp(t)
  const client = await connect(t, app)
  client.send('x'.repeat(64 * 1024 + 1))
  await until(() => client.closeCode !== undefined, 'closed')
  t.equal(client.closeCode, 1009)
  t.equal((await chat(app)).statusCode, 200)
})

t.test('an engine error of one chat is told to it alone', async (t) => {
  const app = await startApp(t)
  app.engine.script = { reply: () => { throw new Error('secret') } }
  const client = await connect(t, app)
  client.send({ id: 'a', ...chatBody() })
  const message = await client.next(({ type }) => type === 'error')
  t.match(message, { id: 'a', error: { code: 'internal_error', type: 'server_error' } })
  t.notMatch(JSON.stringify(client.messages), /secret/)
  client.send({ type: 'ping' })
  await client.next(({ type }) => type === 'pong')
})

t.test('while draining, idle sockets close with 1001 at once and busy ones after their last chat', async (t) => {
  const app = await startApp(t, { script: { delayMs: 20 } })
  const busy = await connect(t, app)
  const idle = await new Client(busy.socket.url).open()
  busy.send({ id: 'a', ...chatBody() })
  await until(() => app.engine.active === 1, 'running')
  app.backend.startDraining()
  app.context.sockets.drain()
  await until(() => idle.closeCode !== undefined, 'closed')
  t.equal(idle.closeCode, 1001)
  busy.send({ id: 'b', ...chatBody() })
  t.match(await busy.next(({ id }) => id === 'b'), { type: 'error', error: { code: 'engine_unavailable' } })
  await until(() => busy.closeCode !== undefined, 'closed')
  t.equal(busy.closeCode, 1001)
  t.equal(busy.messages.at(-1).type, 'done')
  t.equal(busy.text('a'), 'Hello, world!')
})

t.test('a client that misses two pings is dropped', async (t) => {
  const app = await startApp(t, { flags: ['--ws-ping', '30ms'], script: { delayMs: 5, reply: () => Array<string>(10_000).fill('x') } })
  const { createConnection } = await import('node:net')
  const { port } = new URL(await listen(app))
  const socket = createConnection(Number(port), '127.0.0.1')
  const head = [
    'GET /v1/chat/completions HTTP/1.1', 'Host: localhost', 'Upgrade: websocket', 'Connection: Upgrade', 'Sec-WebSocket-Version: 13',
    'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==',
  ]
  socket.write(`${head.join('\r\n')}\r\n\r\n`)
  socket.resume()
  await once(socket, 'close')
  await until(() => app.context.sockets.size === 0, 'gone')
  t.match(await app.context.metrics.registry.metrics(), /lorikeet_websocket_connections 0/)
})

t.test('GET without an upgrade says how', async (t) => {
  const app = await startApp(t)
  const response = await app.server.inject('/v1/chat/completions')
  t.same([response.statusCode, response.json().error.code], [426, 'upgrade_required'])
})

t.test('a browser may name its key as a subprotocol; without a key there is no socket', async (t) => {
  const path = `${t.testdir({})}/keys.json`
  const { secret } = createKey(path, { name: 'web', scopes: ['infer'] })
  const app = await startApp(t, { keys: new KeyStore(path) })
  const client = await connect(t, app, ['lorikeet', `openai-insecure-api-key.${secret}`])
  client.send({ id: 'a', ...chatBody() })
  await client.next(({ type }) => type === 'done')
  t.equal(client.socket.protocol, 'lorikeet')
  const stranger = await new Client(client.socket.url).open()
  t.equal(stranger.closeCode, 1006)
})
