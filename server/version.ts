// The version of package.json, found from wherever this module was built to.

import { existsSync, readFileSync } from 'node:fs'

export const VERSION = readVersion()

function readVersion(): string {
  for (let url = new URL('./', import.meta.url); ; url = new URL('../', url)) {
    const file = new URL('package.json', url)
    if (existsSync(file)) return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
    if (url.pathname === '/') return 'unknown'
  }
}
