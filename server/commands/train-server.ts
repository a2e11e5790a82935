// `lorikeet train --server`: the data is sent, the job created, and its events followed to the end. The job goes on when we leave.

import { randomBytes } from 'node:crypto'
import { createReadStream, existsSync, statSync } from 'node:fs'
import { basename } from 'node:path'
import { UsageError } from '../settings.js'
import type { TrainOptions } from './train-options.js'

type ServerOptions = TrainOptions & { readonly server: string }

interface JobCard {
  readonly id: string
  readonly status: string
  readonly fine_tuned_model: string | null
  readonly error: { readonly message: string | null } | null
}

interface EventCard {
  readonly id: string
  readonly level: string
  readonly message: string
}

/** 0 once the job has succeeded, 1 when it failed or was cancelled, 130 when we left before. @throws UsageError */
export async function trainOnServer(options: ServerOptions, signal: AbortSignal): Promise<number> {
  const client = new TrainClient(options.server, options.apiKey)
  const [data, ...more] = options.data
  if (more.length > 0 || options.validationData.length > 1) throw new UsageError('--server takes one --data and one --validation-data')
  const [validation] = options.validationData
  const job = await client.json<JobCard>('POST', '/admin/train', {
    ...options.values, name: options.name, data: await client.send(data!),
    ...(validation !== undefined && { validation_data: await client.send(validation) }),
  })
  process.stderr.write(`job ${job.id} on ${options.server}\n`)
  return client.follow(job.id, signal)
}

class TrainClient {
  readonly #base: URL
  readonly #headers: Record<string, string>

  constructor(server: string, apiKey: string | undefined) {
    if (!URL.canParse(server)) throw new UsageError(`--server expects a URL like http://127.0.0.1:8000, not "${server}"`)
    this.#base = new URL(server)
    this.#headers = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }
  }

  /** A local file becomes a file of the server; anything else is a path or a file id there. */
  async send(path: string): Promise<string> {
    if (!existsSync(path) || !statSync(path).isFile()) return path
    const boundary = `lorikeet-${randomBytes(12).toString('hex')}`
    const init = { method: 'POST', body: formOf(path, boundary), duplex: 'half' } as unknown as RequestInit
    const { id } = (await this.#call('/v1/files', init, { 'content-type': `multipart/form-data; boundary=${boundary}` })) as { id: string }
    process.stderr.write(`${path} is ${id}\n`)
    return id
  }

  async json<T>(method: string, path: string, body?: object): Promise<T> {
    const headers = body && { 'content-type': 'application/json' }
    return (await this.#call(path, { method, ...(body && { body: JSON.stringify(body) }) }, headers)) as T
  }

  /** A stream that breaks off (the server drains, a proxy times out) is taken up after the last event that was seen. */
  async follow(id: string, signal: AbortSignal): Promise<number> {
    let after = ''
    for (let nFailures = 0; ;) {
      try {
        for await (const event of this.#events(id, after, signal)) {
          after = event.id
          nFailures = 0
          process.stderr.write(`${event.level === 'info' ? '' : `${event.level}: `}${event.message}\n`)
        }
        const job = await this.json<JobCard>('GET', `/admin/train/${id}`)
        if (job.status === 'succeeded') return say(`${job.fine_tuned_model}\n`, 0)
        if (job.status === 'failed' || job.status === 'cancelled') return say(`${job.status}: ${job.error?.message ?? ''}\n`, 1)
      } catch (error) {
        if (signal.aborted) return say(`job ${id} goes on; POST ${this.#base.origin}/admin/train/${id}/cancel ends it\n`, 130)
        if (++nFailures > MAX_RECONNECTS) throw error
      }
      await new Promise((resolve) => setTimeout(resolve, RECONNECT_MS))
    }
  }

  async* #events(id: string, after: string, signal: AbortSignal): AsyncGenerator<EventCard> {
    const query = `stream=true${after === '' ? '' : `&after=${after}`}`
    const response = await this.#fetch(`/admin/train/${id}/events?${query}`, { headers: this.#headers, signal })
    let rest = ''
    for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split('\n')
      rest = lines.pop()!
      for (const line of lines) {
        if (line.startsWith('data: {')) yield JSON.parse(line.slice('data: '.length)) as EventCard
      }
    }
  }

  async #call(path: string, init: RequestInit, headers: Record<string, string> = {}): Promise<unknown> {
    return (await this.#fetch(path, { ...init, headers: { ...this.#headers, ...headers } })).json()
  }

  async #fetch(path: string, init: RequestInit): Promise<Response> {
    const response = await fetch(new URL(path, this.#base), init).catch((error: Error) => {
      if (init.signal?.aborted === true) throw error
      throw new UsageError(`${this.#base.origin} does not answer: ${(error.cause as Error | undefined)?.message ?? error.message}`)
    })
    if (response.ok) return response
    throw new UsageError(`${this.#base.origin} answered ${response.status}: ${messageOf(await response.text())}`)
  }
}

const RECONNECT_MS = 1_000
const MAX_RECONNECTS = 60

async function* formOf(path: string, boundary: string): AsyncGenerator<Uint8Array> {
  const name = basename(path).replace(/["\r\n]/g, '_')
  yield Buffer.from(`--${boundary}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n`)
  yield Buffer.from(`--${boundary}\r\ncontent-disposition: form-data; name="file"; filename="${name}"\r\n` +
    'content-type: application/octet-stream\r\n\r\n')
  yield* createReadStream(path, { highWaterMark: 1 << 20 })
  yield Buffer.from(`\r\n--${boundary}--\r\n`)
}

function messageOf(text: string): string {
  try {
    return (JSON.parse(text) as { error: { message: string } }).error.message
  } catch {
    return text.slice(0, 200)
  }
}

function say(text: string, code: number): number {
  process.stdout.write(text)
  return code
}
