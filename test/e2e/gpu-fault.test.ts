// A GPU that fails under a server: what a fault ends, and what it must not. Needs a GPU.

import { renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { native } from '../../engine/native.js'
import { type ServerProcess, eventually, sleep, startServer } from './server-process.js'

const noGpu = native().systemInfo().cuda.devices.length > 0 ? false : 'no GPU here'
const N_STREAMS = 8
const N_TOKENS = 400

t.setTimeout(300_000)

interface Answer {
  readonly status: number
  readonly nTokens: number
  readonly finish: string | undefined
  readonly error: string | undefined
}

/** `lorikeet serve --device cuda`, and a way to make its next step meet a fault. */
async function startFaulty(t: Test): Promise<ServerProcess & { fault: (kind: string) => void }> {
  const path = join(t.testdir({}), 'fault')
  const flags = ['--device', 'cuda', '--gpu-memory-utilization', '0.5', '--max-model-len', '2048']
  const server = await startServer(t, flags, { env: { LORIKEET_TEST_CUDA_FAULT: path } })
  const fault = (kind: string) => {
    writeFileSync(`${path}.new`, kind)
    renameSync(`${path}.new`, path)
  }
  return { ...server, fault }
}

async function stream(server: ServerProcess, i: number): Promise<Answer> {
  const response = await fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model: server.model, messages: [{ role: 'user', content: `How many rows has t${i}?` }], max_tokens: N_TOKENS, ignore_eos: true,
      stream: true, return_token_ids: true, temperature: 1, seed: i,
    }),
  })
  const text = await response.text()
  const events = text.split('\n\n').filter((event) => event.startsWith('data: {')).map((event) => JSON.parse(event.slice('data: '.length)))
  return {
    status: response.status,
    nTokens: events.reduce((n, event) => n + (event.choices?.[0]?.token_ids?.length ?? 0), 0),
    finish: events.map((event) => event.choices?.[0]?.finish_reason).find((reason) => typeof reason === 'string'),
    error: response.status === 200 ? events.find((event) => event.error)?.error.code : JSON.parse(text).error.code,
  }
}

async function whileRunning(server: ServerProcess, act: () => void): Promise<Answer[]> {
  const streams = Array.from({ length: N_STREAMS }, (_, i) => stream(server, i))
  await eventually('the streams run', async () => await server.metric('vllm:num_requests_running') === N_STREAMS)
  act()
  return Promise.all(streams)
}

for (const [fault, name] of [['illegal_address', 'cudaErrorIllegalAddress'], ['trap', 'cudaErrorLaunchFailure']] as const) {
  t.test(`${fault}: the engine's process ends with a report, and streams go on in a new one`, { skip: noGpu }, async (t) => {
    const server = await startFaulty(t)
    const pid = server.enginePid()
    const answers = await whileRunning(server, () => server.fault(fault))
    for (const answer of answers) t.same(answer, { status: 200, nTokens: N_TOKENS, finish: 'length', error: undefined })
    t.not(server.enginePid(), pid)
    await eventually('the restart is counted', async () => await server.metric('lorikeet_engine_restarts_total') === 1)
    const report = `the engine ends, its device is lost: .*\\(${name}, \\d+\\); running: step number \\d+, decode, \\d+ tokens`
    t.match(server.log(), new RegExp(report))
    t.comment(server.log().split('\n').find((line) => line.includes('device is lost')))
    t.equal((await stream(server, 99)).nTokens, N_TOKENS)
    t.equal(await server.stop(), 0)
  })
}

t.test('out of memory fails the step and no more: the process goes on', { skip: noGpu }, async (t) => {
  const server = await startFaulty(t)
  const pid = server.enginePid()
  const answers = await whileRunning(server, () => server.fault('out_of_memory'))
  t.ok(answers.some(({ error }) => error === 'out_of_memory'))
  for (const { error, nTokens } of answers) t.ok(error === 'out_of_memory' || nTokens === N_TOKENS)
  await sleep(1000)
  t.equal(server.enginePid(), pid)
  t.same(await stream(server, 1), { status: 200, nTokens: N_TOKENS, finish: 'length', error: undefined })
  t.equal(await server.metric('lorikeet_engine_restarts_total'), 0)
})
