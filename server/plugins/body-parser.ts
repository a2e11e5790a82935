// Bodies are JSON in UTF-8 and nothing else; answers are written as they were built.

import type { FastifyInstance } from 'fastify'
import { parseJson } from '../openai/json.js'

export function registerBodyParser(app: FastifyInstance): void {
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, async (_request: unknown, body: Buffer) =>
    body.length === 0 ? undefined : parseJson(body),
  )
  app.setSerializerCompiler(() => (data) => JSON.stringify(data))
}
