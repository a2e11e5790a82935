// A real server, real engine: one answer whatever the way it takes, nothing left behind, alive when the engine is not.

import { request as httpRequest } from 'node:http'
import t, { type Test } from 'tap'
import { WebSocket } from 'undici'
import type { SaidToken } from '../../scripts/same-answer.js'
import { HTTP_PROOF, nApart, sameAnswers } from '../device.js'
import { eventually, saidBy, sleep, startServer, type ServerProcess } from './server-process.js'

interface Ask {
  readonly content: string
  readonly [field: string]: unknown
}

/** Answers are compared by their tokens. */
const body = ({ model }: ServerProcess, { content, ...fields }: Ask) =>
  ({ model, messages: [{ role: 'user', content }], max_tokens: 24, ignore_eos: true, return_token_ids: true, ...HTTP_PROOF, ...fields })

const post = (server: ServerProcess, ask: Ask) =>
  fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body(server, ask)),
  })

async function plain(server: ServerProcess, ask: Ask): Promise<SaidToken[]> {
  const { choices } = (await (await post(server, ask)).json()) as any
  return saidBy(choices[0])
}

/** The tokens of a stream; the code of the error that broke it off, if one did. */
async function streamed(server: ServerProcess, ask: Ask): Promise<SaidToken[]> {
  const text = await (await post(server, { ...ask, stream: true })).text()
  const events = text.split('\n\n').filter((event) => event.startsWith('data: {')).map((event) => JSON.parse(event.slice('data: '.length)))
  return events.flatMap((event) => (event.error ? [{ token: event.error.code }] : saidBy(event.choices[0])))
}

async function overSocket(server: ServerProcess, asks: readonly Ask[]): Promise<SaidToken[][]> {
  const socket = new WebSocket(`${server.url.replace('http', 'ws')}/v1/chat/completions`)
  const answers: SaidToken[][] = asks.map(() => [])
  await new Promise<void>((resolve, reject) => {
    let open = asks.length
    socket.addEventListener('open', () => asks.forEach((ask, i) => socket.send(JSON.stringify({ id: String(i), ...body(server, ask) }))))
    socket.addEventListener('close', () => reject(new Error('closed')))
    socket.addEventListener('message', ({ data }) => {
      const message = JSON.parse(String(data))
      if (message.type === 'chunk') answers[Number(message.id)]!.push(...saidBy(message.chunk.choices[0]))
      else if (--open === 0) resolve()
    })
  })
  socket.close()
  return answers
}

const GREEDY = { temperature: 0 }
/** Every even ask is greedy. */
const ASKS: readonly Ask[] = Array.from({ length: 8 }, (_, i) => ({
  content: `CREATE TABLE t${i} (id INT, name TEXT, age INT);\nHow many rows does t${i} have?`,
  ...(i % 2 === 0 ? GREEDY : { temperature: 1, seed: i }),
}))

function same(t: Test, found: readonly SaidToken[][], expected: readonly SaidToken[][], what: string): void {
  sameAnswers(t, expected.map((answer, i) => ({ what: `${what}, ${i}`, found: found[i]!, expected: answer, isGreedy: i % 2 === 0 })))
}

t.test('one request gives the same bytes alone, among others, streamed, over a WebSocket and after a prefix hit', async (t) => {
  const server = await startServer(t)
  const alone = []
  for (const ask of ASKS) alone.push(await plain(server, ask))
  t.ok(nApart(alone) > 4, 'the answers differ from each other')
  same(t, await Promise.all(ASKS.map((ask) => plain(server, ask))), alone, 'together')
  same(t, await Promise.all(ASKS.map((ask) => streamed(server, ask))), alone, 'streamed together')
  same(t, await overSocket(server, ASKS), alone, 'over one WebSocket')
  const long = { content: `${'CREATE TABLE t (a INT, b TEXT); '.repeat(12)} How many rows?`, ...GREEDY }
  const first = await plain(server, long)
  const hits = await server.metric('vllm:prefix_cache_hits_total')
  same(t, [await plain(server, long)], [first], 'after a prefix hit')
  t.ok((await server.metric('vllm:prefix_cache_hits_total')) > hits, 'there was a hit')
  t.equal(await server.stop(), 0)
})

