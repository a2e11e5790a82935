// What can be put under load: an engine process of our own, or a server over HTTP.

import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Agent, request } from 'undici'
import type { AdapterHandle, Engine } from '../../engine/api.js'
import { RemoteEngine } from '../../engine/client.js'
import { ServerClient } from '../commands/server-client.js'
import type { LoadRequest, Target } from './load.js'

export class EngineTarget implements Target {
  readonly name = 'engine'
  readonly engine: Engine
  readonly #adapters: readonly AdapterHandle[]
  #nRequests = 0

  /** adapters: client i uses number i modulo their count; none: the base. */
  constructor(engine: Engine, adapters: readonly AdapterHandle[] = []) {
    this.engine = engine
    this.#adapters = adapters
  }

  async generate({ promptIds, maxTokens, client }: LoadRequest, onTokens: (n: number) => void): Promise<void> {
    const adapter = this.#adapters[client % this.#adapters.length] ?? null
    const request = { id: `bench-${this.#nRequests++}`, prompt: { tokenIds: promptIds }, adapter, maxTokens, ignoreEos: true,
      sampling: { temperature: 0 } }
    for await (const event of this.engine.generate(request)) if (event.type === 'delta') onTokens(event.tokenIds.length)
  }

  residentBytes(): { now: number; peak: number } | undefined {
    return this.engine instanceof RemoteEngine ? readResident(this.engine.pid) : undefined
  }

  close(): Promise<void> {
    return this.engine.close()
  }
}

export class HttpTarget implements Target {
  readonly name = 'http'
  readonly #url: string
  readonly #model: string
  readonly #server: ChildProcess | undefined
  readonly #headers: Readonly<Record<string, string>>
  readonly #agent = new Agent({ connections: 256 })

  private constructor(url: string, model: string, headers: Readonly<Record<string, string>>, server: ChildProcess | undefined) {
    this.#url = url
    this.#model = model
    this.#headers = headers
    this.#server = server
  }

  get model(): string {
    return this.#model
  }

  /** A server that runs already; its first model. */
  static async connect(url: string, { apiKey, server }: { apiKey?: string | undefined; server?: ChildProcess } = {}): Promise<HttpTarget> {
    const { data } = await new ServerClient(url, apiKey).json<{ data: Array<{ id: string }> }>('GET', '/v1/models')
    const headers = { 'content-type': 'application/json', ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }) }
    return new HttpTarget(url, data[0]!.id, headers, server)
  }

  /** A server of our own on a free port. */
  static async start(flags: readonly string[]): Promise<HttpTarget> {
    const cli = fileURLToPath(new URL('../cli.js', import.meta.url))
    const args = [cli, 'serve', '--port', '0', '--log-level', 'error', ...flags]
    const server = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    const ended = new Promise<never>((_, reject) => server.once('exit', (code) => reject(new Error(`the server ended with ${code}`))))
    ended.catch(() => {})
    return Promise.race([ended, addressOf(server).then((url) => HttpTarget.connect(url, { server }))])
  }

  async generate({ promptIds: prompt, maxTokens }: LoadRequest, onTokens: (n: number) => void): Promise<void> {
    const { statusCode, body } = await request(new URL('/v1/completions', this.#url), {
      method: 'POST', dispatcher: this.#agent, headers: this.#headers,
      body: JSON.stringify({
        model: this.#model, prompt, max_tokens: maxTokens, temperature: 0, ignore_eos: true, stream: true, return_token_ids: true,
      }),
    })
    if (statusCode !== 200) throw new Error(`${statusCode}: ${(await body.text()).slice(0, 300)}`)
    for await (const line of createInterface({ input: body })) {
      if (!line.startsWith('data: {')) continue
      const chunk = JSON.parse(line.slice(6)) as { error?: { message: string }; choices?: { token_ids?: number[] }[] }
      if (chunk.error !== undefined) throw new Error(chunk.error.message)
      const n = chunk.choices?.[0]?.token_ids?.length ?? 0
      if (n > 0) onTokens(n)
    }
  }

  residentBytes(): { now: number; peak: number } | undefined {
    return readResident(childOf(this.#server?.pid))
  }

  async close(): Promise<void> {
    await this.#agent.close()
    const server = this.#server
    if (server === undefined || server.exitCode !== null) return
    const gone = new Promise((resolve) => server.once('exit', resolve))
    server.kill('SIGTERM')
    await gone
  }
}

async function addressOf(server: ChildProcess): Promise<string> {
  for await (const line of createInterface({ input: server.stdout! })) {
    const address = /https?:\/\/\S+/.exec(line)
    if (address !== null) {
      server.stdout!.resume()
      return address[0]
    }
  }
  throw new Error('the server named no address')
}

/** VmRSS and VmHWM of a process on Linux. */
function readResident(pid: number | undefined): { now: number; peak: number } | undefined {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)![1])
    return { now: kib('VmRSS') * 1024, peak: kib('VmHWM') * 1024 }
  } catch {
    return undefined
  }
}

/** The engine's process is the server's only child. */
function childOf(pid: number | undefined): number | undefined {
  try {
    return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0])
  } catch {
    return undefined
  }
}
