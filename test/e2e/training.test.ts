// Training on a real server: the OpenAI client from upload to answer, inference meanwhile, and processes that are killed.

import '../cpu-only.js'
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import OpenAI from 'openai'
import { refused } from './openai-clients.js'
import { eventually, sleep, startServer } from './server-process.js'

t.setTimeout(400_000)

const ANSWER = 'the parrot says hello'
const rows = (n: number) => `${Array.from({ length: n }, (_, i) => JSON.stringify({
  messages: [{ role: 'user', content: `What does the parrot say, question ${i}?` }, { role: 'assistant', content: ANSWER }],
})).join('\n')}\n`

const MODEL = 'under-test'
/** Few steps, large ones: the tiny embedded model learns one sentence. */
const FAST = { r: 8, max_steps: 30, learning_rate: 5e-3, max_length: 64, packing: 'none', gradient_accumulation_steps: 2, save_steps: 5 }

async function open(t: Test, flags: readonly string[] = []) {
  const server = await startServer(t, flags)
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 4 })
  const upload = async () => (await client.files.create({ file: new File([rows(40)], 'parrot.jsonl'), purpose: 'fine-tune' })).id
  const create = async (fields: object = {}) =>
    client.fineTuning.jobs.create({
      model: MODEL, training_file: await upload(), suffix: 'parrot', ...FAST, ...fields,
    } as OpenAI.FineTuning.JobCreateParams)
  const over = async (id: string) => {
    const isOver = async () => ['succeeded', 'failed', 'cancelled'].includes((await client.fineTuning.jobs.retrieve(id)).status)
    await eventually('the job is over', isOver)
    return client.fineTuning.jobs.retrieve(id)
  }
  const say = async (model: string, seed = 1) => {
    const messages = [{ role: 'user' as const, content: 'What does the parrot say, question 3?' }]
    const { choices } = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 24, seed })
    return choices[0]!.message.content ?? ''
  }
  return { server, client, create, over, say }
}

const stepOf = async (client: OpenAI, id: string) =>
  ((await client.fineTuning.jobs.retrieve(id)) as unknown as { progress: { step: number } | null }).progress?.step ?? 0

t.test('the openai client trains an adapter, and the model that the job returns has learnt', async (t) => {
  const { client, create, over, say } = await open(t)
  const before = await say(MODEL)
  const { id } = await create()
  const during = []
  while (await stepOf(client, id) < 3) during.push(await say(MODEL))
  const job = await over(id)
  t.equal(job.status, 'succeeded', JSON.stringify(job.error))
  t.equal(await say(job.fine_tuned_model!), ANSWER)
  t.equal(await say('parrot'), ANSWER)
  t.ok(during.every((text) => text === before), 'answers of the base are the same while a job trains')
  t.equal(await say(MODEL), before)
  const events = (await client.fineTuning.jobs.listEvents(id, { limit: 100 })).data
  const losses = events.flatMap(({ data }) => (data as { train_loss?: number } | null)?.train_loss ?? [])
  t.ok(losses[0]! < losses.at(-1)! / 4, `${losses.at(-1)} -> ${losses[0]}`)
})

t.test('a job survives its engine, and cancel ends one within two steps', async (t) => {
  const { server, client, create, over, say } = await open(t)
  const { id } = await create()
  await eventually('the job trains', async () => (await stepOf(client, id)) >= 7)
  process.kill(server.enginePid(), 'SIGKILL')
  const job = await over(id)
  t.equal(job.status, 'succeeded', JSON.stringify(job.error))
  t.equal(await say(job.fine_tuned_model!), ANSWER)
  const messages = (await client.fineTuning.jobs.listEvents(id, { limit: 100 })).data.map(({ message }) => message)
  t.ok(messages.some((message) => /^The job goes on from step \d+ of 30$/.test(message)), messages.join('\n'))

  const second = await create({ suffix: 'second', max_steps: 2_000 })
  await eventually('the second job trains', async () => (await stepOf(client, second.id)) >= 2)
  t.equal((await client.fineTuning.jobs.cancel(second.id)).status, 'cancelled')
  const at = await stepOf(client, second.id)
  await sleep(3_000)
  t.ok((await stepOf(client, second.id)) <= at + 2)
  await refused(t, client.models.retrieve('second'), OpenAI.NotFoundError, {})
})

t.test('a job survives SIGKILL of the whole server: the next one goes on from the checkpoint', async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'lorikeet-jobs-'))
  t.teardown(() => rmSync(dataDir, { recursive: true, force: true }))
  const first = await open(t, ['--data-dir', dataDir])
  const { id } = await first.create()
  await eventually('the job trains', async () => (await stepOf(first.client, id)) >= 7)
  const step = await stepOf(first.client, id)
  first.server.child.kill('SIGKILL')
  await eventually('the process is gone', () => first.server.child.signalCode !== null)
  const second = await open(t, ['--data-dir', dataDir])
  const job = await second.over(id)
  t.equal(job.status, 'succeeded', JSON.stringify(job.error))
  t.equal(await second.say(job.fine_tuned_model!), ANSWER)
  const { data } = await second.client.fineTuning.jobs.listEvents(id, { limit: 100 })
  t.ok(data.some(({ message }) => message === 'The server was restarted; the job goes on from its last checkpoint'))
  const metrics = data.map((event) => event.data as { train_loss?: number; step: number } | null)
  const steps = metrics.flatMap((metric) => (metric?.train_loss === undefined ? [] : [metric.step]))
  t.same(steps.reverse(), Array.from({ length: 30 }, (_, i) => i + 1), `every step once, also those before the kill at ${step}`)
})

const hasPrlimit = process.platform === 'linux' && existsSync('/usr/bin/prlimit')

t.test('a job that does not fit in memory fails with figures, and the server goes on', { skip: !hasPrlimit }, async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'lorikeet-jobs-'))
  t.teardown(() => rmSync(dataDir, { recursive: true, force: true }))
  const { server, client, create, over, say } = await open(t, ['--data-dir', dataDir])
  const before = await say(MODEL)
  const pid = server.enginePid()
  /** Bytes that the engine's process may take beyond what it has, as under ulimit -v. */
  const allow = (bytes: number) => {
    const pages = Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[0])
    execFileSync('/usr/bin/prlimit', ['--pid', String(pid), `--as=${bytes === Infinity ? 'unlimited' : pages * 4096 + bytes}:`])
  }
  allow(256 * 2 ** 20)
  const large = { r: 512, max_length: 2048, per_device_train_batch_size: 16 }
  const job = await over((await create(large)).id)
  t.match(job, { status: 'failed', fine_tuned_model: null })
  t.equal(job.error?.code, 'out_of_memory')
  const parts = ['parameters', 'gradients', 'optimizer', 'activations'].map((part) => `${part} \\d+ MiB`).join(', ')
  t.match(job.error?.message, new RegExp(`training needs \\d+ MiB \\(${parts}\\), \\d+ MiB are free`))
  t.equal(server.enginePid(), pid, 'the engine did not end')
  t.equal(await say(MODEL), before)
  await refused(t, client.models.retrieve('parrot'), OpenAI.NotFoundError, {})
  t.same(readdirSync(join(dataDir, 'adapters')).filter((name) => name.includes('parrot')), [], 'nothing of it is in the store')
  allow(Infinity)
  const next = await over((await create()).id)
  t.equal(next.status, 'succeeded', JSON.stringify(next.error))
  t.equal(await say(next.fine_tuned_model!), ANSWER)
})
