import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'

const toolchain = pathToFileURL(resolve('scripts/setup-toolchain.mjs')).href

/** Runs an expression on the toolchain module in a process of its own; resolves to what it printed. */
function evaluate(expression: string, path: string): Promise<string> {
  const program = `const m = await import('${toolchain}'); try { ${expression}; console.log('fine') } catch (e) { console.log(e.message) }`
  return new Promise((resolve) => {
    execFile(process.execPath, ['--input-type=module', '-e', program], { env: { PATH: path } }, (_error, stdout) => resolve(stdout))
  })
}

t.test('a machine without compiler, CMake and make is told all three and how to install them', async (t) => {
  const empty = mkdtempSync(join(tmpdir(), 'lorikeet-empty-'))
  t.teardown(() => rmSync(empty, { recursive: true }))
  const text = await evaluate('m.checkToolchain()', empty)
  t.match(text, /no C\+\+ compiler/)
  t.match(text, /CMake is missing/)
  t.match(text, /neither Ninja nor make/)
  t.equal(text.match(/install/g)?.length, 3)
})

t.test('Node below 20.19 is refused with its version, newer ones are taken', async (t) => {
  const path = process.env.PATH ?? ''
  t.match(await evaluate("m.checkNode('20.18.3')", path), /Node 20\.19 or newer is needed, this is 20\.18\.3/)
  for (const version of ['20.19.0', '22.0.0', '26.1.0']) t.equal(await evaluate(`m.checkNode('${version}')`, path), 'fine\n')
})
