// `lorikeet adapters list|show|add|promote|rollback|remove`: a client of /admin/adapters of a server that runs.

import { createReadStream, existsSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { ADAPTER_FILES } from '../../adapters/manifest.js'
import { clientApiKey } from '../config.js'
import { UsageError } from '../settings.js'

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
  const client = new AdminClient(values.server, clientApiKey(values['api-key']))
  const name = rest[0] === undefined ? '' : `/${encodeURIComponent(rest[0])}`
  switch (`${action}/${rest.length}`) {
    case 'list/0': return print(adapterTable(((await client.call('GET', '')) as { data: AdapterCard[] }).data))
    case 'show/1': return print(versionTable((await client.call('GET', name)) as AdapterCard))
    case 'add/2': return print(added((await client.upload(rest[0]!, rest[1]!, !values['no-promote'])) as VersionCard, rest[0]!))
    case 'promote/2': return print(versionTable((await client.call('POST', `${name}/promote`, { version: rest[1] })) as AdapterCard))
    case 'rollback/1': return print(versionTable((await client.call('POST', `${name}/rollback`)) as AdapterCard))
    case 'remove/1': return client.call('DELETE', name).then(() => print(`removed ${rest[0]}`))
    case 'remove/2':
      await client.call('DELETE', `${name}/versions/${encodeURIComponent(rest[1]!)}`)
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

class AdminClient {
  readonly #base: URL
  readonly #headers: Record<string, string>

  constructor(server: string, apiKey: string | undefined) {
    if (!URL.canParse(server)) throw new UsageError(`--server expects a URL like http://127.0.0.1:8000, not "${server}"`)
    this.#base = new URL(server)
    this.#headers = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }
  }

  /** @throws UsageError when the server does not answer, or refuses */
  call(method: string, path: string, body?: object): Promise<unknown> {
    const json = body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }
    return this.#send(path, { method, ...json })
  }

  /** Streams the two files: an adapter need not fit in memory. */
  upload(name: string, folder: string, promote: boolean): Promise<unknown> {
    for (const file of ADAPTER_FILES) if (!existsSync(join(folder, file))) throw new UsageError(`${folder} holds no ${file}`)
    const boundary = `lorikeet-${randomBytes(12).toString('hex')}`
    const init = { method: 'POST', body: formOf({ name, promote: String(promote) }, folder, boundary), duplex: 'half' }
    return this.#send('', { ...init, headers: { 'content-type': `multipart/form-data; boundary=${boundary}` } } as unknown as RequestInit)
  }

  async #send(path: string, init: RequestInit): Promise<unknown> {
    const url = new URL(`/admin/adapters${path}`, this.#base)
    const headers = { ...this.#headers, ...(init.headers as Record<string, string>) }
    const response = await fetch(url, { ...init, headers }).catch((error: Error) => {
      throw new UsageError(`${this.#base.origin} does not answer: ${(error.cause as Error | undefined)?.message ?? error.message}`)
    })
    const text = await response.text()
    if (response.ok) return JSON.parse(text)
    throw new UsageError(`${this.#base.origin} answered ${response.status}: ${messageOf(text)}`)
  }
}

async function* formOf(fields: Record<string, string>, folder: string, boundary: string): AsyncGenerator<Uint8Array> {
  for (const [field, value] of Object.entries(fields)) {
    yield Buffer.from(`--${boundary}\r\ncontent-disposition: form-data; name="${field}"\r\n\r\n${value}\r\n`)
  }
  for (const file of ADAPTER_FILES) {
    yield Buffer.from(`--${boundary}\r\ncontent-disposition: form-data; name="${file}"; filename="${file}"\r\n` +
      'content-type: application/octet-stream\r\n\r\n')
    yield* createReadStream(join(folder, file), { highWaterMark: 1 << 20 })
    yield Buffer.from('\r\n')
  }
  yield Buffer.from(`--${boundary}--\r\n`)
}

function messageOf(text: string): string {
  try {
    return (JSON.parse(text) as { error: { message: string } }).error.message
  } catch {
    return text.slice(0, 200)
  }
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
