// `lorikeet bench`: the serving benchmark, which is a script of its own.

import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { UsageError } from '../settings.js'

export async function bench(args: readonly string[]): Promise<number> {
  const script = fileURLToPath(new URL('../../scripts/bench-serve.js', import.meta.url))
  if (!existsSync(script)) throw new UsageError('the benchmark is not built: run "npm run setup"')
  const child = spawn(process.execPath, [script, ...args], { stdio: 'inherit' })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('exit', (code) => resolve(code ?? 1))
  })
}
