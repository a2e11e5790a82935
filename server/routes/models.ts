// GET /v1/models: the base and every adapter, with vLLM's `root`, `parent` and `max_model_len`.

import { Type } from 'typebox'
import type { FastifyInstance } from 'fastify'
import { AdapterRegistry } from '../../adapters/registry.js'
import type { ModelEntry } from '../adapter-directory.js'
import type { ServerContext } from '../context.js'
import { EngineError } from '../../engine/errors.js'
import { modelListResponses, modelResponses } from '../openai/response-schemas.js'
import { adapterRegistry } from '../open-adapters.js'
import { deletedResponses } from '../openai/fine-tuning-schemas.js'
import { allowModel, mayUse } from '../plugins/auth.js'

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

  registerDeletion(app, context)

  app.get<{ Params: { model: string } }>('/v1/models/:model', {
    config: { scope: 'infer' },
    schema: {
      operationId: 'retrieveModel', summary: 'One model', tags: ['models'],
      params: Type.Object({ model: Type.String() }), response: modelResponses,
    },
  }, async (request) => {
    const entries = await context.backend.adapters().list()
    const { model } = request.params
    const directory = context.backend.adapters()
    const pinned = directory instanceof AdapterRegistry ? directory.pinnedEntry(model) : undefined
    const entry = entries.find(({ id }) => id === model) ?? pinned
    if (entry === undefined || !mayUse(request.apiKey, model)) throw new EngineError('UNKNOWN_MODEL', `The model '${request.params.model}' does not exist on this server.`)
    return modelCard(context, entry)
  })
}

/** OpenAI's way to delete a fine-tuned model: a version, or a name with all of them. */
function registerDeletion(app: FastifyInstance, context: ServerContext): void {
  app.delete<{ Params: { model: string } }>('/v1/models/:model', {
    config: { scope: 'adapters:write' },
    schema: {
      operationId: 'deleteModel', summary: 'Delete an adapter, or one version of it', tags: ['models'],
      params: Type.Object({ model: Type.String() }), response: deletedResponses,
    },
  }, async (request) => {
    const { model } = request.params
    allowModel(request.apiKey, model)
    await adapterRegistry(context.backend.adapters()).removeModel(model)
    return { id: model, object: 'model', deleted: true }
  })
}

function modelCard(context: ServerContext, { id, created, root, parent }: ModelEntry) {
  const { maxModelLen } = context.backend.engine().info
  return { id, object: 'model', created, owned_by: 'lorikeet', root, parent, max_model_len: maxModelLen }
}
