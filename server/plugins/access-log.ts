// One log line an answer: who asked for what, how long it took. Never a body, a prompt, a key or a query string.

import type { FastifyInstance } from 'fastify'

export function registerAccessLog(app: FastifyInstance): void {
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id)
  })
  app.addHook('onResponse', async (request, reply) => {
    const { method, routeOptions, apiKey } = request
    const line = {
      method, route: routeOptions.url ?? 'unknown', status: reply.statusCode, ms: Math.round(reply.elapsedTime), key: apiKey?.id,
    }
    if (routeOptions.config.scope === 'infer') request.log.info(line, 'answered')
    else request.log.debug(line, 'answered')
  })
}
