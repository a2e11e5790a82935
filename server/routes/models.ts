// GET /v1/models: the base and every adapter, with vLLM's `root`, `parent` and `max_model_len`.

import { Type } from 'typebox'
import type { FastifyInstance } from 'fastify'
import type { ModelEntry } from '../adapter-directory.js'
import type { ServerContext } from '../context.js'
import { EngineError } from '../../engine/errors.js'
import { modelListResponses, modelResponses } from '../openai/response-schemas.js'
import { mayUse } from '../plugins/auth.js'

export function registerModels(app: FastifyInstance, context: ServerContext): void {
  app.get('/v1/models', {
    config: { scope: 'infer' },
    schema: {
      operationId: 'listModels', summary: 'Models that this server answers to', tags: ['models'], response: modelListResponses,
    },
  }, async (request) => {
    const entries = await context.backend.adapters().list()
    return { object: 'list', data: entries.filter(({ id }) => mayUse(request.apiKey, id)).map((entry) => modelCard(context, entry)) }
  })

  app.get<{ Params: { model: string } }>('/v1/models/:model', {
    config: { scope: 'infer' },
    schema: {
      operationId: 'retrieveModel', summary: 'One model', tags: ['models'],
      params: Type.Object({ model: Type.String() }), response: modelResponses,
    },
  }, async (request) => {
    const entries = await context.backend.adapters().list()
    const entry = entries.find(({ id }) => id === request.params.model && mayUse(request.apiKey, id))
    if (entry === undefined) throw new EngineError('UNKNOWN_MODEL', `The model '${request.params.model}' does not exist on this server.`)
    return modelCard(context, entry)
  })
}

function modelCard(context: ServerContext, { id, created, root, parent }: ModelEntry) {
  const { maxModelLen } = context.backend.engine().info
  return { id, object: 'model', created, owned_by: 'lorikeet', root, parent, max_model_len: maxModelLen }
}
