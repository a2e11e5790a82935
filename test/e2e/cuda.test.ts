// A server on a GPU: what it says of itself, what it refuses by name, and what it does where there is none.

import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { native } from '../../engine/native.js'
import { device, onlyOnCuda } from '../device.js'
import { eventually, startServer } from './server-process.js'

t.setTimeout(240_000)

const { built, devices } = native().systemInfo().cuda
const hasGpu = built && devices.length > 0

const SCHEMA = 'CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);\n' +
  'CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers(id), total REAL);'
/** What the embedded model was trained for, so that it is sure of its answers. */
const QUESTIONS = [
  'How many customers are there?', 'Which customers are from Paris?', 'What is the largest total of an order?',
  'Show the names of all customers.', 'How many orders have a total over 100?', 'List all cities.',
].map((question) => `${SCHEMA}\n${question}`)

/** Runs a start that must fail. */
async function failedStart(t: Test, flags: readonly string[]): Promise<{ code: number | null; err: string }> {
  const cli = fileURLToPath(new URL('../../server/cli.js', import.meta.url))
  const child = spawn(process.execPath, [cli, 'serve', '--port', '0', '--data-dir', t.testdir({}), ...flags])
  t.teardown(() => child.kill('SIGKILL'))
  let err = ''
  child.stderr.on('data', (data) => (err += data))
  const code = await new Promise<number | null>((resolve) => child.once('exit', resolve))
  return { code, err }
}

t.test('--device cuda where there is no GPU ends the start with the reason', { skip: hasGpu && 'there is a GPU' }, async (t) => {
  const { code, err } = await failedStart(t, ['--device', 'cuda'])
  t.equal(code, 1)
  t.match(err, built ? /CUDA_ERROR: .*0 usable GPUs/ : /CUDA_NOT_BUILT: .*--device cpu/)
})

t.test('a GPU that is not there, arithmetic and heads of the CPU end the start by name', { skip: onlyOnCuda }, async (t) => {
  for (const [flags, reason] of [
    [['--device', 'cuda:15'], /CUDA_ERROR: .*cuda:15/],
    [['--device', device, '--compute', 'fp32'], /UNSUPPORTED: .*--compute fp32/],
    [['--device', device, '--weights', 'f32'], /UNSUPPORTED: .*fp32/],
    [['--device', device, '--head', 'nf4'], /UNSUPPORTED: .*--head/],
  ] as const) {
    const { code, err } = await failedStart(t, flags)
    t.equal(code, 1, flags.join(' '))
    t.match(err, reason, flags.join(' '))
  }
})

for (const head of ['bf16', 'int8']) {
  t.test(`with head ${head}, greedy answers are those of the CPU as far as text goes`, { skip: onlyOnCuda }, async (t) => {
    const texts: string[][] = []
    for (const where of ['cpu', device]) {
      const server = await startServer(t, ['--device', where, '--head', head])
      if (where !== 'cpu') t.match(server.log(), / on cuda/)
      texts.push(await Promise.all(QUESTIONS.map((question) => greedy(server.url, server.model, question))))
      t.equal(await server.stop(), 0)
    }
    const nEqual = texts[0]!.filter((text, i) => text === texts[1]![i]).length
    t.ok(nEqual >= QUESTIONS.length - 1, `${nEqual} of ${QUESTIONS.length} equal: ${JSON.stringify(texts)}`)
  })
}

async function greedy(url: string, model: string, content: string): Promise<string> {
  const body = JSON.stringify({ model, messages: [{ role: 'user', content }], temperature: 0, max_tokens: 64 })
  const response = await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
  const { choices } = await response.json() as { choices: Array<{ message: { content: string } }> }
  return choices[0]!.message.content
}

t.test('a training job on a GPU server fails by name, and the server serves on', { skip: onlyOnCuda }, async (t) => {
  const server = await startServer(t)
  const form = new FormData()
  const row = { messages: [{ role: 'user', content: 'a' }, { role: 'assistant', content: 'b' }] }
  form.append('purpose', 'fine-tune')
  form.append('file', new Blob([`${JSON.stringify(row)}\n`.repeat(8)]), 'rows.jsonl')
  const file = await (await fetch(`${server.url}/v1/files`, { method: 'POST', body: form })).json() as { id: string }
  const created = await fetch(`${server.url}/v1/fine_tuning/jobs`, {
    method: 'POST', headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: server.model, training_file: file.id, suffix: 'x' }),
  })
  const { id } = await created.json() as { id: string }
  const job = async () =>
    await (await fetch(`${server.url}/v1/fine_tuning/jobs/${id}`)).json() as { status: string; error: { message: string } | null }
  await eventually('the job is over', async () => (await job()).status === 'failed')
  t.match((await job()).error?.message, /cannot train/)
  t.equal((await fetch(`${server.url}/readyz`)).status, 200)
  t.ok((await greedy(server.url, server.model, QUESTIONS[0]!)).length > 0)
  t.equal(await server.metric('lorikeet_engine_restarts_total'), 0)
})
