// OpenAPI 3.1 at /openapi.json, made from the routes' own schemas, and its reader at /docs.

import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'
import type { ServerContext } from '../context.js'
import { WEBSOCKET_PROTOCOL } from './websocket-protocol.js'

const DESCRIPTION = `Inference and adapters for Gemma 3, in OpenAI's shapes with vLLM's extra fields. Unknown fields are ignored;
fields that would change the answer and are not supported are refused by name with 400.

${WEBSOCKET_PROTOCOL}`

/** Before any route is registered: it listens to their registration. */
export async function registerDocs(app: FastifyInstance, { keys }: ServerContext): Promise<void> {
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'Lorikeet', description: DESCRIPTION, version: '0.1.0', license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
      components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } },
      ...(keys !== undefined && { security: [{ key: [] }] }),
    },
  })
  await app.register(swaggerUi, { routePrefix: '/docs', staticCSP: true, theme: { title: 'Lorikeet API' } })
  app.get('/openapi.json', { config: { scope: 'open' }, schema: { hide: true } }, async () => app.swagger())
}
