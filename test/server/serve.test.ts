import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { chatBody, MODEL, sseEvents, until } from './harness.js'

// Processes start slowly on a busy machine: several at once.
t.jobs = 2
t.setTimeout(120_000)

interface Server {
  readonly child: ChildProcess
  readonly out: () => string
  readonly err: () => string
  readonly exit: Promise<number | null>
}

function start(t: Test, flags: readonly string[] = [], env: Record<string, string> = {}): Server {
  const entry = fileURLToPath(new URL('./serve-fake.js', import.meta.url))
  const child = spawn(process.execPath, [entry, '--port', '0', '--served-model-name', MODEL, '--data-dir', t.testdir({}), ...flags], {
    env: { ...process.env, NODE_OPTIONS: '', ...env },
  })
  const texts = { out: '', err: '' }
  child.stdout.on('data', (data) => (texts.out += data))
  child.stderr.on('data', (data) => (texts.err += data))
  const exit = once(child, 'exit').then(([code]) => code as number | null)
  t.teardown(() => child.kill('SIGKILL'))
  return { child, out: () => texts.out, err: () => texts.err, exit }
}

async function address(server: Server): Promise<string> {
  for (const deadline = performance.now() + 60_000; performance.now() < deadline; await new Promise((resolve) => setTimeout(resolve, 10))) {
    const url = /http:\/\/\S+/.exec(server.out())?.[0]
    if (url !== undefined) return url
  }
  throw new Error(`no address: ${server.err()}`)
}

const post = (url: string, fields: object = {}) =>
  fetch(`${url}/v1/chat/completions`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(chatBody(fields)),
  })

t.test('one line on standard output says the address; a second server there says that the port is taken', { buffered: true }, async (t) => {
  const server = start(t)
  const url = await address(server)
  t.equal((await post(url)).status, 200)
  t.match(server.out(), /^lorikeet serves fake at http:\/\/127\.0\.0\.1:\d+\n$/)
  t.match(server.err(), /No key file/)
  t.notMatch(server.err() + server.out(), /Say hello/, 'no prompt in any log')

  const { port } = new URL(url)
  const second = start(t, ['--port', port])
  t.equal(await second.exit, 2)
  t.match(second.err(), new RegExp(`port ${port} of 127.0.0.1 is taken`))

  server.child.kill('SIGTERM')
  t.equal(await server.exit, 0)
})

t.test('an adapter of the command line that cannot be served ends the start with its reason', { buffered: true }, async (t) => {
  const server = start(t, ['--adapter', 'sql=/nowhere'])
  t.equal(await server.exit, 1)
  t.match(server.err(), /ADAPTER_NOT_FOUND: There is no adapter folder at \/nowhere/)
})

t.test('SIGTERM lets a stream finish, refuses new requests meanwhile, and exits 0', { buffered: true }, async (t) => {
  const server = start(t, [], { FAKE_DELAY_MS: '80' })
  const url = await address(server)
  const stream = await post(url, { stream: true })
  server.child.kill('SIGTERM')
  await until(() => server.err().includes('draining'), 'draining')
  t.equal((await fetch(`${url}/readyz`)).status, 503)
  const refused = await post(url)
  t.equal(refused.status, 503)
  t.match(((await refused.json()) as any).error, { code: 'engine_unavailable', type: 'server_error' })
  t.equal(sseEvents(await stream.text()).at(-1), '[DONE]')
  t.equal(await server.exit, 0)
})

t.test('what cannot finish in time is told so', { buffered: true }, async (t) => {
  const server = start(t, ['--drain-timeout', '50ms'], { FAKE_DELAY_MS: '1000' })
  const url = await address(server)
  const stream = await post(url, { stream: true })
  server.child.kill('SIGTERM')
  const events = sseEvents(await stream.text())
  t.match(events.at(-1), { error: { code: 'shutting_down', type: 'server_error' } })
  t.equal(await server.exit, 0)
})

t.test('a second SIGTERM does not wait', { buffered: true }, async (t) => {
  const server = start(t, [], { FAKE_DELAY_MS: '5000' })
  const url = await address(server)
  const stream = post(url, { stream: true }).then((response) => response.text()).catch(() => 'cut')
  await new Promise((resolve) => setTimeout(resolve, 100))
  server.child.kill('SIGTERM')
  await until(() => server.err().includes('draining'), 'draining')
  server.child.kill('SIGTERM')
  t.equal(await server.exit, 1)
  await stream
})

t.test('probes are answered while the model loads, and progress is told', { buffered: true }, async (t) => {
  const port = 20_000 + (process.pid % 20_000)
  const server = start(t, ['--port', String(port)], { FAKE_LOAD_MS: '600' })
  const url = `http://127.0.0.1:${port}`
  await until(() => server.err().includes('reading'), 'loading')
  t.equal((await fetch(`${url}/livez`)).status, 200)
  t.equal((await fetch(`${url}/startupz`)).status, 503)
  const ready = await fetch(`${url}/readyz`)
  t.match([ready.status, await ready.json()], [503, { reason: /^starting: reading/ }])
  t.equal((await post(url)).status, 503)
  t.equal(server.out(), '', 'nothing on standard output yet')
  await address(server)
  t.equal((await fetch(`${url}/startupz`)).status, 200)
})

t.test('a model that does not load is said and ends the process with 1', { buffered: true }, async (t) => {
  const server = start(t, [], { FAKE_LOAD_ERROR: 'no such file: /models/x' })
  t.equal(await server.exit, 1)
  t.match(server.err(), /MODEL_NOT_FOUND: no such file/)
  t.equal(server.out(), '')
})
