import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { EngineModel } from '../../adapters/evaluation/engine-model.js'
import { evaluate, type EvaluateOptions } from '../../adapters/evaluation/evaluate.js'
import { formatReports } from '../../adapters/evaluation/report.js'
import { readSamples } from '../../adapters/evaluation/samples.js'
import { SqlJudge } from '../../adapters/evaluation/sql-judge.js'
import { judgeGate } from '../../adapters/jobs/gate.js'
import type { GateOptions } from '../../adapters/jobs/job-types.js'
import { openSqlite } from '../../adapters/sqlite.js'
import type { GenerateRequest } from '../../engine/api.js'
import { EngineError } from '../../engine/errors.js'
import { evaluateModel } from '../../server/commands/eval.js'
import { UsageError } from '../../server/settings.js'
import { FakeEngine, type FakeScript } from '../server/fake-engine.js'
import { listen, MODEL, startApp } from '../server/harness.js'
import { peftFolder, temporaryFolder } from './adapters-fixtures.js'

const row = (question: string, answer: string) =>
  JSON.stringify({ messages: [{ role: 'user', content: question }, { role: 'assistant', content: answer }] })

/** The fake engine knows the answer to what ends in "known". */
const script: FakeScript = {
  reply: ({ prompt }: GenerateRequest) => {
    const question = 'messages' in prompt ? prompt.messages.at(-1)!.content : ''
    return [question.endsWith('known') ? 'SELECT  name FROM city;\n' : question.endsWith('broken') ? 'SELECT' : 'SELECT 1']
  },
}
const NAMES = 'SELECT name FROM city'
const ROWS = [row('a known', NAMES), row('b', NAMES), row('c broken', 'SELECT 1'), row('d', 'SELECT nope')]

async function start(t: Test, rows: readonly string[] = ROWS) {
  const folder = temporaryFolder(t)
  const data = join(folder, 'data.jsonl')
  await writeFile(data, `${rows.join('\n')}\n`)
  const database = join(folder, 'db.sqlite')
  const sqlite = await openSqlite(database)
  sqlite.exec("CREATE TABLE city (name text); INSERT INTO city VALUES ('x'), ('y')")
  sqlite.close()
  const judge = new SqlJudge()
  t.teardown(() => judge.close())
  const engine = new FakeEngine(script)
  const run = async (options: Partial<EvaluateOptions> = {}) => evaluate(new EngineModel(engine, 'm', null), await readSamples([data]), {
    metrics: ['loss', 'token_accuracy', 'exact_match', 'execution_accuracy'], database, judge, ...options,
  })
  return { folder, data, database, judge, engine, run }
}

t.test('shares are of the samples that can be judged, and wrong answers say why', async (t) => {
  const { run } = await start(t)
  const report = await run()
  t.match(report, { samples: 4, exact_match: 0.25, execution_accuracy: 1 / 3, execution_errors: 1, unjudged: 1, skipped: 0 })
  t.match(report.wrong, [
    { sample: 2, answer: 'SELECT 1', reason: '1 rows that are not the 2 expected' }, { sample: 3, reason: /incomplete input/ },
    { sample: 4, reason: /the expected query fails/ },
  ])
})

t.test('loss is over the answer, and perplexity and token accuracy go with it', async (t) => {
  const { run, engine } = await start(t)
  const report = await run({ metrics: ['loss'] })
  t.equal(report.loss, 0.5, 'what the fake engine gives every token')
  t.equal(report.perplexity, Math.exp(0.5))
  t.equal(report.token_accuracy, 1)
  t.equal(report.exact_match, null, 'nothing was generated')
  t.ok(engine.requests.every(({ maxTokens, prompt }) => maxTokens === 0 && 'tokenIds' in prompt))
})

t.test('a sample longer than the context is left out of the loss and counted', async (t) => {
  const { run } = await start(t, [row('a', 'b'), row('a', 'word '.repeat(5_000))])
  t.match(await run({ metrics: ['loss'] }), { samples: 2, skipped: 1, loss: 0.5 })
})

t.test('without anything to measure there is no number', async (t) => {
  const { run } = await start(t, [row('d', 'SELECT nope')])
  t.match(await run({ metrics: ['execution_accuracy'] }), { execution_accuracy: null, unjudged: 1 })
})

t.test('an engine that fails ends the evaluation with its error, an aborted one at once', async (t) => {
  const { run, engine } = await start(t, Array.from({ length: 30 }, (_, i) => row(`q${i}`, 'a')))
  engine.script = { refuse: new EngineError('ENGINE_RESTARTED', 'died') }
  await t.rejects(run(), { code: 'ENGINE_RESTARTED' })
  engine.script = { delayMs: 20, reply: () => Array(50).fill('x') }
  const controller = new AbortController()
  setTimeout(() => controller.abort(), 50)
  await t.rejects(run({ signal: controller.signal }))
  const before = engine.requests.length
  await new Promise((resolve) => setTimeout(resolve, 50))
  t.equal(engine.requests.length, before, 'nothing is asked for any more')
  t.equal(engine.active, 0)
})

t.test('bad evaluation data is named by file and line', async (t) => {
  for (const [content, message] of [
    [`${ROWS[0]}\n{"x": 1}\n`, /data\.jsonl:2: none of messages/], ['', /no record/], ['{', /data\.jsonl:1: /],
  ] as const) {
    const { data } = await start(t, [])
    await writeFile(data, content)
    await t.rejects(readSamples([data]), { code: 'DATA_INVALID', message })
  }
  await t.rejects(readSamples(['/none.jsonl']), { code: 'DATA_INVALID' })
})

