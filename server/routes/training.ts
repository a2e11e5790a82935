// What the training routes of both surfaces share: who sees what, how a job is created, how its events are sent.

import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { PageOptions } from '../../adapters/jobs/database.js'
import { isOver, type Job, type NewJob } from '../../adapters/jobs/job-types.js'
import type { Jobs } from '../../adapters/jobs.js'
import { EngineError } from '../../engine/errors.js'
import type { ServerContext } from '../context.js'
import { ApiError, retryHeaders } from '../errors.js'
import { adapterRegistry } from '../open-adapters.js'
import { eventCard } from '../openai/fine-tuning-shapes.js'
import { SseStream } from '../openai/sse.js'
import { mayRead } from '../plugins/auth.js'
import type { TrainingSurroundings } from '../training-request.js'

const MAX_IDEMPOTENCY_KEY = 255
const EVENTS_POLL_MS = 200
const EVENTS_PAGE = 100
const RETRY_AFTER_MS = 60_000

export function surroundings({ backend, config }: ServerContext, request: FastifyRequest): TrainingSurroundings {
  return {
    jobs: backend.jobs(), registry: adapterRegistry(backend.adapters()), apiKey: request.apiKey, baseNames: config.modelNames,
    trainRoots: config.trainRoot, trainShare: config.trainShare,
  }
}

/** Absent = everything: no keys, or an administrator's. */
export function ownerOf({ apiKey }: FastifyRequest): { readonly owner?: string } {
  return apiKey === null || apiKey.scopes.includes('admin') ? {} : { owner: apiKey.id }
}

/** @throws ApiError 404 also for a job of another key: that it exists is not told */
export function jobOf(jobs: Jobs, request: FastifyRequest, id: string): Job {
  const job = jobs.get(id)
  if (job !== undefined && mayRead(request.apiKey, job.owner)) return job
  throw new ApiError(404, 'job_not_found', `There is no fine-tuning job '${id.slice(0, 80)}'.`, { param: 'fine_tuning_job_id' })
}

/** The job that this request makes, or made when it was sent before. @throws ApiError 422, 429 that the OpenAI clients do not retry */
export async function createJob(jobs: Jobs, request: FastifyRequest, reply: FastifyReply, make: () => Promise<NewJob>): Promise<Job> {
  const key = request.headers['idempotency-key']
  if (key !== undefined && (typeof key !== 'string' || key === '' || key.length > MAX_IDEMPOTENCY_KEY)) {
    const message = `Idempotency-Key must have 1 to ${MAX_IDEMPOTENCY_KEY} characters.`
    throw new ApiError(400, 'invalid_value', message, { param: 'Idempotency-Key' })
  }
  const digest = createHash('sha256').update(`${request.url}\n${JSON.stringify(request.body)}`).digest('hex')
  const idempotency = key === undefined ? undefined : { key, digest }
  try {
    const { job, isNew } = jobs.again(request.apiKey?.id ?? null, idempotency) ?? jobs.create(await make(), idempotency)
    if (!isNew) reply.header('idempotent-replayed', 'true')
    return job
  } catch (error) {
    throw asApiError(error)
  }
}

function asApiError(error: unknown): unknown {
  if (!(error instanceof EngineError)) return error
  if (error.param === 'Idempotency-Key') return new ApiError(422, 'idempotency_key_reused', `${error.message}.`, { param: error.param })
  if (error.code !== 'QUEUE_FULL') return error
  const headers = { ...retryHeaders(error.retryAfterMs ?? RETRY_AFTER_MS), 'x-should-retry': 'false' }
  return new ApiError(429, 'too_many_jobs', `${error.message}.`, { headers })
}

/** Cancel, pause, resume: a job that has ended is a client's mistake with a name of its own. */
export async function changeJob(change: () => Job | Promise<Job>): Promise<Job> {
  try {
    return await change()
  } catch (error) {
    if (error instanceof EngineError && error.code === 'INVALID_REQUEST') throw new ApiError(400, 'invalid_job_state', `${error.message}.`)
    throw error
  }
}

export interface PageFields {
  readonly after?: string
  readonly limit?: string
}

/** @throws ApiError 400 for a limit out of range */
export function pageOptions({ after, limit }: PageFields, fallback: number, maximum = 100): PageOptions {
  const n = limit === undefined ? fallback : Number(limit)
  if (n < 1 || n > maximum) throw new ApiError(400, 'invalid_value', `'limit' must be from 1 to ${maximum}.`, { param: 'limit' })
  return { limit: n, ...(after !== undefined && { after }) }
}

/** Every event from `after` (or the first) on, as they come, until the job is over and all is told. */
export async function streamEvents(context: ServerContext, reply: FastifyReply, jobs: Jobs, id: string, after?: string): Promise<void> {
  const stream = new SseStream(reply, context.config.slowReader)
  let last = after
  try {
    for (;;) {
      const job = jobs.get(id)
      const page = jobs.events(id, { limit: EVENTS_PAGE, order: 'asc', ...(last !== undefined && { after: last }) })
      for (const event of page.data) await stream.send(eventCard(event))
      last = page.data.at(-1)?.id ?? last
      if (reply.raw.destroyed) return
      if (page.hasMore) continue
      if (job === undefined || isOver(job.status) || context.backend.draining) return stream.done()
      await sleep(EVENTS_POLL_MS)
    }
  } catch {
    stream.cut()                                       // a slow reader, or the end of the server
  }
}
