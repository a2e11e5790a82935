#!/usr/bin/env node
// Installs, builds TypeScript and the native engine, and does nothing when nothing changed. Needs Node alone: no package.
// It decides by content: every step has a digest of its inputs in build/setup.json.

import { createHash } from 'node:crypto'
import {
  copyFileSync, existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync
} from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { StepFailed, progress, runCommand } from './setup-progress.mjs'
import { checkNode, checkToolchain } from './setup-toolchain.mjs'
import { prepareWeights } from './setup-weights.mjs'

const USAGE = `usage: node scripts/setup.mjs [--test] [--cuda] [--quiet] [--force]
  --test    also builds the tests, and fetches the real 270M weights that some of them use
  --cuda    build the CUDA backend too (needs nvcc: on the PATH or under CUDA_HOME)
  --quiet   say nothing unless something is built or fails
  --force   build even where nothing changed`

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const stampPath = join(root, 'build', 'setup.json')
const sourceFolders = ['server', 'adapters', 'engine', 'scripts']
process.chdir(root)

await main().catch((error) => {
  if (!(error instanceof StepFailed)) throw error
  progress.end()
  console.error(`\nsetup failed: ${error.message}`)
  process.exit(1)
})

async function main() {
  const options = readOptions()
  const startedAt = performance.now()
  checkNode()
  const todo = plan(options)
  if (!todo.any) return options.quiet || console.log(`setup: nothing to do (${elapsed(startedAt)})`)
  progress.begin(options)
  if (todo.native) checkToolchain()
  if (todo.install) await install()
  const typescript = todo.typescript ? buildTypescript(options) : undefined
  const native = todo.native ? buildNative(options) : undefined
  const weights = todo.weights ? prepareWeights(join(root, 'build', 'models')) : undefined
  const failed = (await Promise.allSettled([typescript, native, weights])).find((outcome) => outcome.status === 'rejected')
  if (failed) throw failed.reason
  progress.end()
  console.log(`setup: done in ${elapsed(startedAt)}`)
}