t.test('the table shows what was measured, and the change between two models', async (t) => {
  const { run } = await start(t)
  const report = await run()
  const better = { ...report, model: 'sql', exact_match: 0.5, loss: 0.25 }
  const table = formatReports([report, better])
  t.match(table, /^ +m +sql +change$/m)
  t.match(table, /^loss +0\.5000 +0\.2500 +-0\.2500$/m)
  t.match(table, /^exact match +25\.0 % +50\.0 % +\+25\.0 points$/m)
  t.match(table, /^execution accuracy +33\.3 % +33\.3 % +\+0\.0 points$/m)
  t.notMatch(formatReports([{ ...report, execution_accuracy: null }]), /execution/)
})

const gate = (fields: Partial<GateOptions>): GateOptions =>
  ({ data: { path: 'x', shown: 'file-1' }, metric: 'exact_match', notWorseThanCurrent: false, ...fields })

t.test('the gate: accuracies from below, a loss from above, and never without a measurement', async (t) => {
  const { run } = await start(t)
  const report = await run()
  const passes = (options: Partial<GateOptions>, current = undefined as typeof report | undefined) =>
    judgeGate(gate(options), report, current).passed
  t.ok(passes({ threshold: 0.25 }))
  t.notOk(passes({ threshold: 0.26 }))
  t.ok(passes({ metric: 'loss', threshold: 0.5 }))
  t.notOk(passes({ metric: 'loss', threshold: 0.49 }))
  t.ok(passes({ notWorseThanCurrent: true }, report), 'as good is not worse')
  t.notOk(passes({ notWorseThanCurrent: true }, { ...report, exact_match: 0.3 }))
  t.notOk(passes({ metric: 'loss', notWorseThanCurrent: true }, { ...report, loss: 0.4 }))
  t.match(judgeGate(gate({}), { ...report, exact_match: null }, undefined), { passed: false, reason: /could not be measured on file-1/ })
})

t.test('lorikeet eval measures base and adapter, and writes JSON', async (t) => {
  const { folder, data, database } = await start(t)
  const adapter = await peftFolder(folder, 'one')
  const engine = new FakeEngine(script)
  const json = join(folder, 'report.json')
  const output: string[] = []
  t.capture(process.stdout, 'write', (text: string) => (output.push(text), true))
  t.capture(process.stderr, 'write', () => true)
  const args = [
    '--data', data, '--database', database, '--adapter', adapter, '--json', json, '--data-dir', folder, '--served-model-name', 'base',
  ]
  t.equal(await evaluateModel(args, async () => engine), 0)
  t.match(output.join(''), /base .*one +change/)
  const reports = JSON.parse(await readFile(json, 'utf8'))
  t.match(reports, [{ model: 'base', execution_accuracy: 1 / 3 }, { model: adapter, samples: 4 }])
  t.ok(engine.requests.some((request) => request.adapter?.slot === 0))
  t.equal(engine.state, 'closed')
})

t.test('lorikeet eval --server measures what a running server serves, to the same numbers', async (t) => {
  const plain = JSON.stringify({ prompt: 'a plain known', completion: NAMES })
  const { run, folder, data, database } = await start(t, [...ROWS, plain, row('x'.repeat(9_000), 'SELECT 1')])
  const json = join(folder, 'report.json')
  const url = await listen(await startApp(t, { engine: new FakeEngine(script) }))
  const quietly = async (...args: string[]) => {
    const captured = [t.capture(process.stdout, 'write', () => true), t.capture(process.stderr, 'write', () => true)]
    try {
      return await evaluateModel(['--server', url, '--data', data, ...args])
    } finally {
      for (const { restore } of captured) restore()
    }
  }
  t.equal(await quietly('--database', database, '--json', json), 0)
  const { seconds: _here, ...here } = await run({ maxTokens: 256 })
  const [{ seconds: _there, ...there }] = JSON.parse(await readFile(json, 'utf8'))
  t.ok(here.loss! > 0)
  const rounded = (report: { loss: number }) => ({ ...report, model: MODEL, loss: report.loss.toFixed(9), perplexity: 0 })
  t.same(rounded(there), rounded(here as { loss: number }))
  await t.rejects(quietly('--adapter', 'none'), { message: /The model 'none' does not exist/ })
})

t.test('lorikeet eval says what is wrong with its flags and files', async (t) => {
  const { data, folder } = await start(t)
  const run = (...args: string[]) => evaluateModel(args, async () => new FakeEngine())
  await t.rejects(run(), { message: '--data is needed' })
  await t.rejects(run('--data', data, '--metrics', 'beauty'), UsageError)
  await t.rejects(run('--data', data, '--metrics', 'execution_accuracy'), { message: /needs --database/ })
  await t.rejects(run('--data', data, '--limit', 'x'), { message: /--limit expects/ })
  await t.rejects(run('--data', data, '--no-such-flag'), UsageError)
  t.capture(process.stderr, 'write', () => true)
  t.equal(await run('--data', join(folder, 'none.jsonl')), 1)
  t.equal(await run('--data', data, '--adapter', 'none', '--data-dir', folder), 1)
})