t.test('the engine is killed under 8 streams: every client gets its rest, the server lives, ready again', async (t) => {
  const server = await startServer(t)
  const asks = ASKS.map((ask) => ({ ...ask, max_tokens: 100 }))
  const expected = await Promise.all(asks.map((ask) => streamed(server, ask)))
  const running = Promise.all(asks.map((ask) => streamed(server, ask)))
  await eventually('running', async () => (await server.metric('vllm:num_requests_running')) === 8)
  const before = performance.now()
  process.kill(server.enginePid(), 'SIGKILL')
  const ready = async () => (await fetch(`${server.url}/readyz`)).status
  await eventually('not ready', async () => (await ready()) === 503)
  t.ok(performance.now() - before < 1_000, 'said within a second')
  t.equal((await fetch(`${server.url}/livez`)).status, 200)
  await eventually('ready', async () => (await ready()) === 200)
  t.comment(`ready again after ${Math.round(performance.now() - before)} ms`)
  same(t, await running, expected, 'the rest of every stream')
  t.equal(server.child.exitCode, null)
  t.equal(await server.metric('lorikeet_engine_restarts_total'), 1)
})

t.test('500 clients that leave at random leave no sequence and no block behind', async (t) => {
  const server = await startServer(t, ['--no-prefix-cache'])
  const drop = (i: number) =>
    new Promise<void>((resolve) => {
      const request = httpRequest(`${server.url}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' } })
      request.on('error', () => {}).on('close', resolve).on('response', (response) => response.resume().on('error', () => {}))
      request.end(JSON.stringify(body(server, { content: `drop ${i}`, max_tokens: 500, stream: i % 2 === 0 })))
      setTimeout(() => request.destroy(), (i * 37) % 200)
    })
  for (let i = 0; i < 500; i += 50) await Promise.all(Array.from({ length: 50 }, (_, j) => drop(i + j)))
  const inFlight = async () => (await server.metric('vllm:num_requests_running')) + (await server.metric('vllm:num_requests_waiting'))
  await eventually('nothing runs', async () => (await inFlight()) === 0)
  t.equal(await server.metric('vllm:kv_cache_usage_perc'), 0)
  t.equal((await post(server, { content: 'still there?' })).status, 200)
  t.notMatch(server.log(), /drop \d/, 'no prompt in the log')
})

t.test('SIGTERM lets a stream finish', async (t) => {
  const server = await startServer(t)
  const ask = { content: 'How many rows?', max_tokens: 100, ...GREEDY }
  const expected = await streamed(server, ask)
  const running = streamed(server, ask)
  await sleep(50)
  const exit = server.stop()
  same(t, [await running], [expected], 'the whole stream')
  t.equal(await exit, 0)
})

t.test('SIGTERM to what npm start runs reaches the server: nothing is left listening', async (t) => {
  const server = await startServer(t, [], { byStartScript: true })
  const running = streamed(server, { content: 'How many rows?', max_tokens: 100, ...GREEDY })
  await sleep(50)
  await server.stop()
  t.equal((await running).length, 100)
  await eventually('gone', () => fetch(`${server.url}/livez`).then(() => false, () => true))
})

t.test('a prompt longer than the context, and ids outside the vocabulary, are 400 by name', async (t) => {
  const server = await startServer(t, ['--max-model-len', '128'])
  const answer = await post(server, { content: 'word '.repeat(500) })
  t.match([answer.status, await answer.json()], [400, { error: { code: 'context_length_exceeded', type: 'invalid_request_error' } }])
  const tooMany = await post(server, { content: 'a', max_tokens: 5_000 })
  t.match([tooMany.status, await tooMany.json()], [400, { error: { code: 'context_length_exceeded' } }])
  const turns = await fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST', headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: server.model, messages: [{ role: 'user', content: 'a' }, { role: 'user', content: 'b' }] }),
  })
  t.match([turns.status, await turns.json()], [400, { error: { code: 'invalid_conversation', param: 'messages' } }])
})
