// Whatever goes wrong, wherever in fastify or Node it does, is answered in OpenAI's shape.

import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Socket } from 'node:net'
import { ApiError, toApiError } from '../errors.js'
import { logFailure } from '../routes/respond.js'

export function registerErrors(app: FastifyInstance): void {
  const methods = new RouteMethods()
  app.addHook('onRoute', ({ url, method }) => methods.add(url, method))
  app.setErrorHandler((error, _request, reply) => {
    logFailure(reply, error)
    return sendError(reply, toApiError(error))
  })
  app.setNotFoundHandler((request, reply) => sendError(reply, notFound(methods, request.method, request.url)))
}

function sendError(reply: FastifyReply, error: ApiError): FastifyReply {
  return reply.code(error.status).headers(error.headers).type('application/json; charset=utf-8').send(error.body)
}

function notFound(methods: RouteMethods, method: string, url: string): ApiError {
  const path = url.split('?', 1)[0]!
  const allowed = methods.of(path)
  if (allowed.length === 0) return new ApiError(404, 'unknown_url', `Unknown request URL: ${method} ${path.slice(0, 200)}.`)
  return new ApiError(
    405, 'method_not_allowed', `${method} is not allowed here; use ${allowed.join(', ')}.`, { headers: { allow: allowed.join(', ') } },
  )
}

/** Which methods a path has, for 405 and its Allow header. */
class RouteMethods {
  readonly #routes: Array<{ readonly pattern: RegExp; readonly methods: readonly string[] }> = []

  add(url: string, method: string | string[]): void {
    if (method === 'OPTIONS') return
    const parts = url.split('/').map((part) => (part.startsWith(':') ? '[^/]+' : part === '*' ? '.*' : part.replace(/[^\w-]/g, '\\$&')))
    this.#routes.push({ pattern: new RegExp(`^${parts.join('/')}/?$`), methods: [method].flat() })
  }

  of(path: string): readonly string[] {
    return [...new Set(this.#routes.filter(({ pattern }) => pattern.test(path)).flatMap(({ methods }) => methods))]
  }
}

const CLIENT_ERRORS: Readonly<Record<string, ConstructorParameters<typeof ApiError>>> = {
  HPE_HEADER_OVERFLOW: [431, 'headers_too_large', 'The request headers are larger than this server allows.'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'request_timeout', 'The request did not arrive in time.'],
}

/** Bytes that are no HTTP request never reach a route. */
export function replyToClientError(error: Error & { readonly code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) return void socket.destroy()
  const { status, body } = new ApiError(
    ...(CLIENT_ERRORS[error.code ?? ''] ?? [400, 'malformed_http', 'This is not a valid HTTP request.']),
  )
  const text = JSON.stringify(body)
  const head = [
    `HTTP/1.1 ${status} Error`,
    'content-type: application/json; charset=utf-8',
    `content-length: ${Buffer.byteLength(text)}`,
    'connection: close',
  ]
  socket.end(`${head.join('\r\n')}\r\n\r\n${text}`)
}
