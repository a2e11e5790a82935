// `lorikeet train --server`: the data is sent, the job created, and its events followed to the end. The job goes on when we leave.

import { existsSync, statSync } from 'node:fs'
import { basename } from 'node:path'
import { UsageError } from '../settings.js'
import { ServerClient, sentEvents } from './server-client.js'
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
  const server = new ServerClient(options.server, options.apiKey)
  const client = new TrainClient(server)
  const [data, ...more] = options.data
  if (more.length > 0 || options.validationData.length > 1) throw new UsageError('--server takes one --data and one --validation-data')
  const [validation] = options.validationData
  const job = await server.json<JobCard>('POST', '/admin/train', {
    ...options.values, name: options.name, data: await client.send(data!),
    ...(validation !== undefined && { validation_data: await client.send(validation) }),
  })
  process.stderr.write(`job ${job.id} on ${options.server}\n`)
  return client.follow(job.id, signal)
}

class TrainClient {
  readonly #server: ServerClient

  constructor(server: ServerClient) {
    this.#server = server
  }

  /** A local file becomes a file of the server; anything else is a path or a file id there. */
  async send(path: string): Promise<string> {
    if (!existsSync(path) || !statSync(path).isFile()) return path
    const { id } = await this.#server.form<{ id: string }>('/v1/files',
      [{ name: 'purpose', value: 'fine-tune' }, { name: 'file', path, filename: basename(path) }])
    process.stderr.write(`${path} is ${id}\n`)
    return id
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
        const job = await this.#server.json<JobCard>('GET', `/admin/train/${id}`)
        if (job.status === 'succeeded') return say(`${job.fine_tuned_model}\n`, 0)
        if (job.status === 'failed' || job.status === 'cancelled') return say(`${job.status}: ${job.error?.message ?? ''}\n`, 1)
      } catch (error) {
        if (signal.aborted) return say(`job ${id} goes on; POST ${this.#server.origin}/admin/train/${id}/cancel ends it\n`, 130)
        if (++nFailures > MAX_RECONNECTS) throw error
      }
      await new Promise((resolve) => setTimeout(resolve, RECONNECT_MS))
    }
  }

  async* #events(id: string, after: string, signal: AbortSignal): AsyncGenerator<EventCard> {
    const query = `stream=true${after === '' ? '' : `&after=${after}`}`
    const response = await this.#server.fetch(`/admin/train/${id}/events?${query}`, { signal })
    for await (const data of sentEvents(response)) if (data.startsWith('{')) yield JSON.parse(data) as EventCard
  }
}

const RECONNECT_MS = 1_000
const MAX_RECONNECTS = 60

function say(text: string, code: number): number {
  process.stdout.write(text)
  return code
}
