// GET /metrics for Prometheus.

import type { FastifyInstance } from 'fastify'
import type { ServerContext } from '../context.js'

/** An engine that does not answer must not hold up the scrape. */
const POLL_PATIENCE_MS = 500

export function registerMetrics(app: FastifyInstance, { backend, metrics }: ServerContext): void {
  app.get('/metrics', {
    config: { scope: 'metrics' },
    schema: { summary: 'Prometheus metrics', tags: ['health'], produces: ['text/plain'] },
  }, async (_request, reply) => {
    await Promise.race([backend.poll(), new Promise((resolve) => setTimeout(resolve, POLL_PATIENCE_MS).unref())])
    reply.type(metrics.registry.contentType)
    return metrics.registry.metrics()
  })
}
