// /admin/train: the short way to a training job. The same jobs as /v1/fine_tuning.

import type { FastifyInstance } from 'fastify'
import type { ServerContext } from '../context.js'
import { isOver } from '../../adapters/jobs/job-types.js'
import {
  EventQuery, PageQuery, TrainParams, TrainRequestBody, deletedResponses, eventListResponses, jobListResponses, jobResponses,
  trainResponses, type TrainBody,
} from '../openai/fine-tuning-schemas.js'
import { eventCard, jobCard, pageCard } from '../openai/fine-tuning-shapes.js'
import { adminJob } from '../training-request.js'
import { changeJob, createJob, jobOf, ownerOf, pageOptions, streamEvents, surroundings, type PageFields } from './training.js'

interface JobRoute { Params: { id: string } }
interface EventRoute extends JobRoute { Querystring: PageFields & { readonly stream?: 'true' | 'false' } }

const config = { scope: 'train' } as const
const tags = ['training']

export function registerTrain(app: FastifyInstance, context: ServerContext): void {
  registerCreation(app, context)
  registerOne(app, context)
}

function registerCreation(app: FastifyInstance, context: ServerContext): void {
  app.post<{ Body: TrainBody }>('/admin/train', {
    config,
    schema: { operationId: 'train', summary: 'Train an adapter', tags, body: TrainRequestBody, response: trainResponses },
  }, async (request, reply) => {
    const at = surroundings(context, request)
    const job = await createJob(at.jobs, request, reply, () => adminJob(request.body, at))
    return reply.code(202).send(jobCard(job))
  })

  app.get<{ Querystring: PageFields }>('/admin/train', {
    config,
    schema: { operationId: 'listTraining', summary: 'Jobs, newest first', tags, querystring: PageQuery, response: jobListResponses },
  }, async (request) => pageCard(context.backend.jobs().list({ ...pageOptions(request.query, 20), ...ownerOf(request) }), jobCard))
}

function registerOne(app: FastifyInstance, context: ServerContext): void {
  const jobs = () => context.backend.jobs()
  const params = TrainParams

  app.get<JobRoute>('/admin/train/:id', {
    config,
    schema: { operationId: 'retrieveTraining', summary: 'One job', tags, params, response: jobResponses },
  }, async (request) => jobCard(jobOf(jobs(), request, request.params.id)))

  app.delete<JobRoute>('/admin/train/:id', {
    config,
    schema: {
      operationId: 'deleteTraining', summary: 'Cancel a job, or remove one that has ended; what it published stays', tags, params,
      response: deletedResponses,
    },
  }, async (request) => {
    const { id, status } = jobOf(jobs(), request, request.params.id)
    if (!isOver(status)) await changeJob(() => jobs().cancel(id))
    await jobs().remove(id)
    return { id, object: 'fine_tuning.job', deleted: true }
  })

  for (const action of ['cancel', 'pause', 'resume'] as const) {
    app.post<JobRoute>(`/admin/train/:id/${action}`, {
      config,
      schema: { operationId: `${action}Training`, summary: `${action} a job`, tags, params, response: jobResponses },
    }, async (request) => {
      const { id } = jobOf(jobs(), request, request.params.id)
      return jobCard(await changeJob(() => jobs()[action](id)))
    })
  }

  app.get<EventRoute>('/admin/train/:id/events', {
    config,
    schema: {
      operationId: 'listTrainingEvents', tags,
      summary: 'Events of a job, newest first; or all as they come (stream, or Accept: text/event-stream)',
       params, querystring: EventQuery, response: eventListResponses,
    },
  }, async (request, reply) => {
    const { id } = jobOf(jobs(), request, request.params.id)
    const isStream = request.query.stream === 'true' || request.headers.accept?.includes('text/event-stream') === true
    if (isStream) return streamEvents(context, reply, jobs(), id, request.query.after)
    return pageCard(jobs().events(id, pageOptions(request.query, 20, 1_000)), eventCard)
  })
}
