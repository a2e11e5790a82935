import { fork } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { once } from 'node:events'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { answer, chat, temporaryFolder, user } from './train-fixtures.js'

const N_ROWS = 100_000
const QUESTION = 'How many rivers are there in the state with the largest population, and how long is each of them? '.repeat(3)

t.test('a hundred thousand rows pass through a process that could not hold them', async (t) => {
  const folder = temporaryFolder()
  t.teardown(() => folder.remove())
  const file = join(folder.path, 'large.jsonl')
  await pipeline(Readable.from(rows()), createWriteStream(file))
  const child = fork(fileURLToPath(new URL('./train-memory-child.js', import.meta.url)), [file, folder.path], {
    execArgv: ['--max-old-space-size=40'], stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  const exited = once(child, 'exit')
  const [found] = await Promise.race([once(child, 'message'), exited.then(([code]) => [{ exit: code as number }])]) as
    [{ samples: number; tokens: number; lastTokens: number; arrayBuffers: number }]
  await exited
  t.equal(found.samples, N_ROWS)
  t.ok(found.tokens > 300 * N_ROWS, `${found.tokens} tokens, through 40 MiB of heap`)
  t.ok(found.lastTokens > 300)
  t.ok(found.arrayBuffers < 64 << 20, `${(found.arrayBuffers / 2 ** 20).toFixed(1)} MiB beside it, of 132 MB of tokens`)
})

function* rows(): Generator<string> {
  for (let i = 0; i < N_ROWS; i++) yield `${JSON.stringify(chat(user(`${QUESTION}${i}`), answer(`SELECT ${i};`)))}\n`
}
