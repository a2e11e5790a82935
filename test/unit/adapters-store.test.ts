import { execFile, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { isAdapterName, parseModel } from '../../adapters/names.js'
import { AdapterStore, type StoredVersion } from '../../adapters/store.js'
import { peftFolder, temporaryFolder } from './adapters-fixtures.js'

const hasStrace = spawnSync('strace', ['-V']).status === 0
const facts = { base: 'base-1', source: 'test', rank: 8, nTensors: 2, warnings: [] }

async function publish(store: AdapterStore, root: string, name: string, content: string, promote = true): Promise<StoredVersion> {
  const staging = await store.stage()
  await staging.copyFrom(await peftFolder(root, content))
  return store.publish(name, staging, { ...facts, promote })
}

t.test('a name that could leave its folder, hide, or mean something to a system is refused', async (t) => {
  const path = '../shared/goldens/adapters/bad/names.json'
  const golden = existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as { names: string[] }).names : []
  const bad = [...golden, '', '.', '..', '../x', '/etc/passwd', 'a/b', 'a\\b', 'a\0b', '.hidden', '-rf', 'CON', 'nul.txt', 'x.', 'a b',
    'constructor', 'é',
    'x'.repeat(65), '__proto__', 'a:b', 'a@b', 'a%2fb']
  t.same(bad.filter(isAdapterName), [])
  t.same([undefined, null, 1, {}, []].filter(isAdapterName), [])
  t.same(['sql', 'a', 'Plain-r16', 'x_1.2', '9'].map(isAdapterName), [true, true, true, true, true])
})

t.test('model names the base, an adapter, a version of it, or an adapter of the base', async (t) => {
  const parse = (model: string) => parseModel(model, ['gemma', 'org/gemma-3'])
  t.same(parse('gemma'), { kind: 'base', id: 'gemma' })
  t.same(parse('sql'), { kind: 'adapter', name: 'sql', versionPrefix: undefined })
  t.same(parse('sql@0123abcd'), { kind: 'adapter', name: 'sql', versionPrefix: '0123abcd' })
  t.same(parse('org/gemma-3:sql'), { kind: 'adapter', name: 'sql', versionPrefix: undefined })
  t.same(parse('gemma:sql@0123'), { kind: 'adapter', name: 'sql', versionPrefix: '0123' })
  for (const model of ['gemma:', 'gemma:gemma:x', 'other:sql', 'sql@', 'sql@xyz', 'sql@0123@4567', 'sql@01', '']) t.equal(parse(model),
    null, model)
})

t.test('a published adapter is there after a new start, under the hash of its content', async (t) => {
  const root = temporaryFolder(t)
  const store = await AdapterStore.open(join(root, 'a'))
  const version = await publish(store, root, 'sql', 'one')
  t.match(version.version, /^[0-9a-f]{64}$/)
  t.same(readdirSync(version.path).sort(), ['adapter_config.json', 'adapter_model.safetensors', 'manifest.json'])
  const again = await AdapterStore.open(join(root, 'a'))
  t.same(again.find('sql'), version)
  t.same(again.swept, [])
  const other = await publish(again, root, 'copy', 'one')
  t.equal(other.version, version.version, 'the same content is the same version under any name')
})

t.test('publishing the same content twice changes nothing', async (t) => {
  const root = temporaryFolder(t)
  const store = await AdapterStore.open(join(root, 'a'))
  const first = await publish(store, root, 'sql', 'one')
  t.same(await publish(store, root, 'sql', 'one'), first)
  t.equal(store.versions('sql').length, 1)
  t.same(readdirSync(join(root, 'a')), ['sql'])
})

