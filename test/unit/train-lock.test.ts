// The lock of a run's directory: who holds it, what a crash leaves, and who gets it when many want it.

import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { RunLock } from '../../engine/train/run-lock.js'
import { jsonl } from './train-fixtures.js'
import { rowsOfChats, run } from './train-run.js'

const CHILD = fileURLToPath(new URL('./train-lock-child.js', import.meta.url))

/** A process that asks for the lock of each folder that it is sent, and says "held" or the error's code. */
async function child(t: Test): Promise<{ readonly process: ChildProcess; ask(folder: string): Promise<unknown> }> {
  const process = fork(CHILD)
  t.teardown(() => process.kill('SIGKILL'))
  await once(process, 'message')
  return {
    process,
    async ask(folder) {
      process.send(folder)
      return (await once(process, 'message'))[0]
    },
  }
}

async function kill(process: ChildProcess): Promise<void> {
  process.kill('SIGKILL')
  await once(process, 'exit')
}

t.test('a second process is refused while the first lives, and gets the lock of one that was killed', async (t) => {
  const folder = t.testdir({})
  const [first, second] = [await child(t), await child(t)]
  t.equal(await first.ask(folder), 'held')
  t.equal(await second.ask(folder), 'TRAINING_BUSY')
  const message = `process ${first.process.pid} is training in ${folder}: wait for it, or take another output directory`
  await t.rejects(RunLock.acquire(folder), { code: 'TRAINING_BUSY', message })
  first.process.kill('SIGSTOP')
  t.equal(await second.ask(folder), 'TRAINING_BUSY', 'one that is stopped lives')
  await kill(first.process)
  t.equal(await second.ask(folder), 'held')
})

t.test('a pid that another process has now holds nothing, nor does a torn file', async (t) => {
  const folder = t.testdir({})
  const path = join(folder, 'run.lock')
  const lock = await RunLock.acquire(folder)
  const holder = JSON.parse(readFileSync(join(path, 'holder.json'), 'utf8')) as { began: string }
  t.equal(holder.began === '', process.platform !== 'linux')
  await lock.release()
  t.same(readdirSync(folder), [])
  const gone = [{ ...holder, began: 'another boot 17' }, { ...holder, pid: 2 ** 22 + 1 }].map((other) => JSON.stringify(other))
  for (const left of [...gone, '{"pi', '']) {
    mkdirSync(path)
    writeFileSync(join(path, 'holder.json'), left)
    await (await RunLock.acquire(folder)).release()
    t.notOk(existsSync(path), left)
  }
  mkdirSync(path)
  await (await RunLock.acquire(folder)).release()
  t.same(readdirSync(folder), [], 'an empty folder')
})

t.test('of many that find a stale lock at once, one gets it', async (t) => {
  const folder = t.testdir({})
  for (let round = 0; round < 20; round++) {
    mkdirSync(join(folder, 'run.lock'))
    writeFileSync(join(folder, 'run.lock', 'holder.json'), JSON.stringify({ pid: 2 ** 22 + 1, began: '', token: 'old' }))
    const outcomes = await Promise.allSettled(Array.from({ length: 12 }, () => RunLock.acquire(folder)))
    const held = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []))
    t.equal(held.length, 1, `round ${round}`)
    for (const lock of held) await lock.release()
    t.same(readdirSync(folder), [])
  }
})

t.test('two runs on one directory: the second is refused and touches nothing, and the first goes on to its end', async (t) => {
  const folder = t.testdir({ 'data.jsonl': jsonl(rowsOfChats(20)), run: {} })
  const options = { files: [join(folder, 'data.jsonl')], outputDir: join(folder, 'run') }
  const second: Promise<unknown>[] = []
  const { adapter } = await run({
    ...options,
    onEvent: ({ type }) => {
      if (type !== 'step' || second.length > 0) return
      second.push(t.rejects(run(options), { code: 'TRAINING_BUSY' }))
    },
  })
  await Promise.all(second)
  t.equal(second.length, 1)
  t.ok(adapter)
  t.notOk(existsSync(join(options.outputDir, 'run.lock')), 'the lock goes with the run')
  t.equal((await run(options)).adapter, adapter, 'and the directory can be used again')
})
