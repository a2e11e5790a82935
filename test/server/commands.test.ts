import { PassThrough } from 'node:stream'
import t from 'tap'
import { converse, type Terminal } from '../../server/commands/chat.js'
import { EngineTalk, ServerTalk, type Talk } from '../../server/commands/talk.js'
import { main } from '../../server/cli.js'
import { KeyStore, readKeyFile } from '../../server/keys.js'
import { ProgressBar } from '../../server/progress-bar.js'
import { FakeEngine } from './fake-engine.js'
import { listen, startApp, until } from './harness.js'

/** Runs a command line and returns what it printed. */
async function run(t: { capture: Function }, ...argv: string[]): Promise<{ code: number; out: string; err: string }> {
  const out = t.capture(process.stdout, 'write', () => true)
  const err = t.capture(process.stderr, 'write', () => true)
  const code = await main(argv)
  const text = (calls: any) => calls.args().map(([line]: [string]) => line).join('')
  const result = { code, out: text(out), err: text(err) }
  out.restore()
  err.restore()
  return result
}

t.test('--help lists the commands, and every command has its own', async (t) => {
  const { code, out } = await run(t, '--help')
  t.equal(code, 0)
  for (const name of ['serve', 'chat', 'keys', 'adapters', 'bench']) t.match(out, new RegExp(`^  ${name} `, 'm'))
  for (const name of ['serve', 'chat', 'keys', 'adapters', 'bench']) {
    const help = await run(t, name, '--help')
    t.equal(help.code, 0, name)
    t.match(help.out, `Usage: lorikeet ${name}`)
  }
  t.match((await run(t, '--version')).out, /^\d+\.\d+\.\d+\n$/)
})

t.test('a mistake on the command line is told and gives 2', async (t) => {
  const lines: ReadonlyArray<[argv: string[], err: RegExp]> = [
    [['nonsense'], /unknown command "nonsense"/],
    [['constructor'], /unknown command/],
    [['serve', '--bogus'], /'--bogus'[^]*lorikeet serve --help/],
    [['serve', '--port', 'x'], /--port expects/],
    [['serve', '--api-keys', '/nowhere.json'], /lorikeet keys create/],
    [['chat', '--server', 'nowhere'], /--server expects a URL/],
    [['chat', '--server', 'http://127.0.0.1:1'], /does not answer/],
    [['chat', '--temperature', 'hot', '--server', 'http://127.0.0.1:1'], /--temperature expects a number/],
    [['chat', '--system'], /--system needs a value/],
    [['chat', '--bogus'], /bogus/],
    [['bench', '--rounds', 'many'], /--rounds expects a whole number/],
    [['bench', '--bogus'], /bogus/],
    [['keys', 'create'], /--api-keys FILE is needed/],
    [['keys', 'frob', '--api-keys', 'x'], /unknown action/],
    [['keys', 'create', '--api-keys', 'x', '--scope', 'root'], /--scope expects/],
    [['keys', 'create', '--api-keys', 'x', '--expires', 'soon'], /--expires expects/],
    [['keys', 'revoke', '--api-keys', 'x'], /needs the ID/],
  ]
  for (const [argv, err] of lines) {
    const result = await run(t, ...argv)
    t.equal(result.code, 2, argv.join(' '))
    t.match(result.err, err, argv.join(' '))
    t.equal(result.out, '')
  }
})

t.test('keys: create prints a key that works, list shows it without its secret, revoke removes it', async (t) => {
  const file = `${t.testdir({})}/keys.json`
  const fields = ['--name', 'ann', '--scope', 'infer', '--scope', 'metrics', '--model', 'sql', '--max-concurrent', '3']
  const created = await run(t, 'keys', 'create', '--api-keys', file, ...fields)
  const secret = created.out.trim()
  const key = new KeyStore(file).verify(secret)
  t.match(key, { name: 'ann', scopes: ['infer', 'metrics'], models: ['sql'], maxConcurrent: 3 })
  const list = await run(t, 'keys', 'list', '--api-keys', file)
  t.match(list.out, `${key!.id}  ann  infer,metrics  sql  no expiry`)
  t.notMatch(list.out, secret)
  t.equal((await run(t, 'keys', 'revoke', '--api-keys', file, key!.id)).code, 0)
  t.same(readKeyFile(file), [])
  t.equal((await run(t, 'keys', 'revoke', '--api-keys', file, key!.id)).code, 2)
})

