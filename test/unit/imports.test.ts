import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'

interface SourceFile {
  readonly path: string
  readonly text: string
}

const layers = ['server', 'adapters', 'engine']   // a layer imports itself and those to its right

function sources(folder: string, ending: RegExp): SourceFile[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => ending.test(name) && !name.startsWith('console/'))
    .map((name) => ({ path: join(folder, name), text: readFileSync(join(folder, name), 'utf8') }))
}

/** Relative imports (also type-only, dynamic and re-exports), as paths from the root. */
function relativeImports({ path, text }: SourceFile): string[] {
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)]
    .map(([, specifier]) => normalize(join(dirname(path), specifier ?? '')))
}

const typescript = layers.flatMap((layer) => sources(layer, /\.ts$/))

t.test('there are sources to check, and the scan sees their imports', async (t) => {
  t.ok(typescript.length >= 4)
  const probe = { path: 'server/routes/x.ts', text: "import type { A } from '../../engine/api.js'\nawait import('./y.js')" }
  t.same(relativeImports(probe), ['engine/api.js', 'server/routes/y.js'])
})

t.test('imports go one way: server, adapters, engine', async (t) => {
  const wrong = typescript.flatMap((file) => {
    const from = layers.indexOf(file.path.split('/')[0] ?? '')
    return relativeImports(file).filter((to) => layers.indexOf(to.split('/')[0] ?? '') < from).map((to) => `${file.path} -> ${to}`)
  })
  t.same(wrong, [])
})

t.test('only the engine reaches native code, and only engine/native.ts the addon', async (t) => {
  const outside = typescript.filter((file) => !file.path.startsWith('engine/') && relativeImports(file).includes('engine/native.js'))
  t.same(outside.map((file) => file.path), [])
  const loaders = typescript.filter((file) => /lorikeet\.node|createRequire/.test(file.text)).map((file) => file.path)
  t.same(loaders, ['engine/native.ts'])
})

t.test('only server/config.ts reads process.env', async (t) => {
  const readers = typescript.filter((file) => /process\.env\b/.test(file.text)).map((file) => file.path)
  t.same(readers.filter((path) => path !== 'server/config.ts'), [])
})

t.test('no file has a default export', async (t) => {
  t.same(typescript.filter((file) => /^export default\b/m.test(file.text)).map((file) => file.path), [])
})

t.test('native core knows its backends through backend.h alone', async (t) => {
  const core = sources('engine/native/core', /\.(cc|h)$/)
  const wrong = core.filter((file) => /#include "(?:\.\.\/)?(?:cpu|cuda|no_cuda|bindings)\//.test(file.text)).map((file) => file.path)
  t.same(wrong, [])
})
