// OpenAPI 3.1 at /openapi.json, made from the routes' own schemas, and its reader at /docs.

import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'
import type { ServerContext } from '../context.js'
import { VERSION } from '../version.js'
import { WEBSOCKET_PROTOCOL } from './websocket-protocol.js'

const DESCRIPTION = `Inference and adapters for Gemma 3, in OpenAI's shapes with vLLM's extra fields. Unknown fields are ignored;
fields that would change the answer and are not supported are refused by name with 400.

${WEBSOCKET_PROTOCOL}`

const TAGS = ['inference', 'models', 'adapters', 'training', 'health'].map((name) => ({ name }))

/** Before any route is registered: it listens to their registration. */
export async function registerDocs(app: FastifyInstance, { keys }: ServerContext): Promise<void> {
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'Lorikeet', description: DESCRIPTION, version: VERSION, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
      tags: TAGS,
      ...(keys !== undefined && { components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } }, security: [{ key: [] }] }),
    },
  })
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    staticCSP: true,
    theme: { title: 'Lorikeet API', css: [{ filename: 'lorikeet.css', content: '.topbar { display: none }' }] },
  })
  app.get('/openapi.json', { config: { scope: 'open' }, schema: { hide: true } }, async () => app.swagger())
}