t.test('promote and roll back move the name, and survive a new start', async (t) => {
  const root = temporaryFolder(t)
  const store = await AdapterStore.open(join(root, 'a'))
  const one = await publish(store, root, 'sql', 'one')
  const two = await publish(store, root, 'sql', 'two')
  const three = await publish(store, root, 'sql', 'three', false)
  t.equal(store.find('sql').version, two.version, 'not promoted: the name stays')
  await store.promote('sql', three.version.slice(0, 10))
  t.equal((await AdapterStore.open(join(root, 'a'))).find('sql').version, three.version)
  t.equal((await store.rollback('sql')).version, two.version)
  t.equal((await store.rollback('sql')).version, one.version)
  await t.rejects(store.rollback('sql'), { code: 'INVALID_REQUEST' })
  t.equal((await AdapterStore.open(join(root, 'a'))).find('sql').version, one.version)
  t.equal(store.find('sql', two.version.slice(0, 8)).version, two.version, 'a version stays reachable')
})

t.test('the current version cannot be deleted, another one can, and the name with all', async (t) => {
  const root = temporaryFolder(t)
  const store = await AdapterStore.open(join(root, 'a'))
  const one = await publish(store, root, 'sql', 'one')
  const two = await publish(store, root, 'sql', 'two')
  await t.rejects(store.removeVersion('sql', two.version), { code: 'INVALID_REQUEST' })
  await store.removeVersion('sql', one.version)
  t.notOk(existsSync(one.path))
  await t.rejects(store.rollback('sql'), { code: 'INVALID_REQUEST' }, 'there is nothing to go back to')
  await store.remove('sql')
  t.same(readdirSync(join(root, 'a')), [])
  t.throws(() => store.find('sql'), { code: 'ADAPTER_NOT_FOUND' })
  await t.rejects(store.remove('sql'), { code: 'ADAPTER_NOT_FOUND' })
})

t.test('a start sweeps what an interrupted run left, and nothing else', async (t) => {
  const root = temporaryFolder(t)
  const folder = join(root, 'a')
  const store = await AdapterStore.open(folder)
  const version = await publish(store, root, 'sql', 'one')
  await mkdir(join(folder, '.tmp-1-abc'))
  await mkdir(join(folder, '.trash-abc', 'x'), { recursive: true })
  await writeFile(join(folder, 'sql', '.tmp-abc'), '{')
  await mkdir(join(folder, 'sql', 'f'.repeat(64)))                  // renamed, but never named by the record
  await mkdir(join(folder, 'first', 'e'.repeat(64)), { recursive: true })
  await mkdir(join(folder, 'mine'))
  await writeFile(join(folder, 'mine', 'adapter_config.json'), '{}')
  const again = await AdapterStore.open(folder)
  t.same(readdirSync(folder).sort(), ['mine', 'sql'])
  t.same(readdirSync(join(folder, 'sql')).sort(), [version.version, 'adapter.json'].sort())
  t.same(again.names(), ['sql'])
  t.equal(again.find('sql').version, version.version)
})

t.test('a damaged version is set aside, its name says so, and the same upload repairs it', async (t) => {
  const root = temporaryFolder(t)
  const store = await AdapterStore.open(join(root, 'a'))
  const one = await publish(store, root, 'sql', 'one')
  const two = await publish(store, root, 'sql', 'two')
  writeFileSync(join(two.path, 'adapter_model.safetensors'), 'twO')
  await t.rejects(store.verify(two), { code: 'ADAPTER_INVALID', message: /other content than was published/ })
  t.throws(() => store.find('sql'), { code: 'ADAPTER_INVALID', message: /set aside/ }, 'never the version before it')
  t.equal(readdirSync(join(root, 'a', '.quarantine')).length, 1)
  await store.verify(one)
  await publish(store, root, 'sql', 'two')
  t.equal(store.find('sql').version, two.version)
  writeFileSync(join(two.path, 'adapter_model.safetensors'), 'tw')
  await t.rejects(store.verify(store.find('sql')), /has 2 bytes instead of 3/)
  t.equal((await store.rollback('sql')).version, one.version)
})

t.test('a lost or unreadable record is rebuilt from the versions', async (t) => {
  const root = temporaryFolder(t)
  const store = await AdapterStore.open(join(root, 'a'))
  const version = await publish(store, root, 'sql', 'one')
  writeFileSync(join(root, 'a', 'sql', 'adapter.json'), '{"format":1')
  const again = await AdapterStore.open(join(root, 'a'))
  t.equal(again.find('sql').version, version.version)
  t.equal(again.swept.length, 1)
})

