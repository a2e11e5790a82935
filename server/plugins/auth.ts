// Who may call what. Every route names its scope; one without a scope does not register. Without a key file everything is
// allowed, and the server listens on loopback only (config.ts sees to that).

import type { FastifyInstance, FastifyRequest } from 'fastify'
import { ApiError } from '../errors.js'
import type { ApiKey, KeyStore, Scope } from '../keys.js'
import { adapterNameOf } from '../../adapters/names.js'
import { isLoopback } from '../config.js'
import { RateLimiter } from './rate-limiter.js'

/** `open` needs no key; `metrics` is also open to scrapers on the same machine. */
export type RouteScope = Scope | 'open'

declare module 'fastify' {
  interface FastifyContextConfig {
    scope?: RouteScope
  }
  interface FastifyRequest {
    /** The caller's key; null where none is needed. */
    apiKey: ApiKey | null
  }
}

/** Routes that plugins register for us; besides, a preflight carries no key. */
const OPEN_PREFIXES = ['/docs']
const PROTOCOL_KEY = 'openai-insecure-api-key.'

export function registerAuth(app: FastifyInstance, keys: KeyStore | undefined): void {
  const limiter = new RateLimiter()
  app.decorateRequest('apiKey', null)
  app.addHook('onRoute', (route) => {
    if (route.config?.scope !== undefined) return
    const isOpen = route.method === 'OPTIONS' || OPEN_PREFIXES.some((prefix) => route.url.startsWith(prefix))
    if (!isOpen) throw new Error(`route ${String(route.method)} ${route.url} names no scope`)
    route.config = { ...route.config, scope: 'open' }
  })
  app.addHook('onRequest', async (request) => {
    const scope = request.routeOptions.config.scope ?? 'open'
    if (keys === undefined || scope === 'open' || request.is404) return
    if (scope === 'metrics' && isLocalScraper(request)) return
    request.apiKey = authorise(keys, request, scope)
    if (scope === 'infer') limiter.take(request.apiKey)
  })
}

function authorise(keys: KeyStore, request: FastifyRequest, scope: Scope): ApiKey {
  const secret = secretOf(request)
  const key = secret === undefined ? undefined : keys.verify(secret)
  if (key === undefined) {
    const message = secret === undefined
      ? 'You did not provide an API key: send it as Authorization: Bearer KEY.'
      : 'Incorrect API key provided.'
    throw new ApiError(401, 'invalid_api_key', message, { headers: { 'www-authenticate': 'Bearer' } })
  }
  if (key.scopes.includes(scope) || key.scopes.includes('admin')) return key
  throw new ApiError(403, 'insufficient_scope', `This key lacks the scope '${scope}'.`)
}

/** Bearer header; browsers cannot set one on a WebSocket and name the key as a subprotocol, as OpenAI's do. */
function secretOf({ headers }: FastifyRequest): string | undefined {
  const bearer = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1]
  if (bearer !== undefined || headers.upgrade === undefined) return bearer
  const protocols = (headers['sec-websocket-protocol'] ?? '').split(',').map((protocol) => protocol.trim())
  return protocols.find((protocol) => protocol.startsWith(PROTOCOL_KEY))?.slice(PROTOCOL_KEY.length)
}

/** A proxy on this machine speaks for others: its requests need a key. */
function isLocalScraper({ socket, headers }: FastifyRequest): boolean {
  const forwarded = headers['x-forwarded-for'] ?? headers['forwarded'] ?? headers['x-real-ip']
  return forwarded === undefined && isLoopback((socket.remoteAddress ?? '').replace(/^::ffff:/, ''))
}

/** @throws ApiError 403 when the key is bound to other models. A pinned version counts as its name. */
export function allowModel(key: ApiKey | null, model: string): void {
  if (mayUse(key, model)) return
  throw new ApiError(403, 'model_not_allowed', `This key may not use the model '${model}'.`, { param: 'model' })
}

/** Files and jobs belong to the key that made them; administrators, and a server without keys, see all. */
export function mayRead(key: ApiKey | null, owner: string | null): boolean {
  return key === null || key.scopes.includes('admin') || key.id === owner
}

export function mayUse(key: ApiKey | null, model: string): boolean {
  return key?.models === undefined || key.models.includes(model) || key.models.includes(adapterNameOf(model))
}
