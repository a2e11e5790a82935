// /v1/files: data for training and evaluation, streamed to disk; results of jobs, to read.

import multipart from '@fastify/multipart'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { basename } from 'node:path'
import type { FilePurpose, FileStore, ReceivedFile, StoredFile } from '../../adapters/jobs/file-store.js'
import { asDiskFull } from '../../adapters/durable.js'
import type { ServerContext } from '../context.js'
import { EngineError } from '../../engine/errors.js'
import { ApiError } from '../errors.js'
import {
  FileForm, FileParams, FileQuery, deletedResponses, fileListResponses, fileResponses,
} from '../openai/fine-tuning-schemas.js'
import { fileCard, pageCard } from '../openai/fine-tuning-shapes.js'
import { mayRead } from '../plugins/auth.js'
import { ownerOf, pageOptions, type PageFields } from './training.js'

interface FileRoute { Params: { file_id: string } }
interface ListRoute { Querystring: PageFields & { readonly purpose?: string; readonly order?: 'asc' | 'desc' } }

const PURPOSES = ['fine-tune', 'evals', 'user_data']
const DATA_NAME = /\.(?:jsonl|csv|parquet)$/i
const EXPIRY_S = [3_600, 2_592_000] as const
const MAX_FILES_LISTED = 10_000
/** Of the form around the file. */
const FORM_BYTES = 64 * 1_024
const config = { scope: 'train' } as const
const tags = ['training']

export async function registerFiles(app: FastifyInstance, context: ServerContext): Promise<void> {
  registerReading(app, context)
  // Multipart bodies are read here and on POST /admin/adapters, nowhere else; their schema is for OpenAPI, receive() checks them.
  await app.register(async (uploads) => {
    uploads.setValidatorCompiler(() => () => true)
    const fileSize = context.config.maxFileBytes + 1
    const limits = { fieldNameSize: 100, fieldSize: 1_024, fields: 8, files: 1, parts: 10, headerPairs: 32, fileSize }
    await uploads.register(multipart, { limits, throwFileSizeLimit: false })
    registerUpload(uploads, context)
  })
}

function registerUpload(app: FastifyInstance, context: ServerContext): void {
  app.post('/v1/files', {
    config,
    bodyLimit: context.config.maxFileBytes + FORM_BYTES,
    schema: {
      operationId: 'createFile', summary: 'Upload a file', tags, consumes: ['multipart/form-data'], body: FileForm, response: fileResponses,
    },
  }, async (request) => {
    if (!request.isMultipart()) throw new ApiError(415, 'unsupported_media_type', 'Send the file as multipart/form-data.')
    const { files } = context.backend.jobs()
    refuseOverQuota(context, files, request)
    const { received, filename, fields } = await receive(request, files, context.config.maxFileBytes)
    try {
      const purpose = purposeOf(fields.get('purpose'), filename)
      const expiresAfterS = expiryOf(fields)
      const owner = request.apiKey?.id ?? null
      return fileCard(await files.keep(received, { owner, filename, purpose, ...(expiresAfterS !== undefined && { expiresAfterS }) }))
    } finally {
      await files.drop(received)                       // kept files have another name by now
    }
  })
}

function registerReading(app: FastifyInstance, context: ServerContext): void {
  app.get<ListRoute>('/v1/files', {
    config,
    schema: { operationId: 'listFiles', summary: 'Files, newest first', tags, querystring: FileQuery, response: fileListResponses },
  }, async (request) => {
    const { purpose, order } = request.query
    const filter = { ...pageOptions(request.query, MAX_FILES_LISTED, MAX_FILES_LISTED), ...ownerOf(request) }
    const { files } = context.backend.jobs()
    return pageCard(files.list({ ...filter, ...(purpose !== undefined && { purpose }), ...(order && { order }) }), fileCard)
  })

  app.get<FileRoute>('/v1/files/:file_id', {
    config,
    schema: { operationId: 'retrieveFile', summary: 'One file', tags, params: FileParams, response: fileResponses },
  }, async (request) => fileCard(fileOf(context, request)))

  app.delete<FileRoute>('/v1/files/:file_id', {
    config,
    schema: { operationId: 'deleteFile', summary: 'Delete a file', tags, params: FileParams, response: deletedResponses },
  }, async (request) => {
    const file = fileOf(context, request)
    await context.backend.jobs().files.remove(file)
    return { id: file.id, object: 'file', deleted: true }
  })

  app.get<FileRoute>('/v1/files/:file_id/content', {
    config,
    schema: { operationId: 'downloadFile', summary: 'Content of a file', tags, params: FileParams },
  }, async (request, reply) => {
    const file = fileOf(context, request)
    return reply.headers({ 'content-length': file.bytes, 'content-disposition': 'attachment' })
      .type('application/octet-stream').send(context.backend.jobs().files.read(file))
  })
}

