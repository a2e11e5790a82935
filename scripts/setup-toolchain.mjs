// What a build needs of the machine, and the command that installs whatever is missing.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { StepFailed } from './setup-progress.mjs'

const MIN_NODE = [20, 19]
const MIN_CMAKE = [3, 20]

const packages = {
  'apt-get': { compiler: 'g++', cmake: 'cmake', ninja: 'ninja-build', node: 'nodejs' },
  dnf: { compiler: 'gcc-c++', cmake: 'cmake', ninja: 'ninja-build', node: 'nodejs' },
  brew: { compiler: 'llvm', cmake: 'cmake', ninja: 'ninja', node: 'node@22' }
}

/** @throws StepFailed when this Node is older than package.json's "engines" says */
export function checkNode(version = process.versions.node) {
  if (atLeast(version, MIN_NODE)) return
  throw new StepFailed(`Node ${MIN_NODE.join('.')} or newer is needed, this is ${version}. ` +
    'Install it from https://nodejs.org, or: nvm install 22')
}

/** @throws StepFailed that names everything missing at once */
export function checkToolchain() {
  const missing = []
  const compiler = compilerFault()
  if (compiler) missing.push({ what: compiler, name: 'compiler' })
  const cmake = /version (\S+)/.exec(outputOf('cmake', ['--version']) ?? '')?.[1]
  if (!cmake) missing.push({ what: 'CMake is missing', name: 'cmake' })
  else if (!atLeast(cmake, MIN_CMAKE)) missing.push({ what: `CMake ${MIN_CMAKE.join('.')} or newer is needed, this is ${cmake}`,
    name: 'cmake' })
  if (!outputOf('ninja', ['--version']) && !outputOf('make', ['--version'])) {
    missing.push({ what: 'neither Ninja nor make is there', name: 'ninja' })
  }
  if (missing.length === 0) return
  const manager = Object.keys(packages).find((name) => outputOf(name, ['--version']))
  const lines = missing.map(({ what, name }) => `  ${what}: ${installCommand(manager, name)}`)
  throw new StepFailed(`the native engine cannot be built here\n${lines.join('\n')}`)
}

function installCommand(manager, name) {
  if (!manager) return `install ${name === 'compiler' ? 'GCC 12 or Clang 15' : name} with this system's package manager`
  const sudo = manager === 'brew' || process.getuid?.() === 0 ? '' : 'sudo '
  return `${sudo}${manager} install ${manager === 'brew' ? '' : '-y '}${packages[manager][name]}`
}

/** Compiles three lines of C++20; version numbers of compilers say less. Returns what is wrong, if anything. */
function compilerFault() {
  const compiler = process.env.CXX || 'c++'
  if (!outputOf(compiler, ['--version'])) return `no C++ compiler (${compiler})`
  const folder = mkdtempSync(join(tmpdir(), 'lorikeet-setup-'))
  try {
    const source = join(folder, 'probe.cc')
    writeFileSync(source, '#include <concepts>\n#include <span>\ntemplate <std::integral T> T f(std::span<const T> s) { return s[0]; }\n')
    const { status } = spawnSync(compiler, ['-std=c++20', '-fsyntax-only', source])
    return status === 0 ? undefined : `${compiler} does not compile C++20`
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function outputOf(command, args) {
  const { status, stdout } = spawnSync(command, args, { encoding: 'utf8' })
  return status === 0 ? stdout : undefined
}

function atLeast(version, [major, minor]) {
  const [a = 0, b = 0] = version.split('.').map(Number)
  return a > major || (a === major && b >= minor)
}
