// /admin/adapters: upload, list with tiers and pins, promote, roll back, delete.

import multipart from '@fastify/multipart'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { basename } from 'node:path'
import { ADAPTER_FILES, MAX_FILE_BYTES } from '../../adapters/manifest.js'
import { checkAdapterName } from '../../adapters/names.js'
import { asDiskFull } from '../../adapters/durable.js'
import type { AdapterRegistry } from '../../adapters/registry.js'
import type { Staging } from '../../adapters/staging.js'
import { ApiError } from '../errors.js'
import type { ServerContext } from '../context.js'
import { adapterRegistry } from '../open-adapters.js'
import {
  NameParams, PromoteRequest, UploadForm, VersionParams, adapterCard, adapterListResponses, adapterResponses, deleteResponses,
    publishResponses, publishedCard,
} from '../openai/adapter-schemas.js'
import { allowModel, mayUse } from '../plugins/auth.js'

interface NamedRoute { Params: { name: string } }
interface VersionRoute { Params: { name: string; version: string } }

const MAX_UPLOAD_BYTES = Object.values(MAX_FILE_BYTES).reduce((sum, bytes) => sum + bytes, 0)
/** Without `fileSize` the plugin cuts files at the body limit of JSON routes, silently. The staging refuses what is too large. */
const UPLOAD_LIMITS = { fieldNameSize: 100, fieldSize: 256, fields: 8, files: 2, parts: 10, headerPairs: 32, fileSize: MAX_UPLOAD_BYTES }
const tags = ['adapters']

export async function registerAdapters(app: FastifyInstance, context: ServerContext): Promise<void> {
  const registry = () => adapterRegistry(context.backend.adapters())
  registerReading(app, registry)
  registerChanges(app, registry)
  // Multipart bodies are read on this one route and nowhere else; their schema is for OpenAPI, receive() checks them.
  await app.register(async (uploads) => {
    uploads.setValidatorCompiler(() => () => true)
    await uploads.register(multipart, { limits: UPLOAD_LIMITS, throwFileSizeLimit: false })
    registerUpload(uploads, registry)
  })
}

function registerReading(app: FastifyInstance, registry: () => AdapterRegistry): void {
  app.get('/admin/adapters', {
    config: { scope: 'adapters:read' },
    schema: { operationId: 'listAdapters', summary: 'Adapters with versions, tiers and pins', tags, response: adapterListResponses },
  }, async (request) => {
    const { nSlots, resident, pinned, waiting } = registry().stats()
    const data = registry().statuses().filter(({ name }) => mayUse(request.apiKey, name)).map(adapterCard)
    return { object: 'list', data, slots: { total: nSlots, used: resident, pinned, waiting } }
  })

  app.get<NamedRoute>('/admin/adapters/:name', {
    config: { scope: 'adapters:read' },
    schema: { operationId: 'retrieveAdapter', summary: 'One adapter', tags, params: NameParams, response: adapterResponses },
  }, async (request) => adapterCard(registry().status(nameOf(request))))
}

function registerChanges(app: FastifyInstance, registry: () => AdapterRegistry): void {
  app.post<NamedRoute & { Body: { version: string } }>('/admin/adapters/:name/promote', {
    config: { scope: 'adapters:write' },
    schema: { operationId: 'promoteAdapter', summary: 'Make a version the current one', tags, params: NameParams, body: PromoteRequest,
      response: adapterResponses },
  }, async (request) => {
    const name = nameOf(request)
    await registry().promote(name, request.body.version)
    return adapterCard(registry().status(name))
  })

  app.post<NamedRoute>('/admin/adapters/:name/rollback', {
    config: { scope: 'adapters:write' },
    schema: { operationId: 'rollbackAdapter', summary: 'Go back to the version that was current before', tags, params: NameParams,
      response: adapterResponses },
  }, async (request) => {
    const name = nameOf(request)
    await registry().rollback(name)
    return adapterCard(registry().status(name))
  })

  app.delete<NamedRoute>('/admin/adapters/:name', {
    config: { scope: 'adapters:write' },
    schema: { operationId: 'deleteAdapter', summary: 'Delete an adapter with all its versions', tags, params: NameParams,
      response: deleteResponses },
  }, async (request) => {
    const name = nameOf(request)
    await registry().remove(name)
    return { object: 'adapter', name, deleted: true }
  })

  app.delete<VersionRoute>('/admin/adapters/:name/versions/:version', {
    config: { scope: 'adapters:write' },
    schema: { operationId: 'deleteAdapterVersion', summary: 'Delete a version that is not the current one', tags, params: VersionParams,
      response: deleteResponses },
  }, async (request) => {
    const name = nameOf(request)
    await registry().removeVersion(name, request.params.version)
    return { object: 'adapter.version', name, deleted: true }
  })
}

function registerUpload(app: FastifyInstance, registry: () => AdapterRegistry): void {
  app.post('/admin/adapters', {
    config: { scope: 'adapters:write' },
    bodyLimit: MAX_UPLOAD_BYTES,
    schema: {
      operationId: 'uploadAdapter', summary: 'Upload an adapter', tags, consumes: ['multipart/form-data'], body: UploadForm,
        response: publishResponses,
    },
  }, async (request, reply) => {
    if (!request.isMultipart()) throw new ApiError(415, 'unsupported_media_type', 'Send the adapter as multipart/form-data.')
    const staging = await registry().store.stage()
    try {
      const fields = await receive(request, staging)
      const name = checkAdapterName(fields.get('name'))
      allowModel(request.apiKey, name)
      const version = await registry().publish(name, staging, 'upload', fields.get('promote') !== 'false')
      return reply.code(201).send(publishedCard(version, registry().store.current(name) === version.version))
    } finally {
      await staging.dispose()
    }
  })
}

/** Writes the files of a form into the staging as they come; returns its fields. */
async function receive(request: FastifyRequest, staging: Staging): Promise<Map<string, string>> {
  const fields = new Map<string, string>()
  try {
    for await (const part of request.parts()) {
      if (part.type === 'file') {
        await staging.write(fileNameOf(part.filename, part.fieldname), part.file)
        if (part.file.truncated) throw new ApiError(413, 'request_too_large', `${part.fieldname} is larger than this server allows.`)
      } else fields.set(part.fieldname, String(part.value))
    }
    return fields
  } catch (error) {
    if ((error as { code?: string }).code === 'ERR_STREAM_PREMATURE_CLOSE') throw new ApiError(400, 'invalid_request',
      'The form ends in the middle.')
    throw asDiskFull(error)
  }
}

/** The file's own name, or that of its field where a client sends another ("blob", "adapter (1).json"). */
function fileNameOf(fileName: string | undefined, fieldName: string): string {
  const own = basename(fileName ?? '')
  const isKnown = (name: string) => (ADAPTER_FILES as readonly string[]).includes(name)
  if (isKnown(own)) return own
  return ADAPTER_FILES.find((name) => fieldName === name || fieldName === name.replace(/\.\w+$/, '')) ?? own
}

function nameOf(request: FastifyRequest<NamedRoute>): string {
  const name = checkAdapterName(request.params.name)
  allowModel(request.apiKey, name)
  return name
}
