#!/usr/bin/env node
// Runs every test and ends with one line, "N passed, N failed, N skipped": native programs by CTest, then tap by need.

import { spawn } from 'node:child_process'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const USAGE = `usage: node scripts/run-tests.mjs [--device DEVICE] [--jobs N] [GROUP | FILE.test.js ...]
  GROUP     one of: cpp (native programs), unit, native, server, e2e. Without any: all of them, in this order
  --device  where suites over a real engine run: cpu (the default), cuda or cuda:N, as LORIKEET_TEST_DEVICE says it.
            Without a GROUP, cuda runs what a GPU changes: cpp, native, e2e
  --jobs    files of native and e2e at a time (default 1: some measure time)`

const root = dirname(dirname(fileURLToPath(import.meta.url)))
process.chdir(root)

// Files of one group run side by side where they only compute. What measures time or kills processes runs alone.
const tapGroups = {
  unit: { jobs: availableParallelism(), timeoutS: 120 },
  native: { jobs: 1, timeoutS: 240 },
  server: { jobs: availableParallelism(), timeoutS: 120 },
  e2e: { jobs: 1, timeoutS: 300 }
}

const { values: options, positionals: wanted } = readOptions()
if (options.help) {
  console.log(USAGE)
  process.exit(0)
}
tapGroups.native.jobs = tapGroups.e2e.jobs = Number(options.jobs)
process.env.LORIKEET_TEST_DEVICE = options.device
const isCuda = options.device !== 'cpu'
if (!/^(cpu|cuda(:\d+)?)$/.test(options.device)) {
  console.error(`--device ${options.device}: expected cpu, cuda or cuda:N\n${USAGE}`)
  process.exit(2)
}
if (isCuda) await requireGpu()
const files = wanted.filter((name) => name.endsWith('.test.js'))
const groups = wanted.filter((name) => !name.endsWith('.test.js'))
const unknown = groups.filter((name) => name !== 'cpp' && !(name in tapGroups))
if (unknown.length > 0) {
  console.error(`unknown group: ${unknown.join(', ')}\n${USAGE}`)
  process.exit(2)
}

const total = { pass: 0, fail: 0, skip: 0 }
const runs = (group) => groups.includes(group) || (wanted.length === 0 && !(isCuda && (group === 'unit' || group === 'server')))
if (runs('cpp')) add('cpp', await runCtest('build/native'))
for (const [group, limits] of Object.entries(tapGroups)) {
  if (runs(group)) add(group, await runTap(testFiles(join('dist/test', group)), limits))
}
if (files.length > 0) add('files', await runTap(files, tapGroups.e2e))
if (total.pass + total.fail === 0) {
  console.error('no test was run')
  total.fail += 1
}
console.log(`${total.pass} passed, ${total.fail} failed${total.skip > 0 ? `, ${total.skip} skipped` : ''}`)
process.exit(total.fail > 0 ? 1 : 0)

function readOptions() {
  const device = process.env.LORIKEET_TEST_DEVICE || 'cpu'
  const help = { type: 'boolean', default: false }
  try {
    return parseArgs({ allowPositionals: true, options: { device: { type: 'string', default: device }, jobs: { type: 'string', default: '1' }, help } })
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`)
    process.exit(2)
  }
}

/** A run on a GPU that is not there must not pass by skipping. */
async function requireGpu() {
  const { native } = await import('../dist/engine/native.js')
  const { built, devices } = native().systemInfo().cuda
  if (built && devices.length > 0) return console.log(`on ${options.device}: ${devices.join(', ')}\n`)
  console.error(built ? 'no usable GPU here: is the driver loaded (nvidia-smi)?' : 'built without CUDA: run "npm run setup -- --cuda" where nvcc is')
  console.log('0 passed, 1 failed')
  process.exit(1)
}

function add(group, { pass, fail, skip }) {
  console.log(`[${group}] ${pass} pass, ${fail} fail, ${skip} skip\n`)
  total.pass += pass
  total.fail += fail
  total.skip += skip
}

function testFiles(folder) {
  if (!existsSync(folder)) return []
  return readdirSync(folder, { recursive: true }).filter((path) => path.endsWith('.test.js')).map((path) => join(folder, path)).sort()
}

async function runCtest(folder) {
  const none = { pass: 0, fail: 0, skip: 0 }
  if (!existsSync(join(folder, 'CTestTestfile.cmake'))) return none
  const { code, output } = await run('ctest', ['--test-dir', folder, '--output-on-failure', '--timeout', '240'])
  const skip = (output.match(/\*\*\*Skipped/g) ?? []).length
  const [, failed, all] = /(\d+) tests failed out of (\d+)/.exec(output) ?? []
  if (all === undefined) return code === 0 ? none : { ...none, fail: 1 }
  return atLeastOneFailure(code, { pass: Number(all) - Number(failed) - skip, fail: Number(failed), skip })
}

async function runTap(paths, { jobs, timeoutS }) {
  if (paths.length === 0) return { pass: 0, fail: 0, skip: 0 }
  const options = ['--reporter=terse', `--jobs=${jobs}`, `--timeout=${timeoutS}`]
  const { code, output } = await run(process.execPath, ['node_modules/tap/dist/esm/run.mjs', 'run', ...options, ...paths])
  rmSync('.tap/processinfo', { recursive: true, force: true })
  const summary = /^# \{ total: .*\}$/m.exec(output)?.[0] ?? ''
  const count = (name) => Number(new RegExp(`${name}: (\\d+)`).exec(summary)?.[1] ?? 0)
  return atLeastOneFailure(code, { pass: count('pass'), fail: count('fail'), skip: count('skip') + count('todo') })
}

/** A runner that failed without naming a test (a crash, a time-out) still counts. */
function atLeastOneFailure(code, counts) {
  return code !== 0 && counts.fail === 0 ? { ...counts, fail: 1 } : counts
}

/** Shows a command's output as it comes, less the redrawn summaries that only a terminal can show, and keeps it. */
function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, TAP_NO_COLOR: '1', NO_COLOR: '1' } })
    let output = ''
    let line = ''
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      output += chunk
      const lines = (line + chunk).split('\n')
      line = lines.pop()
      for (const text of lines) if (!isRedraw(text)) console.log(text)
    })
    child.on('error', reject)
    child.on('close', (code) => resolve({ code: code ?? 1, output }))
  })
}

function isRedraw(text) {
  return text.includes('\x1b[') || /^(Asserts|Suites): /.test(text) || text.trim() === ''
}
