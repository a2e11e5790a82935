// What the commands that talk to a running server share: one way to call it, to send files, and to say what it answered.

import { randomBytes } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { UsageError } from '../settings.js'

/** One part of a form: a value, or a file that is streamed and need not fit in memory. */
export type FormPart =
  | { readonly name: string; readonly value: string }
  | { readonly name: string; readonly path: string; readonly filename: string }

export class ServerClient {
  readonly origin: string
  readonly #base: URL
  readonly #headers: Readonly<Record<string, string>>

  /** @throws UsageError */
  constructor(server: string, apiKey: string | undefined) {
    if (!URL.canParse(server)) throw new UsageError(`--server expects a URL like http://127.0.0.1:8000, not "${server}"`)
    this.#base = new URL(server)
    this.origin = this.#base.origin
    this.#headers = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }
  }

  /** @throws UsageError when the server does not answer, or refuses; what the signal's abort throws */
  async fetch(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = { ...this.#headers, ...(init.headers as Record<string, string> | undefined) }
    const response = await fetch(new URL(path, this.#base), { ...init, headers }).catch((error: Error) => {
      if (init.signal?.aborted === true) throw error
      throw new UsageError(`${this.origin} does not answer: ${(error.cause as Error | undefined)?.message ?? error.message}`)
    })
    if (response.ok) return response
    throw new UsageError(`${this.origin} answered ${response.status}: ${messageOf(await response.text())}`)
  }

  /** A request with a JSON body, where there is one. */
  send(method: string, path: string, body?: object, signal?: AbortSignal): Promise<Response> {
    const json = body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }
    return this.fetch(path, { method, ...json, ...(signal && { signal }) })
  }

  async json<T>(method: string, path: string, body?: object): Promise<T> {
    return (await this.send(method, path, body)).json() as Promise<T>
  }

  async form<T>(path: string, parts: readonly FormPart[]): Promise<T> {
    const boundary = `lorikeet-${randomBytes(12).toString('hex')}`
    const headers = { 'content-type': `multipart/form-data; boundary=${boundary}` }
    const init = { method: 'POST', body: encodeForm(parts, boundary), duplex: 'half', headers } as unknown as RequestInit
    return (await this.fetch(path, init)).json() as Promise<T>
  }
}

async function* encodeForm(parts: readonly FormPart[], boundary: string): AsyncGenerator<Uint8Array> {
  for (const part of parts) {
    const head = `--${boundary}\r\ncontent-disposition: form-data; name="${part.name}"`
    if ('value' in part) {
      yield Buffer.from(`${head}\r\n\r\n${part.value}\r\n`)
      continue
    }
    const filename = part.filename.replace(/["\r\n]/g, '_')
    yield Buffer.from(`${head}; filename="${filename}"\r\ncontent-type: application/octet-stream\r\n\r\n`)
    yield* createReadStream(part.path, { highWaterMark: 1 << 20 })
    yield Buffer.from('\r\n')
  }
  yield Buffer.from(`--${boundary}--\r\n`)
}

/** The data of each server-sent event, up to [DONE] where there is one. */
export async function* sentEvents(response: Response): AsyncGenerator<string> {
  let rest = ''
  for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      if (line === 'data: [DONE]') return
      if (line.startsWith('data: ')) yield line.slice('data: '.length)
    }
  }
}

function messageOf(text: string): string {
  try {
    return (JSON.parse(text) as { error: { message: string } }).error.message
  } catch {
    return text.slice(0, 200)
  }
}
