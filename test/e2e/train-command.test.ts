import '../cpu-only.js'
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { AdapterStore } from '../../adapters/store.js'
import { createLocalEngine } from '../../engine/create-engine.js'
import { answer, chat, jsonl, temporaryFolder, user } from '../unit/train-fixtures.js'
import { embedded } from './engine-options.js'

const CLI = fileURLToPath(new URL('../../server/cli.js', import.meta.url))

t.setTimeout(240_000)

const folder = temporaryFolder()
t.teardown(() => folder.remove())
const data = folder.write('train.jsonl', jsonl(Array.from({ length: 40 }, (_, i) =>
  chat(user(`Which lake has number ${i}?`), answer(`SELECT name FROM lake WHERE id = ${i};`)))))

/** Runs the command on the embedded model; SIGINT once standard error says `until`. */
async function train(name: string, until?: RegExp): Promise<{ code: number | null; err: string; out: string }> {
  const child = spawn(process.execPath, [CLI, 'train', '--data', data, '--name', name, '--data-dir', join(folder.path, 'data'),
    '--preset', 'guide', '--loss-on', 'assistant', '--max-length', '96', '--max-steps', '8', '--gradient-accumulation-steps', '1',
    '--logging-steps', '1', '--save-steps', '100', '--r', '4'])
  let [out, err] = ['', '']
  child.stdout.on('data', (chunk) => { out += String(chunk) })
  child.stderr.on('data', (chunk) => {
    err += String(chunk)
    if (until?.test(err) === true) {
      until = undefined
      child.kill('SIGINT')
    }
  })
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
  return { code, out, err }
}

const digest = (name: string) =>
  createHash('sha256').update(readFileSync(join(folder.path, 'data', 'runs', name, 'adapter', 'adapter_model.safetensors'))).digest('hex')

t.test('lorikeet train stopped by Ctrl-C goes on with the same command, to the same adapter, which is published and loads', async (t) => {
  const whole = await train('whole')
  t.equal(whole.code, 0, whole.err)
  t.match(whole.err, /40 samples, [^]*step 8\/8: loss \d/)
  const stopped = await train('broken', /step 3\/8/)
  t.equal(stopped.code, 130, stopped.err)
  t.match(stopped.err, /stopped after step \d: the same command goes on/)
  t.equal(stopped.out, '')
  const resumed = await train('broken')
  t.equal(resumed.code, 0, resumed.err)
  t.match(resumed.err, /going on from step [3-7]/)
  t.equal(digest('broken'), digest('whole'))
  const store = await AdapterStore.open(join(folder.path, 'data', 'adapters'))
  t.same(store.names(), ['broken', 'whole'])
  const { path, version } = store.find('whole')
  t.match(whole.out, `whole@${version.slice(0, 12)}`)
  const engine = await createLocalEngine(embedded())
  t.teardown(() => engine.close())
  t.match(await engine.loadAdapter({ slot: 0, version, path }), { rank: 4, warnings: [] })
})
