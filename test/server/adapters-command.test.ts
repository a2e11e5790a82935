import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { adapters as adaptersCommand } from '../../server/commands/adapters.js'
import { loadConfig } from '../../server/config.js'
import { openAdapters } from '../../server/open-adapters.js'
import { peftFolder } from '../unit/adapters-fixtures.js'
import { FakeEngine } from './fake-engine.js'
import { listen, startApp } from './harness.js'

/** Runs the command; resolves to what it printed. */
async function run(t: Test, ...args: string[]): Promise<string> {
  const printed: string[] = []
  const results = t.capture(process.stdout, 'write', (text: string) => { printed.push(text); return true })
  // Between capture and restore the test's own report would be caught as well.
  const exitCode = await adaptersCommand(args).finally(() => results.restore())
  t.equal(exitCode, 0)
  return printed.join('')
}

t.test('the command adds, lists, promotes, rolls back and removes adapters of a server', async (t) => {
  const root = mkdtempSync(join(tmpdir(), 'lorikeet-command-'))
  t.teardown(() => rmSync(root, { recursive: true, force: true }))
  const engine = new FakeEngine()
  const adapters = await openAdapters(loadConfig(['--data-dir', root], {}), engine)
  const server = ['--server', await listen(await startApp(t, { engine, adapters }))]
  t.match(await run(t, 'list', ...server), /no adapters/)
  t.match(await run(t, 'add', 'sql', await peftFolder(root, 'one'), ...server), /^sql@[0-9a-f]{12}: rank 8, 0.0 MB, current/)
  await run(t, 'add', 'sql', await peftFolder(root, 'two'), '--no-promote', ...server)
  const [one, two] = adapters.store.versions('sql').map(({ version }) => version)
  t.match(await run(t, 'list', ...server), new RegExp(`sql +${one!.slice(0, 12)} +2 `))
  t.match(await run(t, 'promote', 'sql', two!.slice(0, 6), ...server), new RegExp(`${two!.slice(0, 12)}.*current`))
  t.match(await run(t, 'rollback', 'sql', ...server), new RegExp(`${one!.slice(0, 12)}.*current`))
  t.match(await run(t, 'remove', 'sql', two!, ...server), /removed version/)
  t.match(await run(t, 'show', 'sql', ...server), /^VERSION/)
  t.match(await run(t, 'remove', 'sql', ...server), /removed sql/)
  t.same(adapters.store.names(), [])
  await t.rejects(adaptersCommand(['remove', 'sql', ...server]), /answered 404: There is no adapter 'sql'/)
  await t.rejects(adaptersCommand(['add', 'sql', join(root, 'none'), ...server]), /holds no adapter_config.json/)
  await t.rejects(adaptersCommand(['list', '--server', 'http://127.0.0.1:1']), /does not answer/)
  await t.rejects(adaptersCommand(['polish', ...server]), /not an action/)
})
