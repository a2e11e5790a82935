import { request as httpRequest, type ClientRequest } from 'node:http'
import { connect } from 'node:net'
import t from 'tap'
import { chatBody, completionBody, listen, startApp, until } from './harness.js'

const LONG = { delayMs: 5, reply: () => Array<string>(10_000).fill('x') }

/** Sends a request and resolves once it is in the engine; destroying it is leaving. */
function open(url: string, path: string, body: object): ClientRequest {
  const request = httpRequest(`${url}${path}`, { method: 'POST', headers: { 'content-type': 'application/json' } })
  request.on('error', () => {})
  request.on('response', (response) => response.resume().on('error', () => {}))
  request.end(JSON.stringify(body))
  return request
}

t.test('a client that leaves ends its generation at once: streams and plain answers, both routes', async (t) => {
  const app = await startApp(t, { script: LONG })
  const url = await listen(app)
  for (const stream of [true, false]) {
    for (const [path, body] of [
      ['/v1/chat/completions', chatBody({ stream })], ['/v1/completions', completionBody({ stream, max_tokens: 9_999 })],
    ] as const) {
      const client = open(url, path, body)
      await until(() => app.engine.active === 1 && app.engine.tokens > 0, 'running')
      const before = performance.now()
      client.destroy()
      await until(() => app.engine.active === 0, 'aborted')
      t.ok(performance.now() - before < 250, `${path} stream=${stream}`)
      await until(() => app.context.active.size === 0 && app.context.gate.inFlight === 0, 'nothing left')
      app.engine.tokens = 0
    }
  }
  t.equal(app.engine.aborted, 4)
  t.match(await app.context.metrics.registry.metrics(), /lorikeet_requests_aborted_total\{reason="client_left"\} 4/)
})

t.test('every prompt of a completions request is aborted with it', async (t) => {
  const app = await startApp(t, { script: LONG })
  const url = await listen(app)
  const client = open(url, '/v1/completions', completionBody({ prompt: ['a', 'b', 'c'], max_tokens: 9_999, stream: true }))
  await until(() => app.engine.active === 3, 'running')
  client.destroy()
  await until(() => app.engine.active === 0, 'aborted')
  t.equal(app.engine.aborted, 3)
})

t.test('300 clients that leave at random leave nothing behind', async (t) => {
  const app = await startApp(t, { script: { delayMs: 1, reply: () => Array<string>(50).fill('x') }, flags: ['--max-num-seqs', '256'] })
  const url = await listen(app)
  let seed = 1
  const random = () => (seed = (seed * 48_271) % 2_147_483_647) / 2_147_483_647
  const drop = async (i: number) => {
    const client = open(url, '/v1/chat/completions', chatBody({ stream: i % 2 === 0 }))
    await new Promise((resolve) => setTimeout(resolve, random() * 60))
    client.destroy()
  }
  for (let round = 0; round < 6; round++) await Promise.all(Array.from({ length: 50 }, (_, i) => drop(i)))
  await until(() => app.engine.active === 0 && app.context.active.size === 0 && app.context.gate.inFlight === 0, 'nothing left')
  t.equal(app.engine.active, 0)
})

t.test('a request that takes too long is ended and told so', async (t) => {
  const app = await startApp(t, { script: LONG, flags: ['--request-timeout', '60ms'] })
  const plain = await app.server.inject({ method: 'POST', url: '/v1/chat/completions', payload: chatBody() })
  t.same([plain.statusCode, plain.json().error.code], [504, 'request_timeout'])
  const stream = await app.server.inject({ method: 'POST', url: '/v1/chat/completions', payload: chatBody({ stream: true }) })
  t.match(stream.body, /"code":"request_timeout"\}\}\n\n$/)
  await until(() => app.engine.active === 0, 'aborted')
})

t.test('a reader that does not read is paused, then cut, and others do not notice', async (t) => {
  const reply = () => Array<string>(4_000).fill('y'.repeat(16_000))
  const app = await startApp(t, { script: { reply }, flags: ['--slow-reader-timeout', '150ms'] })
  const { port } = new URL(await listen(app))
  const body = JSON.stringify(chatBody({ stream: true }))
  const slow = connect(Number(port), '127.0.0.1')
  slow.on('error', () => {})
  slow.pause()
  const head = ['POST /v1/chat/completions HTTP/1.1', 'Host: localhost', 'Content-Type: application/json', `Content-Length: ${body.length}`]
  slow.write(`${head.join('\r\n')}\r\n\r\n${body}`)
  await until(() => app.engine.active === 1, 'running')
  let tokens = -1
  await until(() => tokens === (tokens = app.engine.tokens), 'paused')
  t.ok(tokens < 4_000, `paused after ${tokens} tokens`)
  app.engine.script = {}
  const good = await app.server.inject({ method: 'POST', url: '/v1/chat/completions', payload: chatBody() })
  t.equal(good.statusCode, 200)
  await until(() => app.engine.active === 0, 'cut')
  const metrics = await app.context.metrics.registry.metrics()
  t.match(metrics, /lorikeet_slow_readers_cut_total 1/)
  t.match(metrics, /lorikeet_requests_aborted_total\{reason="slow_reader"\} 1/)
  slow.destroy()
})

t.test('bytes that are no HTTP are answered in OpenAI\'s shape and end nothing', async (t) => {
  const app = await startApp(t)
  const { port } = new URL(await listen(app))
  const send = (bytes: string) =>
    new Promise<string>((resolve) => {
      let answer = ''
      const socket = connect(Number(port), '127.0.0.1', () => socket.write(bytes))
      socket.on('data', (data) => (answer += data)).on('close', () => resolve(answer)).on('error', () => {})
    })
  t.match(await send('GARBAGE\r\n\r\n'), /^HTTP\/1\.1 400 [^]*"code":"malformed_http"/)
  t.match(
    await send(`GET / HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`), /^HTTP\/1\.1 431 [^]*"code":"headers_too_large"/,
  )
  const twoLengths = 'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n'
  t.match(await send(twoLengths), /^HTTP\/1\.1 400/)
  t.equal((await app.server.inject('/livez')).statusCode, 200)
})
