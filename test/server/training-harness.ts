// A server over real stores in an empty folder, on an engine that trains by counting.

import type { Test } from 'tap'
import { mkdtempSync, rmSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI from 'openai'
import { loadConfig } from '../../server/config.js'
import { createKey, KeyStore, type NewKey } from '../../server/keys.js'
import { openAdapters } from '../../server/open-adapters.js'
import { openTraining } from '../../server/open-training.js'
import type { FakeScript } from './fake-engine.js'
import { FakeTrainingEngine, type TrainScript } from './fake-training.js'
import { listen, MODEL, startApp } from './harness.js'

export interface TrainingOptions {
  readonly training?: TrainScript
  readonly script?: FakeScript
  readonly flags?: readonly string[]
  /** Keys by name; the first is the caller of call(). */
  readonly keys?: Readonly<Record<string, Omit<NewKey, 'name'>>>
}

export const row = (question = 'q', answer = 'a'): string =>
  JSON.stringify({ messages: [{ role: 'user', content: question }, { role: 'assistant', content: answer }] })
export const DATA = `${Array.from({ length: 12 }, (_, i) => row(`question ${i}`)).join('\n')}\n`

export async function startTraining(t: Test, options: TrainingOptions = {}) {
  const root = mkdtempSync(join(tmpdir(), 'lorikeet-training-'))
  t.teardown(() => rmSync(root, { recursive: true, force: true }))
  const data = join(root, 'data')
  await mkdir(join(root, 'train'))
  await writeFile(join(root, 'train', 'chat.jsonl'), DATA)
  const flags = ['--served-model-name', MODEL, '--data-dir', data, '--train-root', join(root, 'train'), ...(options.flags ?? [])]
  const engine = new FakeTrainingEngine(options.training, options.script ?? { reply: ({ adapter }) => [adapter?.version ?? 'base'] })
  const config = loadConfig(flags, {})
  const adapters = await openAdapters(config, engine)
  const jobs = await openTraining(config, engine, adapters, (error) => t.fail(String(error)))
  const { keys, secrets } = makeKeys(join(root, 'keys.json'), options.keys)
  const app = await startApp(t, { engine, adapters, flags, ...(jobs && { jobs }), ...(keys && { keys }) })
  const url = await listen(app)
  const client = (name = Object.keys(secrets)[0] ?? '') =>
    new OpenAI({ baseURL: `${url}/v1`, apiKey: secrets[name] ?? 'none', maxRetries: 0 })
  const call = async (method: string, path: string, body?: object | FormData, headers: Record<string, string> = {}) => {
    const isForm = body instanceof FormData
    const [secret] = Object.values(secrets)
    const authorization = secret === undefined ? {} : { authorization: `Bearer ${secret}` }
    const type = body === undefined || isForm ? {} : { 'content-type': 'application/json' }
    const response = await fetch(url + path, {
      method, ...(body !== undefined && { body: isForm ? body : JSON.stringify(body) }),
      headers: { ...authorization, ...type, ...headers } as Record<string, string>,
    })
    const text = await response.text()
    return { status: response.status, headers: response.headers, text, json: text.startsWith('{') ? JSON.parse(text) : undefined }
  }
  return { root, app, url, engine, adapters, jobs: jobs!, client, call, upload: (content = DATA) => upload(client(), content) }
}

async function upload(client: OpenAI, content: string, name = 'data.jsonl'): Promise<string> {
  return (await client.files.create({ file: new File([content], name), purpose: 'fine-tune' })).id
}

function makeKeys(path: string, wanted: TrainingOptions['keys'] = {}) {
  const secrets = Object.fromEntries(Object.entries(wanted).map(([name, key]) => [name, createKey(path, { name, ...key }).secret]))
  return { secrets: secrets as Record<string, string>, keys: Object.keys(secrets).length === 0 ? undefined : new KeyStore(path) }
}

/** Until the job is over. */
export async function finished(client: OpenAI, id: string): Promise<OpenAI.FineTuning.Jobs.FineTuningJob> {
  const deadline = Date.now() + 20_000
  for (;;) {
    const job = await client.fineTuning.jobs.retrieve(id)
    if (['succeeded', 'failed', 'cancelled'].includes(job.status)) return job
    if (Date.now() > deadline) throw new Error(`still ${job.status}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
