// `lorikeet adapters list|show|add|promote|rollback|remove`: a client of /admin/adapters of a server that runs.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { ADAPTER_FILES } from '../../adapters/manifest.js'
import { clientApiKey } from '../config.js'
import { UsageError } from '../settings.js'
import { ServerClient } from './server-client.js'

const USAGE = `Usage: lorikeet adapters list                       [--server URL] [--api-key KEY]
       lorikeet adapters show NAME
       lorikeet adapters add NAME FOLDER [--no-promote]   FOLDER holds ${ADAPTER_FILES.join(' and ')}
       lorikeet adapters promote NAME VERSION
       lorikeet adapters rollback NAME
       lorikeet adapters remove NAME [VERSION]

VERSION may be its first digits. The server is http://127.0.0.1:8000 unless --server names another; LORIKEET_API_KEY works as well.`

const OPTIONS = {
  server: { type: 'string', default: 'http://127.0.0.1:8000' },
  'api-key': { type: 'string' },
  'no-promote': { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const

const SHORT_VERSION = 12
const ROUTE = '/admin/adapters'

interface VersionCard {
  readonly version: string
  readonly bytes: number
  readonly rank: number
  readonly tier: string
  readonly pins: number
  readonly current: boolean
  readonly created_at: string
  readonly warnings: readonly string[]
}

interface AdapterCard {
  readonly name: string
  readonly served: boolean
  readonly pinned: boolean
  readonly current: string | null
  readonly versions: readonly VersionCard[]
}

export async function adapters(args: readonly string[]): Promise<number> {
  const { values, positionals } = parse(args)
  const [action, ...rest] = positionals
  if (values.help || action === undefined) return print(USAGE)
  const client = new ServerClient(values.server, clientApiKey(values['api-key']))
  const name = rest[0] === undefined ? ROUTE : `${ROUTE}/${encodeURIComponent(rest[0])}`
  switch (`${action}/${rest.length}`) {
    case 'list/0': return print(adapterTable((await client.json<{ data: AdapterCard[] }>('GET', ROUTE)).data))
    case 'show/1': return print(versionTable(await client.json<AdapterCard>('GET', name)))
    case 'add/2': return print(added(await upload(client, rest[0]!, rest[1]!, !values['no-promote']), rest[0]!))
    case 'promote/2': return print(versionTable(await client.json<AdapterCard>('POST', `${name}/promote`, { version: rest[1] })))
    case 'rollback/1': return print(versionTable(await client.json<AdapterCard>('POST', `${name}/rollback`)))
    case 'remove/1': return client.json('DELETE', name).then(() => print(`removed ${rest[0]}`))
    case 'remove/2':
      await client.json('DELETE', `${name}/versions/${encodeURIComponent(rest[1]!)}`)
      return print(`removed version ${rest[1]} of ${rest[0]}`)
    default: throw new UsageError(`"${positionals.join(' ')}" is not an action with its arguments`)
  }
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: OPTIONS, allowPositionals: true, strict: true })
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

/** @throws UsageError when the folder lacks one of PEFT's two files */
function upload(client: ServerClient, name: string, folder: string, promote: boolean): Promise<VersionCard> {
  for (const file of ADAPTER_FILES) if (!existsSync(join(folder, file))) throw new UsageError(`${folder} holds no ${file}`)
  const files = ADAPTER_FILES.map((file) => ({ name: file, path: join(folder, file), filename: file }))
  return client.form(ROUTE, [{ name: 'name', value: name }, { name: 'promote', value: String(promote) }, ...files])
}

function added({ version, rank, bytes, warnings, current }: VersionCard, name: string): string {
  const lines = [`${name}@${version.slice(0, SHORT_VERSION)}: rank ${rank}, ${megabytes(bytes)}${current ? ', current' : ''}`]
  return [...lines, ...warnings.map((warning) => `warning: ${warning}`)].join('\n')
}

function adapterTable(list: readonly AdapterCard[]): string {
  if (list.length === 0) return 'no adapters'
  return table(['NAME', 'CURRENT', 'VERSIONS', 'RANK', 'SIZE', 'TIER', 'PINS', ''],
    list.map(({ name, current, versions, served, pinned }) => {
    const shown = versions.find((version) => version.current)
    const notes = [...(served ? [] : ['not served']), ...(pinned ? ['pinned'] : [])].join(', ')
    return [name, short(current), String(versions.length), String(shown?.rank ?? ''), shown ? megabytes(shown.bytes) : '',
      shown?.tier ?? '',
      String(shown?.pins ?? ''), notes]
  }))
}

function versionTable({ versions }: AdapterCard): string {
  return table(['VERSION', 'CREATED', 'RANK', 'SIZE', 'TIER', 'PINS', ''],
    versions.map(({ version, created_at, rank, bytes, tier, pins, current }) =>
    [short(version), created_at, String(rank), megabytes(bytes), tier, String(pins), current ? 'current' : '']))
}

function table(head: readonly string[], rows: ReadonlyArray<readonly string[]>): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]!.length)))
  return [head, ...rows].map((row) => row.map((cell, i) => cell.padEnd(widths[i]!)).join('  ').trimEnd()).join('\n')
}

const short = (version: string | null): string => version?.slice(0, SHORT_VERSION) ?? 'none'
const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`

function print(text: string): number {
  process.stdout.write(`${text}\n`)
  return 0
}
