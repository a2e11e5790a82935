import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { AdapterStore } from '../../adapters/store.js'
import type { Engine, EngineOptions } from '../../engine/api.js'
import { EngineError } from '../../engine/errors.js'
import type { TrainEvent, TrainRequest, TrainingEngine } from '../../engine/train/types.js'
import { trainOptions } from '../../server/commands/train-options.js'
import { train } from '../../server/commands/train.js'
import { TrainView, duration } from '../../server/train-view.js'
import { peftFolder } from '../unit/adapters-fixtures.js'
import { temporaryFolder } from '../unit/train-fixtures.js'

const folder = temporaryFolder()
t.teardown(() => folder.remove())
const DATA = ['--data', 'a.jsonl', '--name', 'sql', '--data-dir', join(folder.path, 'data')]

t.test('every hyper-parameter is a flag, typed by how it is written', async (t) => {
  const { train: config, data, name, outputDir, values } = trainOptions([
    ...DATA, '--data', 'more', '--preset', 'guide', '--learning-rate', '1e-3', '--lora-alpha=32', '--target-modules', 'q_proj,v_proj',
    '--use-dora', '--no-shuffle', '--packing', 'false', '--max-steps', '-1', '--layers-to-transform', '3', '--gradient-checkpointing',
    '--optim', 'adamw_8bit',
  ])
  t.match(config, {
    learningRate: 1e-3, loraAlpha: 32, targetModules: ['q_proj', 'v_proj'], useDora: true, shuffle: false, packing: 'none', maxSteps: 0,
    layersToTransform: [3], gradientCheckpointing: 'layer', optim: 'adamw_8bit', loraDropout: 0.05,
  })
  t.same(data, ['a.jsonl', 'more'])
  t.equal(name, 'sql')
  t.equal(outputDir, join(folder.path, 'data', 'runs', 'sql'))
  t.match(values, { learning_rate: 1e-3, packing: false, preset: 'guide' }, 'as given: a server resolves them itself')
})

t.test('a YAML file holds the same, and flags win over it', async (t) => {
  const file = folder.write('run.yaml', [
    'preset: guide', 'model: some/model', 'data: [one.jsonl, two.csv]', 'name: from-file', 'learning_rate: 2e-5', 'r: 8',
    'target_modules:', '  - q_proj', 'output_dir: out',
  ].join('\n'))
  const { train: config, data, name, outputDir, config: server } = trainOptions(['--config', file, '--r', '4'])
  t.match({ ...config, data, name, outputDir }, {
    learningRate: 2e-5, r: 4, targetModules: ['q_proj'], data: ['one.jsonl', 'two.csv'], name: 'from-file', outputDir: 'out',
  })
  t.equal(server.model, 'some/model')
  t.equal(trainOptions(['--config', file, '--model', 'other']).config.model, 'other')
})

t.test('a mistake is told with its flag', async (t) => {
  const yaml = folder.write('bad.yaml', 'lerning_rate: 1')
  const list = folder.write('list.yaml', '- 1')
  const broken = folder.write('broken.yaml', 'a: [')
  const cases: [string[], RegExp][] = [
    [['--name', 'x'], /--data is needed/], [['--data', 'x'], /--name is needed/], [['--data'], /--data needs a value/],
    [[...DATA, '--r', '0'], /r: expected a whole number/], [[...DATA, '--learning-rate', 'fast'], /learning_rate: expected a number/],
    [[...DATA, '--bogus', '1'], /bogus/], [[...DATA, '--name', '../x'], /not an adapter name/],
    [[...DATA, '--config', yaml], /"lerning_rate"/],
    [[...DATA, '--config', list], /expected settings/], [[...DATA, '--config', broken], /broken\.yaml/],
    [[...DATA, '--config', 'absent.yaml'], /absent\.yaml/],
  ]
  for (const [args, message] of cases) t.throws(() => trainOptions(args), { name: 'UsageError', message }, args.join(' '))
})

const STEP: TrainEvent = {
  type: 'step', step: 3, totalSteps: 12, epoch: 0.5, learningRate: 2e-4, gradNorm: 1, tokens: 300, tokensPerSecond: 123.4,
  remainingMs: 3_723_000, memoryBytes: 1, loss: 1.25, tokenAccuracy: 0.5, targets: 10,
}
const REPORT = {
  samples: 10, validationSamples: 2, tokens: 1000, targetTokens: 250, rows: 4, paddingShare: 0.125, truncated: 1, dropped: 0,
  refused: [{ file: 'a.jsonl', line: 7, kind: 'invalid_json', reason: 'the line is not one JSON value' }], nRefused: 1,
}

