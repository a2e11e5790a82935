// A real server with adapters: uploads, loads and an engine that is killed, seen from outside.

import { spawn } from 'node:child_process'
import { mkdtempSync, openAsBlob, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { ADAPTER_FILES } from '../../adapters/manifest.js'
import { readShape, writeRandomAdapter } from '../../adapters/random-adapter.js'
import type { SaidToken } from '../../scripts/same-answer.js'
import { HTTP_PROOF, areApart, device, isCuda, nApart, sameAnswers } from '../device.js'
import { childOf, saidBy } from './server-process.js'

t.setTimeout(240_000)

const NAMES = ['a', 'b', 'c', 'd']
const N_TOKENS = 48
const PROMPT = 'List the names of all customers'

async function serve(t: Test, flags: readonly string[]) {
  const root = mkdtempSync(join(tmpdir(), 'lorikeet-e2e-'))
  const args = ['dist/server/cli.js', 'serve', '--port', '0', '--data-dir', join(root, 'data'), '--served-model-name', 'base',
    '--log-level', 'warn', '--device', device, ...flags]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => {
    child.kill('SIGKILL')
    rmSync(root, { recursive: true, force: true })
  })
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout.on('data', (text) => {
      const address = /http:\/\/\S+/.exec(String(text))?.[0]
      if (address !== undefined) resolve(address)
    })
    child.on('exit', (code) => reject(new Error(`the server ended with ${code}`)))
  })
  return { root, url, pid: child.pid! }
}

async function upload(url: string, name: string, folder: string): Promise<string> {
  const form = new FormData()
  form.append('name', name)
  for (const file of ADAPTER_FILES) form.append(file, await openAsBlob(join(folder, file)), file)
  const response = await fetch(`${url}/admin/adapters`, { method: 'POST', body: form })
  const body = await response.json() as { version: string }
  if (response.status !== 201) throw new Error(JSON.stringify(body))
  return body.version
}

interface Answer {
  readonly text: string
  readonly tokens: readonly SaidToken[]
}

/** A streamed answer at a temperature at which the slightest difference of two models shows. */
async function complete(url: string, model: string, maxTokens: number, onFirstToken: () => void = () => {}): Promise<Answer> {
  const sampling = { temperature: 2, top_k: 0, top_p: 1, seed: 7, ignore_eos: true, return_token_ids: true, ...HTTP_PROOF }
  const body = { model, messages: [{ role: 'user', content: PROMPT }], max_tokens: maxTokens, stream: true, ...sampling }
  const response = await fetch(`${url}/v1/chat/completions`,
    { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
  if (response.status !== 200) throw new Error(await response.text())
  let text = ''
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    if (/"content":"[^"]/.test(chunk)) onFirstToken()
    text += chunk
  }
  if (!text.endsWith('data: [DONE]\n\n')) throw new Error(text.slice(-300))
  const events = text.split('\n\n').filter((event) => event.startsWith('data: {')).map((event) => JSON.parse(event.slice('data: '.length)))
  const choices = events.map((event) => event.choices?.[0])
  return { text: choices.map((choice) => choice?.delta?.content ?? '').join(''), tokens: choices.flatMap(saidBy) }
}

/** On CUDA draws at this temperature part at the first rounding, as a cached prefix makes one: which adapter answered is in the scores up to there. */
function same(t: Test, found: readonly Answer[], expected: readonly Answer[], what: string): void {
  if (!isCuda) t.same(found.map(({ text }) => text), expected.map(({ text }) => text), what)
  sameAnswers(t, expected.map(({ tokens }, i) => ({ what: `${what}, ${i}`, found: found[i]!.tokens, expected: tokens })), 0)
}

async function metric(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text()
  return Number(text.split('\n').find((line) => line.startsWith(`${name} `))?.split(' ')[1])
}

t.test('uploaded adapters answer each in its own way, before and after the engine is killed under eight streams', async (t) => {
  const { root, url, pid } = await serve(t, ['--max-loras', '3', '--adapter-wait', '60s', '--recovery-timeout', '60s'])
  const shape = await readShape('engine/embedded')
  for (const name of NAMES) {
    await writeRandomAdapter(join(root, name), { shape, rank: 8, amplitude: 0.1 })
    await upload(url, name, join(root, name))
  }
  const models = ['base', ...NAMES]
  const alone = new Map<string, Answer>()
  for (const model of models) alone.set(model, await complete(url, model, N_TOKENS))
  t.equal(nApart([...alone.values()].map(({ tokens }) => tokens)), models.length, 'five models, five answers')

  const names = Array.from({ length: 8 }, (_, i) => models[i % models.length]!)
  let isKilled = false
  const kill = () => { if (!isKilled) isKilled = process.kill(childOf(pid), 'SIGKILL') }
  const answers = await Promise.all(names.map((model) => complete(url, model, N_TOKENS, kill)))
  t.ok(isKilled)
  same(t, answers, names.map((model) => alone.get(model)!), 'every stream goes on where it was, on its own adapter')
  t.equal(await metric(url, 'lorikeet_engine_restarts_total'), 1)
  t.equal(await metric(url, 'lorikeet_adapter_pins'), 0)
  for (const model of models) same(t, [await complete(url, model, N_TOKENS)], [alone.get(model)!], model)
})

t.test('a name answers with its new version at once, and a restart of the server keeps it', async (t) => {
  const first = await serve(t, ['--max-loras', '2'])
  const shape = await readShape('engine/embedded')
  for (const name of ['one', 'two']) await writeRandomAdapter(join(first.root, name), { shape, rank: 4, amplitude: 0.1 })
  const one = await upload(first.url, 'sql', join(first.root, 'one'))
  const old = await complete(first.url, 'sql', 24)
  await upload(first.url, 'sql', join(first.root, 'two'))
  const current = await complete(first.url, 'sql', 24)
  t.ok(areApart(current.tokens, old.tokens), 'two versions, two answers')
  same(t, [await complete(first.url, `base:sql@${one.slice(0, 12)}`, 24)], [old], 'the old version by its hash')
  process.kill(first.pid, 'SIGKILL')

  const second = await serve(t, ['--max-loras', '2', '--data-dir', join(first.root, 'data')])
  same(t, [await complete(second.url, 'sql', 24)], [current], 'the new version after a restart')
  same(t, [await complete(second.url, `sql@${one.slice(0, 12)}`, 24)], [old], 'the old version after a restart')
})