function terminal(isTty = false): { terminal: Terminal; type: (text: string) => void; text: () => string; end: () => void } {
  const input = new PassThrough()
  const output = new PassThrough()
  let text = ''
  output.on('data', (data) => (text += data))
  return { terminal: { input, output, isTty }, type: (line) => void input.write(line), text: () => text, end: () => void input.end() }
}

t.test('chat streams answers and remembers the conversation until /reset', async (t) => {
  const engine = new FakeEngine({ reply: ({ prompt }) => [`${'messages' in prompt ? prompt.messages.length : 0} messages`] })
  const { terminal: io, type, text, end } = terminal()
  type('hello\nagain\n/help\n/reset\nnew\n\n')
  end()
  await converse(new EngineTalk(engine, { sampling: {} }), io, 'Be brief')
  t.match(text(), /^2 messages\n4 messages\n\/reset forgets[^\n]*\n2 messages\n$/)
  t.same(engine.requests[1]!.prompt, {
    messages: [
      { role: 'system', content: 'Be brief' },
      { role: 'user', content: 'hello' },
      { role: 'assistant', content: '2 messages' },
      { role: 'user', content: 'again' },
    ],
  })
})

t.test('chat against a server: the same, with its model and its errors', async (t) => {
  const app = await startApp(t)
  const url = await listen(app)
  const talk = await ServerTalk.connect({ url, apiKey: undefined, model: '' }, { sampling: { temperature: 0 }, maxTokens: 3 })
  t.equal(talk.model, 'fake')
  const { terminal: io, type, text, end } = terminal()
  type('hello\n/quit\nnever\n')
  end()
  await converse(talk, io, '')
  t.equal(text(), 'Hello, wor\n')
  t.match(app.engine.requests[0], { sampling: { temperature: 0 }, maxTokens: 3 })
  const wrong = await ServerTalk.connect({ url, apiKey: undefined, model: 'other' }, { sampling: {} })
  const failed = terminal()
  failed.type('hello\n')
  failed.end()
  await converse(wrong, failed.terminal, '')
  t.match(failed.text(), /answered 404: The model 'other' does not exist/)
})

t.test('Ctrl-C stops the answer, not the conversation; what was said is kept', async (t) => {
  const engine = new FakeEngine({
    delayMs: 5, reply: ({ prompt }) => ('messages' in prompt && prompt.messages.length > 1 ? ['short'] : Array<string>(10_000).fill('x')),
  })
  const talk: Talk = new EngineTalk(engine, { sampling: {} })
  const { terminal: io, type, text } = terminal(true)
  const done = converse(talk, io, '')
  type('go on\r')
  await until(() => engine.tokens > 3, 'answering')
  type('\x03')
  await until(() => text().includes('[stopped]'), 'stopped')
  t.equal(engine.active, 0)
  type('and\r')
  await until(() => /short\n[^]*> /.test(text()), 'the next prompt')
  t.match(engine.requests[1]!.prompt, {
    messages: [{ role: 'user' }, { role: 'assistant', content: /^x+$/ }, { role: 'user', content: 'and' }],
  })
  type('\x03')
  await done
})

t.test('progress is a bar on a terminal and a line a phase elsewhere', async (t) => {
  for (const isTTY of [true, false]) {
    let text = ''
    const bar = new ProgressBar({ isTTY, write: (piece: string) => Boolean((text += piece)) } as never)
    for (let done = 0; done <= 10; done++) bar.update({ phase: 'reading', done, total: 10 })
    bar.update({ phase: 'packing', done: 0, total: 0 })
    bar.finish()
    if (isTTY) t.match(text, /\rreading {6}\[={30}\] 100 %[^]*reading: 0\.0 s\n/)
    else t.match(text, /^reading \.\.\.\nreading: \d\.\d s\npacking \.\.\.\npacking: \d\.\d s\n$/)
  }
})