t.test('only the two files of PEFT are taken, once each, complete, and never a pickle', async (t) => {
  const root = temporaryFolder(t)
  const store = await AdapterStore.open(join(root, 'a'))
  const staging = await store.stage()
  async function* bytes() { yield Buffer.from('x') }
  await t.rejects(staging.write('../evil', bytes()), { code: 'ADAPTER_INVALID' })
  await staging.write('adapter_config.json', bytes())
  await t.rejects(staging.write('adapter_config.json', bytes()), /came twice/)
  await t.rejects(store.publish('sql', staging, facts), /missing file: adapter_model.safetensors/)
  await staging.dispose()
  async function* large() { for (let i = 0; i < 3; i++) yield Buffer.alloc(512 << 10) }
  const second = await store.stage()
  await t.rejects(second.write('adapter_config.json', large()), /larger than/)
  await second.dispose()
  const folder = await peftFolder(root, 'pickle')
  await rename(join(folder, 'adapter_model.safetensors'), join(folder, 'adapter_model.bin'))
  const third = await store.stage()
  await t.rejects(third.copyFrom(folder), /unsupported format: adapter_model.bin/)
  await third.dispose()
  t.same(readdirSync(join(root, 'a')), [])
})

t.test('changes of one name at the same time happen one after another', async (t) => {
  const root = temporaryFolder(t)
  const store = await AdapterStore.open(join(root, 'a'))
  const versions = await Promise.all(Array.from({ length: 20 }, (_, i) => publish(store, root, 'sql', `v${i}`)))
  t.equal(store.versions('sql').length, 20)
  const again = await AdapterStore.open(join(root, 'a'))
  t.equal(again.versions('sql').length, 20)
  t.equal(again.find('sql').version, store.find('sql').version)
  await Promise.all(versions.map(({ version }) => store.promote('sql', version)))
  t.same(again.record('sql')?.versions.toSorted(), versions.map(({ version }) => version).toSorted())
})

t.test('files are flushed before their folder, the folder before its new name, the name before its parent',
  { skip: hasStrace ? false : 'strace is not installed' }, async (t) => {
  const root = temporaryFolder(t)
  const source = await peftFolder(root, 'one')
  const log = join(root, 'trace')
  const program = `const { AdapterStore } = await import(${JSON.stringify(resolve('dist/adapters/store.js'))})
    const store = await AdapterStore.open(${JSON.stringify(join(root, 'a'))})
    const staging = await store.stage(); await staging.copyFrom(${JSON.stringify(source)})
    await store.publish('sql', staging, ${JSON.stringify(facts)})`
  await promisify(execFile)('strace', ['-f', '-y', '-e', 'trace=fsync,fdatasync,rename,renameat,renameat2', '-o', log,
    process.execPath, '--input-type=module', '-e', program])
  const steps = readFileSync(log, 'utf8').split('\n').filter((line) => line.includes(root) && !line.includes('resumed')).map(short(root))
  await rm(log)
  t.same(steps.filter((step) => step !== ''), [
    'fsync .tmp/adapter_config.json', 'fsync .tmp/adapter_model.safetensors', 'fsync .tmp/manifest.json', 'fsync .tmp', 'fsync a',
    'rename .tmp a/sql/V', 'fsync a/sql', 'fsync a/sql/.tmp', 'rename a/sql/.tmp a/sql/adapter.json', 'fsync a/sql',
  ])
})

/** A line of strace without process ids and random parts. */
function short(root: string): (line: string) => string {
  return (line) => {
    const [call] = /(fsync|rename)/.exec(line) ?? ['']
    const paths = [...line.matchAll(/[<"](\/[^>"]+)[>"]/g)].map(([, path]) => path!.slice(root.length + 1))
      .map((path) => path.replace(/^a\/\.tmp-[^/]+/, '.tmp').replace(/\.tmp-[^/]+/, '.tmp').replace(/[0-9a-f]{64}/, 'V'))
    return [call, ...paths].join(' ')
  }
}
