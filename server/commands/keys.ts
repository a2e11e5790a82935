// `lorikeet keys create|list|revoke`: the API key file from the command line.

import { parseArgs } from 'node:util'
import { createKey, readKeyFile, revokeKey, SCOPES, type NewKey, type Scope } from '../keys.js'
import { keyFile } from '../config.js'
import { UsageError } from '../settings.js'

const USAGE = `Usage: lorikeet keys create --api-keys FILE [--name NAME] [--scope SCOPE]... [--model MODEL]...
                            [--requests-per-minute N] [--max-concurrent N] [--expires DATE]
       lorikeet keys list --api-keys FILE
       lorikeet keys revoke --api-keys FILE ID

create prints the key once; the file keeps its hash. A server that runs takes changes up within a second.
Scopes: ${SCOPES.join(', ')} (default infer; admin holds all).`

const OPTIONS = {
  'api-keys': { type: 'string' },
  name: { type: 'string' },
  scope: { type: 'string', multiple: true },
  model: { type: 'string', multiple: true },
  'requests-per-minute': { type: 'string' },
  'max-concurrent': { type: 'string' },
  expires: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
} as const

type Values = ReturnType<typeof parse>['values']

export async function keys(args: readonly string[]): Promise<number> {
  const { values, positionals } = parse(args)
  const [action, id] = positionals
  if (values.help === true || action === undefined) return print(USAGE)
  const file = keyFile(values['api-keys'])
  if (file === undefined) throw new UsageError('--api-keys FILE is needed')
  if (action === 'create') return print(createKey(file, newKey(values)).secret)
  if (action === 'list') return list(file)
  if (action !== 'revoke') throw new UsageError(`unknown action "${action}": create, list or revoke`)
  if (id === undefined) throw new UsageError('revoke needs the ID that "lorikeet keys list" shows')
  if (!revokeKey(file, id)) throw new UsageError(`${file} holds no key ${id}`)
  return print(`revoked ${id}`)
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: OPTIONS, allowPositionals: true, strict: true })
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

function newKey(values: Values): NewKey {
  const { name = 'unnamed', scope = ['infer'], model, expires } = values
  const requestsPerMinute = positive('requests-per-minute', values)
  const maxConcurrent = positive('max-concurrent', values)
  return {
    name,
    scopes: scope.map(toScope),
    ...(model !== undefined && { models: model }),
    ...(requestsPerMinute !== undefined && { requestsPerMinute }),
    ...(maxConcurrent !== undefined && { maxConcurrent }),
    ...(expires !== undefined && { expiresAt: toDate(expires) }),
  }
}

function toScope(scope: string): Scope {
  const known = SCOPES.find((candidate) => candidate === scope)
  if (known === undefined) throw new UsageError(`--scope expects one of ${SCOPES.join(', ')}, not "${scope}"`)
  return known
}

function toDate(value: string): string {
  const at = Date.parse(value)
  if (Number.isNaN(at)) throw new UsageError(`--expires expects a date like 2027-01-31, not "${value}"`)
  return new Date(at).toISOString()
}

function positive(flag: 'requests-per-minute' | 'max-concurrent', values: Values): number | undefined {
  const value = values[flag]
  if (value === undefined) return undefined
  if (/^[1-9]\d{0,6}$/.test(value)) return Number(value)
  throw new UsageError(`--${flag} expects a whole number from 1, not "${value}"`)
}

function list(file: string): number {
  const rows = readKeyFile(file).map(({ id, name, scopes, models, expiresAt }) =>
    [id, name, scopes.join(','), models?.join(',') ?? 'all models', expiresAt ?? 'no expiry'].join('  '),
  )
  return print(rows.length === 0 ? 'no keys' : rows.join('\n'))
}

function print(text: string): number {
  process.stdout.write(`${text}\n`)
  return 0
}
