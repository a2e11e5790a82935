// The way of a generation's answer out over HTTP, the same for chat and completions.

import type { FastifyReply, FastifyRequest } from 'fastify'
import type { ModelInfo } from '../../engine/api.js'
import type { ServerContext } from '../context.js'
import { toApiError } from '../errors.js'
import { SlowReaderError, SseStream } from '../openai/sse.js'
import type { RequestScope } from '../request-scope.js'

/** Streams chunks as events. Errors before the first chunk are thrown and become a plain error answer. */
export async function sendStream(
  context: ServerContext, reply: FastifyReply, scope: RequestScope, chunks: AsyncGenerator<object>,
): Promise<void> {
  const first = await chunks.next()
  const stream = new SseStream(reply, context.config.slowReader)
  try {
    if (first.done !== true) await sendChunk(stream, scope, first.value)
    for await (const chunk of chunks) await sendChunk(stream, scope, chunk)
    stream.done()
  } catch (error) {
    if (error instanceof SlowReaderError) {
      context.metrics.slowReaders.inc()
      stream.cut()
    } else {
      logFailure(reply, error)
      stream.fail(toApiError(error).body)
    }
  } finally {
    await chunks.return(undefined)
  }
}

/** The scope knows of a slow reader before the generation is left. */
async function sendChunk(stream: SseStream, scope: RequestScope, chunk: object): Promise<void> {
  try {
    await stream.send(chunk)
  } catch (error) {
    scope.abort('slow_reader')
    throw error
  }
}

/** Our own failures go to the log with their cause; a client's mistakes do not. */
export function logFailure(reply: FastifyReply, error: unknown): void {
  const { status, code } = toApiError(error)
  if (status >= 500) reply.log.error({ err: error, code }, 'request failed')
  else reply.log.debug({ code }, 'request refused')
}

/** Fields that we do not know are ignored, as vLLM does; the debug log names them. */
export function noteUnknownFields(request: FastifyRequest, schema: { readonly properties: object }): void {
  if (request.log.level !== 'debug') return
  const unknown = Object.keys(request.body as object).filter((field) => !Object.hasOwn(schema.properties, field))
  if (unknown.length > 0) request.log.debug({ fields: unknown.slice(0, 20) }, 'fields ignored')
}

/** Changes when the weights do, which is what OpenAI's system_fingerprint promises. */
export const fingerprint = (info: ModelInfo): string => `fp_${info.hash.slice(0, 12)}`

export const unixSeconds = (): number => Math.floor(Date.now() / 1000)
