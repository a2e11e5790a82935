import { readFileSync } from 'node:fs'
import t from 'tap'
import type { EngineOptions, LoadAdapterRequest } from '../../engine/api.js'
import type { BenchReport } from '../../server/bench/measure.js'
import { EngineError } from '../../engine/errors.js'
import { bench, engineOptions, readPlan } from '../../server/commands/bench.js'
import { UsageError } from '../../server/settings.js'
import { FakeEngine } from './fake-engine.js'
import { listen, startApp } from './harness.js'

const SMALL = ['--prompt-tokens', '4', '--output-tokens', '6', '--rounds', '2']
const ENOUGH = Array<string>(100).fill('x')

/** Runs the command on a fake engine; what it printed, and with what the engine was started. */
async function run(args: readonly string[], engine = new FakeEngine({ reply: () => ENOUGH.slice(0, 6) })) {
  let options: EngineOptions | undefined
  let text = ''
  const start = async (given: EngineOptions) => {
    options = given
    return engine
  }
  const code = await bench(args, start, (more) => (text += more))
  return { code, text, options: options!, engine }
}

t.test('bench measures every concurrency on an engine of its own and closes it', async (t) => {
  const { code, text, options, engine } = await run([...SMALL, '--concurrency', '1, 200', '--model', 'random:x', '--device', 'cpu'])
  t.equal(code, 0)
  t.match(text, /^gemma-3-fake on cpu, nf4, fp32, head bf16\nprompt 4, output 6 tokens\n\nat once .*\n1 .*\n200 .*\n$/)
  t.match(options, { model: 'random:x', device: 'cpu', prefixCache: false, maxNumSeqs: 200, maxLoras: 0 })
  t.equal(engine.state, 'closed')
  t.match(engine.requests[0], { ignoreEos: true, sampling: { temperature: 0 }, adapter: null })
  t.equal(engine.requests.length, (1 + 200) * (1 + 2 * 2))
})

t.test('bench --json gives the figures to a program, on standard output or in a file', async (t) => {
  const { text } = await run([...SMALL, '--concurrency', '2', '--json', '-'])
  const report = JSON.parse(text) as BenchReport
  t.match(report, { model: 'gemma-3-fake', promptTokens: 4, outputTokens: 6, rounds: 2, adapters: 0 })
  const times = { p50: Number, p99: Number }
  t.match(report.results, [{ concurrency: 2, prefillTokensPerSecond: Number, ttftMs: times, interTokenMs: times }])
  const file = `${t.testdir({})}/figures.json`
  const printed = await run([...SMALL, '--concurrency', '2', '--json', file])
  t.match(printed.text, /^gemma-3-fake on cpu/)
  t.match(JSON.parse(readFileSync(file, 'utf8')), { results: [{ concurrency: 2 }] })
})

t.test('bench --adapters fills the slots and spreads the requests over them', async (t) => {
  const loaded: LoadAdapterRequest[] = []
  const engine = new FakeEngine({ reply: () => ENOUGH.slice(0, 6) }, { hiddenSize: 128 })
  const load = async (request: LoadAdapterRequest) => {
    loaded.push(request)
    t.ok(readFileSync(`${request.path}/adapter_config.json`, 'utf8').includes('"r": 4'), 'a folder as PEFT writes it')
    return { rank: 4, bytes: 1, nTensors: 14, warnings: [] }
  }
  Object.assign(engine, { loadAdapter: load })
  const { options, text } = await run([...SMALL, '--concurrency', '5', '--adapters', '3', '--rank', '4'], engine)
  t.match(options, { maxLoras: 3, maxLoraRank: 64 })
  t.same(loaded.map(({ slot }) => slot), [0, 1, 2])
  t.same(engine.requests.slice(-5).map(({ adapter }) => adapter!.slot).sort(), [0, 0, 1, 1, 2])
  t.match(text, /3 adapters of rank 4, \d+\.\d ms to load one/)
  t.throws(() => readFileSync(`${loaded[0]!.path}/adapter_config.json`), 'the folder is gone')
})

t.test('an engine that fails is told, closed, and gives 1', async (t) => {
  const engine = new FakeEngine({ reply: () => ENOUGH }, { hiddenSize: 128 })
  engine.script.refuse = new EngineError('QUEUE_FULL', 'full')
  t.equal((await run([...SMALL, '--concurrency', '1'], engine)).code, 1)
  t.equal(engine.state, 'closed')
})

t.test('bench --server measures a server that runs', async (t) => {
  const app = await startApp(t)
  app.engine.script = { reply: () => ENOUGH.slice(0, 6) }
  const { code, text } = await run([...SMALL, '--concurrency', '1,4', '--server', await listen(app)])
  t.equal(code, 0)
  t.match(text, /^fake on http:\/\/127\.0\.0\.1:\d+\nprompt 4, output 6 tokens\n\nat once .*\n1 .*\n4 .*\n$/)
  t.match(app.engine.requests[0], { prompt: { tokenIds: { length: 4 } }, ignoreEos: true })
})

t.test('flags have the defaults that others measure by, and limits', async (t) => {
  t.same(readPlan({}), { promptTokens: 128, outputTokens: 512, concurrency: [1, 8, 64], rounds: 3, adapters: 0, rank: 16 })
  t.same(readPlan({ concurrency: '2' }).concurrency, [2])
  const wrong = [
    { concurrency: '' }, { concurrency: '1,,2' }, { concurrency: '0' }, { 'output-tokens': '1' }, { rounds: '0' }, { rank: 'x' },
    { server: 'http://127.0.0.1:1', adapters: '2' },
  ]
  for (const flags of wrong) t.throws(() => readPlan(flags), UsageError, JSON.stringify(flags))
})

t.test('an engine has room for what is measured, and keeps what was asked beyond it', async (t) => {
  const given = { maxNumSeqs: 128, maxQueue: 512, maxLoras: 8, maxLoraRank: 64, prefixCache: true } as EngineOptions
  t.match(engineOptions(given, readPlan({})), { maxNumSeqs: 128, maxQueue: 512, maxLoras: 0, maxLoraRank: 64, prefixCache: false })
  t.match(engineOptions(given, readPlan({ concurrency: '600', adapters: '70', rank: '128' })),
    { maxNumSeqs: 600, maxQueue: 600, maxLoras: 70, maxLoraRank: 128 })
})
