// vLLM's POST /v1/load_lora_adapter and /v1/unload_lora_adapter: same bodies, statuses and words. Loading copies the adapter into
// the store: a later change of its folder changes nothing until it is loaded again.

import { Type, type Static } from 'typebox'
import type { FastifyInstance } from 'fastify'
import { checkAdapterName } from '../../adapters/names.js'
import { EngineError } from '../../engine/errors.js'
import type { ServerContext } from '../context.js'
import { errorResponses } from '../openai/adapter-schemas.js'
import { adapterRegistry } from '../open-adapters.js'
import { allowModel } from '../plugins/auth.js'

const LoadRequest = Type.Object({
  lora_name: Type.String({ description: 'Name for `model`.' }),
  lora_path: Type.String({ minLength: 1, maxLength: 4_096,
    description: 'PEFT folder under --adapter-root; a relative path is taken from there.' }),
  load_inplace: Type.Optional(Type.Boolean({ description: 'Replace what the name stands for; requests that run keep the old version.' })),
  base_model_name: Type.Optional(Type.Union([Type.String(), Type.Null()])),
})

const UnloadRequest = Type.Object({
  lora_name: Type.String(),
  lora_int_id: Type.Optional(Type.Union([Type.Integer(), Type.Null()])),
})

const LOADING = `Copies the folder into the store and serves it; unlike vLLM's, it is still served after a restart. Needs no environment
variable, only a folder under --adapter-root; anything else is uploaded to POST /admin/adapters.`
const UNLOADING = `From the answer on the name is unknown: 404 for it and all its versions, not in /v1/models, out of device and host memory once
the requests that run on it have ended. It stays so after a restart, unless --adapter names it. Its files stay too: load_lora_adapter or an
upload under the name, promote and roll-back serve it again; DELETE /admin/adapters/{name} deletes it.`

const success = { 200: { description: 'Success', content: { 'text/plain': { schema: Type.String() } } }, ...errorResponses }

export function registerLora(app: FastifyInstance, context: ServerContext): void {
  app.post<{ Body: Static<typeof LoadRequest> }>('/v1/load_lora_adapter', {
    config: { scope: 'adapters:write' },
    schema: { operationId: 'loadLoraAdapter', summary: 'Load an adapter from a folder (vLLM)', description: LOADING,
      tags: ['adapters'], body: LoadRequest, response: success },
  }, async (request, reply) => {
    const { lora_name, lora_path, load_inplace = false } = request.body
    const name = checkAdapterName(lora_name, 'lora_name')
    allowModel(request.apiKey, name)
    const registry = adapterRegistry(context.backend.adapters())
    if (registry.store.record(name)?.served === true && !load_inplace) {
      throw new EngineError('ADAPTER_EXISTS',
        `The lora adapter '${name}' has already been loaded. If you want to load the adapter in place, ` +
        'set \'load_inplace\' to True.', { param: 'lora_name' })
    }
    await registry.publishFolder(name, lora_path, false)
    await registry.warm(name).catch((error) => request.log.warn({ error }, 'loaded, but not resident yet'))
    return reply.type('text/plain').send(`Success: LoRA adapter '${name}' added successfully.`)
  })

  app.post<{ Body: Static<typeof UnloadRequest> }>('/v1/unload_lora_adapter', {
    config: { scope: 'adapters:write' },
    schema: { operationId: 'unloadLoraAdapter', summary: 'Stop serving an adapter (vLLM)', description: UNLOADING,
      tags: ['adapters'], body: UnloadRequest, response: success },
  }, async (request, reply) => {
    const name = checkAdapterName(request.body.lora_name, 'lora_name')
    allowModel(request.apiKey, name)
    const registry = adapterRegistry(context.backend.adapters())
    if (registry.store.record(name)?.served !== true) {
      throw new EngineError('ADAPTER_NOT_FOUND', `The lora adapter '${name}' cannot be found.`, { param: 'lora_name' })
    }
    await registry.unserve(name)
    return reply.type('text/plain').send(`Success: LoRA adapter '${name}' removed successfully.`)
  })
}
