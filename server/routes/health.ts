// Liveness is this process, start-up is the first load, readiness is whether a request would be answered now.

import type { FastifyInstance } from 'fastify'
import type { ServerContext } from '../context.js'
import { healthResponses } from '../openai/response-schemas.js'

export function registerHealth(app: FastifyInstance, { backend }: ServerContext): void {
  const route = (url: string, summary: string, state: () => { readonly ready: boolean; readonly reason: string }) =>
    app.get(url, {
      config: { scope: 'open' }, schema: { summary, tags: ['health'], response: healthResponses },
    }, async (_request, reply) => {
      const { ready, reason } = state()
      reply.header('cache-control', 'no-store')
      return reply.code(ready ? 200 : 503).send({ status: ready ? 'ok' : 'unavailable', reason })
    })

  route('/livez', 'The server process answers', () => ({ ready: true, reason: 'alive' }))
  route('/startupz', 'The model has loaded', () => (backend.started ? { ready: true, reason: 'started' } : backend.readiness()))
  route('/readyz', 'Requests are answered', () => backend.readiness())
  route('/health', 'As /readyz', () => backend.readiness())
}