function readOptions() {
  const flag = { type: 'boolean', default: false }
  try {
    const { values } = parseArgs({ options: { test: flag, cuda: flag, quiet: flag, force: flag, help: flag } })
    if (values.help) {
      console.log(USAGE)
      process.exit(0)
    }
    return values
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`)
    process.exit(2)
  }
}

/** What has to be done: a step whose inputs, or whose output, are not those of its last success. */
function plan({ test, cuda, force }) {
  const stamps = force ? {} : readStamps()
  const todo = {
    install: !installed(),
    typescript: typescriptStep(test).every((step) => stamps[step.name] !== step.digest()) || !existsSync('dist/engine'),
    native: existsSync('engine/native/CMakeLists.txt') &&
      (stamps.native !== nativeDigest(test, cuda) || !existsSync('build/lorikeet.node')),
    weights: test && !existsSync('build/models/gemma-3-270m-q4_k_m.gguf') && !existsSync('build/models/skipped')
  }
  return { ...todo, any: Object.values(todo).some(Boolean) }
}

/** True when node_modules holds every package of the lock file in its version. A linked node_modules is its owner's affair. */
function installed() {
  if (existsSync('node_modules') && lstatSync('node_modules').isSymbolicLink()) return true
  const wanted = readJson('package-lock.json')?.packages
  const present = readJson('node_modules/.package-lock.json')?.packages
  if (!wanted || !present) return existsSync('node_modules') && !wanted
  return Object.entries(wanted).every(([path, { version, optional }]) =>
    path === '' || (present[path] === undefined ? optional : present[path].version === version))
}

async function install() {
  const command = existsSync('package-lock.json') ? 'ci' : 'install'
  await runCommand('packages', 'npm', [command, '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], {
    advice: 'is the package registry reachable? With a proxy, set npm\'s "proxy" and "https-proxy"'
  })
}

/** A build with the tests in it serves one without them as well, so either stamp will do for the latter. */
function typescriptStep(test) {
  const digest = (folders) => () => digestOf([...folders.flatMap(filesUnder), 'tsconfig.json', 'tsconfig.build.json', 'package-lock.json']
    .filter((path) => path.endsWith('.ts') || path.endsWith('.json')))
  const withTests = { name: 'typescriptTests', digest: digest([...sourceFolders, 'test']) }
  return test ? [withTests] : [withTests, { name: 'typescript', digest: digest(sourceFolders) }]
}

async function buildTypescript({ test }) {
  const step = typescriptStep(test).at(-1)
  const digest = step.digest()
  if (test && tapNeedsBuild()) await runCommand('test runner', process.execPath, ['node_modules/tap/dist/esm/run.mjs', 'build'])
  const project = test ? 'tsconfig.json' : 'tsconfig.build.json'
  await runCommand('TypeScript', process.execPath, ['node_modules/typescript/bin/tsc', '-p', project])
  removeOrphans()
  saveStamps({ [step.name]: digest })
}

/** tap ships with a TypeScript plugin that cannot load TypeScript 7; .taprc drops it, which takes one `tap build`. */
function tapNeedsBuild() {
  const built = 'node_modules/@tapjs/test/test-built/dist/esm/index.js'
  return !existsSync(built) || readFileSync(built, 'utf8').includes('from "@tapjs/typescript"')
}

/** Removes outputs whose source is gone: a deleted test must not run. */
function removeOrphans() {
  for (const path of [...sourceFolders, 'test'].flatMap((folder) => filesUnder(join('dist', folder)))) {
    const source = /^dist\/(.+)\.js(?:\.map)?$/.exec(path)?.[1]
    if (source && !source.startsWith('server/console/') && !existsSync(`${source}.ts`)) rmSync(path)
  }
}

/** Once the C++ tests are built here they stay part of the build: changing to and fro would build twice. */
function buildsNativeTests(test) {
  return test || readStamps().nativeTests === true
}

/** The same for the CUDA backend: `npm start` after `npm run setup -- --cuda` keeps it. */
function buildsCuda(cuda) {
  return cuda || readStamps().nativeCuda === true
}

function nativeDigest(test, cuda) {
  return digestOf([...filesUnder('engine/native'), 'package-lock.json'], `cuda=${buildsCuda(cuda)} tests=${buildsNativeTests(test)}`)
}

async function buildNative({ test, cuda }) {
  const digest = nativeDigest(test, cuda)
  const withTests = buildsNativeTests(test), withCuda = buildsCuda(cuda)
  const generator = existsSync('build/native/CMakeCache.txt') || !onPath('ninja') ? [] : ['-G', 'Ninja']
  const options = ['-DCMAKE_BUILD_TYPE=Release', `-DLORIKEET_CUDA=${withCuda ? 'ON' : 'OFF'}`, `-DLORIKEET_TESTS=${withTests ? 'ON' : 'OFF'}`]
  await runCommand('native: configure', 'cmake', ['-S', 'engine/native', '-B', 'build/native', ...generator, ...options])
  await runCommand('native: build', 'cmake', ['--build', 'build/native', '--parallel', String(availableParallelism())])
  const addon = filesUnder('build/native').find((path) => path.endsWith('/lorikeet.node'))
  if (!addon) throw new StepFailed('the native build left no lorikeet.node under build/native')
  // A running server has the old file mapped: a new file takes its name, the old one is never written to.
  copyFileSync(addon, 'build/lorikeet.node.new')
  renameSync('build/lorikeet.node.new', 'build/lorikeet.node')
  saveStamps({ native: digest, nativeTests: withTests, nativeCuda: withCuda })
}

function onPath(program) {
  return (process.env.PATH ?? '').split(':').some((folder) => folder !== '' && existsSync(join(folder, program)))
}

function filesUnder(folder) {
  if (!existsSync(folder)) return []
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(root, entry.parentPath ?? entry.path, entry.name)))
    .filter((path) => !path.includes('node_modules/'))
    .sort()
}

function digestOf(paths, extra = '') {
  const hash = createHash('sha256').update(extra)
  for (const path of paths) {
    if (!existsSync(path)) continue
    hash.update(`${path}\0${statSync(path).size}\0`).update(readFileSync(path))
  }
  return hash.digest('hex')
}

function readStamps() {
  return readJson(stampPath) ?? {}
}

function saveStamps(stamps) {
  mkdirSync(dirname(stampPath), { recursive: true })
  writeFileSync(stampPath, JSON.stringify({ ...readStamps(), ...stamps }, null, 2))
}

function readJson(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch {
    return undefined
  }
}

function elapsed(since) {
  return `${((performance.now() - since) / 1000).toFixed(1)} s`
}
