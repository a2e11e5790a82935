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
    await within(POLL_PATIENCE_MS, backend.poll())
    reply.type(metrics.registry.contentType)
    return metrics.registry.metrics()
  })
}

/** Resolves with the promise or when the time is up. */
async function within(ms: number, promise: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise((resolve) => (timer = setTimeout(resolve, ms)))
  await Promise.race([promise, late])
  clearTimeout(timer)
}
