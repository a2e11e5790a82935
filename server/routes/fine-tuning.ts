// /v1/fine_tuning/jobs: OpenAI's routes over the one queue of jobs.

import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Job } from '../../adapters/jobs/job-types.js'
import type { ServerContext } from '../context.js'
import {
  CreateJobRequest, EventQuery, JobParams, PageQuery, checkpointListResponses, eventListResponses, jobListResponses, jobResponses,
  type CreateJobBody,
} from '../openai/fine-tuning-schemas.js'
import { checkpointCard, eventCard, jobCard, pageCard } from '../openai/fine-tuning-shapes.js'
import { fineTuningJob } from '../training-request.js'
import { changeJob, createJob, jobOf, ownerOf, pageOptions, streamEvents, surroundings, type PageFields } from './training.js'

interface JobRoute { Params: { fine_tuning_job_id: string } }
interface PagedRoute extends JobRoute { Querystring: PageFields & { readonly stream?: 'true' | 'false' } }

const URL = '/v1/fine_tuning/jobs'
const config = { scope: 'train' } as const
const tags = ['training']

export function registerFineTuning(app: FastifyInstance, context: ServerContext): void {
  registerJobs(app, context)
  registerChanges(app, context)
  registerLists(app, context)
}

function registerJobs(app: FastifyInstance, context: ServerContext): void {
  app.post<{ Body: CreateJobBody }>(URL, {
    config,
    schema: { operationId: 'createFineTuningJob', summary: 'Train an adapter', tags, body: CreateJobRequest, response: jobResponses },
  }, async (request, reply) => {
    const at = surroundings(context, request)
    return jobCard(await createJob(at.jobs, request, reply, () => fineTuningJob(request.body, at)))
  })

  app.get<{ Querystring: PageFields }>(URL, {
    config,
    schema: { operationId: 'listFineTuningJobs', summary: 'Jobs, newest first', tags, querystring: PageQuery, response: jobListResponses },
  }, async (request) => {
    const filter = { ...pageOptions(request.query, 20), ...ownerOf(request), ...metadataFilter(request.query as Record<string, unknown>) }
    return pageCard(context.backend.jobs().list(filter), jobCard)
  })

  app.get<JobRoute>(`${URL}/:fine_tuning_job_id`, {
    config,
    schema: { operationId: 'retrieveFineTuningJob', summary: 'One job', tags, params: JobParams, response: jobResponses },
  }, async (request) => jobCard(ofRequest(context, request)))
}

function registerChanges(app: FastifyInstance, context: ServerContext): void {
  const summaries = { cancel: 'End a job for good', pause: 'Stop a job at a checkpoint', resume: 'Queue a paused job again' } as const
  for (const action of ['cancel', 'pause', 'resume'] as const) {
    app.post<JobRoute>(`${URL}/:fine_tuning_job_id/${action}`, {
      config,
      schema: { operationId: `${action}FineTuningJob`, summary: summaries[action], tags, params: JobParams, response: jobResponses },
    }, async (request) => {
      const { id } = ofRequest(context, request)
      return jobCard(await changeJob(() => context.backend.jobs()[action](id)))
    })
  }
}

function registerLists(app: FastifyInstance, context: ServerContext): void {
  app.get<PagedRoute>(`${URL}/:fine_tuning_job_id/events`, {
    config,
    schema: {
      operationId: 'listFineTuningEvents', summary: 'Events of a job, newest first; or all as they come', tags, params: JobParams,
      querystring: EventQuery, response: eventListResponses,
    },
  }, async (request, reply) => {
    const { id } = ofRequest(context, request)
    const jobs = context.backend.jobs()
    if (request.query.stream === 'true') return streamEvents(context, reply, jobs, id, request.query.after)
    return pageCard(jobs.events(id, pageOptions(request.query, 20, 1_000)), eventCard)
  })

  app.get<PagedRoute>(`${URL}/:fine_tuning_job_id/checkpoints`, {
    config,
    schema: {
      operationId: 'listFineTuningCheckpoints', summary: 'Checkpoints of a job, newest first', tags, params: JobParams,
      querystring: PageQuery, response: checkpointListResponses,
    },
  }, async (request) => {
    const job = ofRequest(context, request)
    const page = context.backend.jobs().checkpoints(job.id, pageOptions(request.query, 10))
    return pageCard(page, (checkpoint) => checkpointCard(checkpoint, job))
  })
}

function ofRequest(context: ServerContext, request: FastifyRequest<JobRoute>): Job {
  return jobOf(context.backend.jobs(), request, request.params.fine_tuning_job_id)
}

/** metadata[key]=value, repeated; metadata=null for jobs without any. */
function metadataFilter(query: Record<string, unknown>): { readonly metadata?: Record<string, string> | null } {
  if (query['metadata'] === 'null') return { metadata: null }
  const entries = Object.entries(query).flatMap(([field, value]) => {
    const key = /^metadata\[(.{1,64})\]$/.exec(field)?.[1]
    return key === undefined ? [] : [[key, String(value)] as const]
  })
  return entries.length === 0 ? {} : { metadata: Object.fromEntries(entries) }
}
