// Against DNS rebinding and cross-site requests to a server on loopback: the Host must be one of ours, and a browser's Origin
// too. WebSocket upgrades pass through here like everything else.

import type { FastifyInstance } from 'fastify'
import { isLoopback, type ServerConfig } from '../config.js'
import { ApiError } from '../errors.js'

export function registerOriginGuard(app: FastifyInstance, config: ServerConfig): void {
  if (!isLoopback(config.host)) return
  app.addHook('onRequest', async ({ headers }) => {
    const host = hostName(`http://${headers.host ?? ''}`)
    if (!isOurs(host, config)) {
      throw new ApiError(403, 'host_not_allowed', 'The Host header does not name this server (--allowed-host adds names).')
    }
    const { origin } = headers
    if (origin === undefined || config.corsOrigin.includes(origin) || isOurs(hostName(origin), config)) return
    throw new ApiError(403, 'origin_not_allowed', 'Web pages of this origin may not call this server (--cors-origin adds origins).')
  })
}

function isOurs(host: string, { allowedHost }: ServerConfig): boolean {
  return isLoopback(host) || allowedHost.includes(host)
}

function hostName(url: string): string {
  return URL.canParse(url) ? new URL(url).hostname.replace(/^\[|\]$/g, '').toLowerCase() : ''
}
