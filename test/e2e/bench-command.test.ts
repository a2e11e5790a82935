import t from 'tap'
import type { BenchReport } from '../../server/bench/measure.js'
import { bench } from '../../server/commands/bench.js'
import { device } from '../device.js'

t.setTimeout(240_000)

t.test('bench measures the embedded model, its adapters too, and every figure is there', async (t) => {
  let text = ''
  const flags = ['--prompt-tokens', '20', '--output-tokens', '12', '--concurrency', '1,3', '--rounds', '2', '--adapters', '2', '--json', '-']
  t.equal(await bench([...flags, '--device', device, '--data-dir', t.testdir({})], undefined, (more) => (text += more)), 0)
  const report = JSON.parse(text) as BenchReport
  t.match(report, { model: 'embedded', weights: 'nf4', adapters: 2, rank: 16, rounds: 2, adapterLoadMs: Number })
  t.same(report.results.map(({ concurrency }) => concurrency), [1, 3])
  for (const { prefillTokensPerSecond, decodeTokensPerSecond, ttftMs, interTokenMs } of report.results) {
    for (const figure of [prefillTokensPerSecond, decodeTokensPerSecond, ttftMs.p50, interTokenMs.p50]) t.ok(figure > 0, `${figure}`)
    t.ok(ttftMs.p99 >= ttftMs.p50 && interTokenMs.p99 >= interTokenMs.p50)
  }
})

t.test('a prompt that does not fit is told, and gives 1', async (t) => {
  const written = t.capture(process.stderr, 'write', () => true)
  const code = await bench(['--prompt-tokens', '100000', '--rounds', '1', '--device', device, '--data-dir', t.testdir({})], undefined, () => {})
  written.restore()
  t.equal(code, 1)
  t.match(written.args().map(([line]) => line).join(''), /lorikeet: .*(context|tokens)/)
})