t.test('a terminal gets a bar, a log gets lines', async (t) => {
  const shown = (isTTY: boolean, ...events: TrainEvent[]) => {
    let out = ''
    const view = new TrainView({ isTTY, write: (text: string | Uint8Array) => { out += String(text); return true } })
    for (const event of events) view.show(event)
    return out
  }
  const data: TrainEvent = { type: 'data', report: REPORT, totalSteps: 12, nTrained: 99, resumedFrom: 2 }
  t.equal(shown(false, data),
    '10 samples, 2 for validation, 1000 tokens (25.0 % targets), 4 rows an epoch (12.5 % unused), 1 truncated, 1 refused\n' +
    '  left out: a.jsonl:7: the line is not one JSON value\n99 parameters, 12 steps, going on from step 2\n')
  t.equal(shown(false, STEP), 'step 3/12: loss 1.2500  lr 2.00e-4  123 tokens/s  1:02:03 left\n')
  t.match(shown(true, STEP), /^\r\x1b\[K3\/12 \[={6} {18}\] loss 1\.2500 .* left$/)
  t.match(shown(true, STEP, { type: 'stopped', step: 3 }), /left\r\x1b\[Kstopped after step 3: [^\n]+\n$/)
  t.same([0, 59_400, 61_000, 3_600_000].map(duration), ['0:00', '0:59', '1:01', '1:00:00'])
})

/** An engine whose runs are scripted: events, then an error or the end. */
function scripted(runs: (TrainEvent | EngineError)[][]) {
  const requests: TrainRequest[] = []
  let isClosed = false
  const engine = {
    state: 'ready', info: { hash: 'base-hash' },
    async* train(request: TrainRequest, signal: AbortSignal) {
      requests.push(request)
      for (const item of runs[requests.length - 1] ?? []) {
        if (item instanceof EngineError) throw item
        if (item.type === 'stopped') process.emit('SIGTERM', 'SIGTERM')
        if (item.type === 'stopped' && !signal.aborted) throw new Error('the signal did not come')
        yield item
      }
    },
    validateAdapter: async () => ({ rank: 8, bytes: 1, nTensors: 2, warnings: [] }),
    close: async () => { isClosed = true },
  }
  return { start: async (_options?: EngineOptions) => engine as unknown as Engine & TrainingEngine, requests, closed: () => isClosed }
}

async function run(t: Test, args: readonly string[], start: () => Promise<Engine & TrainingEngine>) {
  const listeners = process.listeners('SIGTERM')
  const results = [t.capture(process.stdout, 'write', () => true), t.capture(process.stderr, 'write', () => true)]
  const code = await train(args, start).finally(() => results.forEach((result) => result.restore()))
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    for (const listener of process.listeners(name)) if (!listeners.includes(listener)) process.removeListener(name, listener)
  }
  const [out, err] = results.map((result) => result.args().map(([text]) => String(text)).join(''))
  return { code, out: out!, err: err! }
}

t.test('the result is published into the data directory, beside whatever is there', async (t) => {
  const adapterPath = await peftFolder(folder.path, 'result')
  const finished: TrainEvent =
    { type: 'finished', step: 12, adapterPath, tokens: 1000, seconds: 10, final: { loss: 1, tokenAccuracy: 0.5, targets: 5 } }
  const { start, requests, closed } = scripted([[STEP, finished]])
  const root = join(folder.path, 'data', 'adapters')
  const store = await AdapterStore.open(root)
  const staging = await store.stage()
  const { code, out, err } = await run(t, DATA, start)
  t.equal(code, 0)
  t.match(out, /^sql@[0-9a-f]{12} will be served/)
  t.match(err, /step 3\/12[^]*12 steps, 1000 tokens in 0:10 \(100 tokens\/s\), loss 1\.0000/)
  t.match(requests, [{ id: 'sql', trainFiles: ['a.jsonl'] }])
  t.ok(closed())
  t.ok(existsSync(staging.path), 'what a server is about to publish is left alone')
  t.match((await AdapterStore.open(root)).find('sql'), { base: 'base-hash', source: 'lorikeet train', rank: 8 })
  const kept = await run(t, [...DATA, '--name', 'other', '--no-publish'], scripted([[finished]]).start)
  t.equal(kept.out, `other: ${adapterPath}\n`)
  t.notOk(existsSync(join(root, 'other')))
})

t.test('an engine that dies is gone on with, one that dies without a step between is given up', async (t) => {
  const died = () => new EngineError('ENGINE_RESTARTED', 'the engine died')
  const stopped: TrainEvent = { type: 'stopped', step: 3 }
  const four = scripted([[STEP, died()], [STEP, died()], [STEP, died()], [STEP, died()], [stopped]])
  t.equal((await run(t, DATA, four.start)).code, 130, 'stopped by a signal')
  t.equal(four.requests.length, 5)
  const never = scripted([[died()], [died()], [died()], [died()], [died()]])
  const { code, err } = await run(t, DATA, never.start)
  t.equal(code, 1)
  t.match(err, /lorikeet: the engine died/)
  t.equal(never.requests.length, 4)
})

t.test('bad data ends the command with its reasons', async (t) => {
  const { start, closed } = scripted([[new EngineError('DATA_INVALID', '2 rows of the data cannot be used:\na.jsonl:2: no')]])
  const { code, err } = await run(t, DATA, start)
  t.equal(code, 1)
  t.match(err, /a\.jsonl:2: no/)
  t.ok(closed())
})

t.test('with --server the data is sent, the job created and followed to its end, over broken streams', async (t) => {
  const file = folder.write('sent.jsonl', '{"text": "x"}\n')
  // What is captured must not hold the test's own report: nothing is asserted while the command runs.
  const seen: string[] = []
  const bodies: string[] = []
  let nStreams = 0
  let status = 'running'
  const server = createServer((request, reply) => void answer(request, reply))
  async function answer(request: IncomingMessage, reply: ServerResponse): Promise<void> {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const body = Buffer.concat(chunks).toString()
    seen.push(`${request.method} ${request.url}`)
    bodies.push(body)
    const json = (value: unknown, code = 200) =>
      reply.writeHead(code, { 'content-type': 'application/json' }).end(JSON.stringify(value))
    if (request.headers.authorization !== 'Bearer secret') return void json({ error: { message: 'no key' } }, 401)
    if (request.url === '/v1/files') {
      return void json({ id: 'file-1' })
    }
    if (request.method === 'POST') return void json({ id: 'job-1' }, 202)
    const job = { id: 'job-1', status, fine_tuned_model: 'ft:base:sql:1', error: null }
    if (request.url === '/admin/train/job-1') return void json(job)
    reply.writeHead(200, { 'content-type': 'text/event-stream' })
    reply.write('data: {"id":"e1","level":"info","message":"Step 1"}\n\n')
    if (nStreams++ === 0) return void setTimeout(() => reply.destroy(), 50)
    status = 'succeeded'
    reply.end('data: {"id":"e2","level":"warn","message":"careful"}\n\ndata: [DONE]\n\n')
  }
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => { server.close() })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const args = ['--server', url, '--data', file, '--validation-data', 'file-9', '--name', 'sql', '--learning-rate', '0.001']
  const { code, out, err } = await run(t, [...args, '--api-key', 'secret'], () => t.fail() as never)
  t.equal(code, 0)
  t.equal(out, 'ft:base:sql:1\n')
  t.match(bodies[0], /name="purpose"\r\n\r\nfine-tune\r\n[^]*filename="sent\.jsonl"[^]*{"text": "x"}\n\r\n--/)
  t.same(JSON.parse(bodies[1]!), { learning_rate: 0.001, name: 'sql', data: 'file-1', validation_data: 'file-9' })
  t.match(err, /sent\.jsonl is file-1\njob job-1 on [^]*Step 1\n[^]*warn: careful\n/)
  t.ok(seen.includes('GET /admin/train/job-1/events?stream=true&after=e1'), 'the stream is taken up after the last event')
  await t.rejects(train(args), { name: 'UsageError', message: /answered 401: no key/ })
  await t.rejects(train(['--server', 'http://127.0.0.1:1', ...args.slice(2)]), { name: 'UsageError', message: /does not answer/ })
})