/** @throws ApiError 404 also for a file of another key */
function fileOf(context: ServerContext, request: FastifyRequest<FileRoute>): StoredFile {
  const id = request.params.file_id
  const file = context.backend.jobs().files.get(id)
  if (file !== undefined && mayRead(request.apiKey, file.owner)) return file
  throw new ApiError(404, 'file_not_found', `There is no file '${id.slice(0, 80)}'.`, { param: 'file_id' })
}

function refuseOverQuota({ config: { fileQuota } }: ServerContext, files: FileStore, request: FastifyRequest): void {
  const { bytes } = files.usage(request.apiKey?.id ?? null)
  const more = Number(request.headers['content-length'] ?? 0)
  if (bytes + more <= fileQuota) return
  throw new ApiError(413, 'file_quota_exceeded', `Files of ${bytes} bytes are stored already, of ${fileQuota} at most: delete some.`)
}

interface Form {
  readonly received: ReceivedFile
  readonly filename: string
  readonly fields: ReadonlyMap<string, string>
}

/** Writes the file as it comes; fields may stand before or after it. */
async function receive(request: FastifyRequest, files: FileStore, maxBytes: number): Promise<Form> {
  const fields = new Map<string, string>()
  let received: ReceivedFile | undefined
  let filename = ''
  try {
    for await (const part of request.parts()) {
      if (part.type === 'field') fields.set(part.fieldname, String(part.value))
      else if (part.fieldname !== 'file') throw wrongFile('invalid_value', "The file goes into the field 'file'.")
      else {
        filename = basename(part.filename ?? '').slice(0, 255)
        received = await files.receive(part.file, maxBytes)
      }
    }
  } catch (error) {
    if (received !== undefined) await files.drop(received)
    throw uploadError(error, maxBytes)
  }
  if (received === undefined) throw wrongFile('missing_required_parameter', "The field 'file' is missing.")
  return { received, filename, fields }
}

const wrongFile = (code: string, message: string): ApiError => new ApiError(400, code, message, { param: 'file' })

function uploadError(error: unknown, maxBytes: number): unknown {
  const isCut = (error as { code?: string }).code === 'ERR_STREAM_PREMATURE_CLOSE'
  if (isCut) return new ApiError(400, 'invalid_request', 'The form ends in the middle.')
  if (!(error instanceof EngineError) || error.code !== 'FILE_INVALID') return asDiskFull(error)
  const isLarge = error.message.includes('larger')
  if (isLarge) return new ApiError(413, 'request_too_large', `The file is larger than ${maxBytes} bytes.`, { param: 'file' })
  return wrongFile('invalid_value', `${error.message}.`)
}

function purposeOf(purpose: string | undefined, filename: string): FilePurpose {
  if (purpose === undefined) throw new ApiError(400, 'missing_required_parameter', "The field 'purpose' is missing.", { param: 'purpose' })
  if (!PURPOSES.includes(purpose)) {
    throw new ApiError(400, 'invalid_value', `'purpose' must be one of ${PURPOSES.join(', ')}.`, { param: 'purpose' })
  }
  if (purpose === 'fine-tune' && !DATA_NAME.test(filename)) {
    throw wrongFile('invalid_file_format', 'A file to train on has a name that ends in .jsonl, .csv or .parquet.')
  }
  return purpose as FilePurpose
}

function expiryOf(fields: ReadonlyMap<string, string>): number | undefined {
  const [anchor, seconds] = [fields.get('expires_after[anchor]'), fields.get('expires_after[seconds]')]
  if (anchor === undefined && seconds === undefined) return undefined
  const n = Number(seconds)
  if (anchor === 'created_at' && Number.isInteger(n) && n >= EXPIRY_S[0] && n <= EXPIRY_S[1]) return n
  throw new ApiError(400, 'invalid_value', `'expires_after' needs the anchor created_at and ${EXPIRY_S.join(' to ')} seconds.`,
    { param: 'expires_after' })
}
