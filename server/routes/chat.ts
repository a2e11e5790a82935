// POST /v1/chat/completions. The same generation over a WebSocket is in websocket.ts.

import type { Static } from 'typebox'
import type { FastifyInstance } from 'fastify'
import type { MissPolicy } from '../../adapters/slot-types.js'
import type { ServerContext } from '../context.js'
import { runGeneration, type PromptEvent } from '../generation.js'
import type { ApiKey } from '../keys.js'
import { chatChunks, chatCompletion, type ChatAnswer } from '../openai/chat-response.js'
import { chatRequest } from '../openai/generate-request.js'
import { MissHeaders, missPolicyOf } from '../openai/miss-policy.js'
import { refuseUnsupportedChat } from '../openai/refusals.js'
import { chatResponses } from '../openai/response-schemas.js'
import { ChatCompletionRequest, type ChatCompletionBody } from '../openai/schemas.js'
import { allowModel } from '../plugins/auth.js'
import { newId, type RequestScope } from '../request-scope.js'
import { fingerprint, noteUnknownFields, sendStream, unixSeconds } from './respond.js'

export function registerChat(app: FastifyInstance, context: ServerContext): void {
  app.post<{ Body: ChatCompletionBody; Headers: Static<typeof MissHeaders> }>('/v1/chat/completions', {
    config: { scope: 'infer' },
    schema: {
      operationId: 'createChatCompletion', summary: 'Chat completion', tags: ['inference'],
      headers: MissHeaders, body: ChatCompletionRequest, response: chatResponses,
    },
  }, async (request, reply) => {
    noteUnknownFields(request, ChatCompletionRequest)
    const { scope, answer, events } = openChat(context, request.body, request.apiKey, missPolicyOf(request))
    scope.watch(reply.raw)
    if (request.body.stream === true) return sendStream(context, reply, scope, chatChunks(answer, events))
    return chatCompletion(answer, events)
  })
}

export interface OpenChat {
  readonly scope: RequestScope
  readonly answer: ChatAnswer
  /** Must be iterated: only then does the generation run, and end. */
  readonly events: AsyncGenerator<PromptEvent>
}

/** A validated body as a generation that is ready to run. @throws ApiError, EngineError. */
export function openChat(context: ServerContext, body: ChatCompletionBody, key: ApiKey | null, missPolicy?: MissPolicy): OpenChat {
  refuseUnsupportedChat(body)
  allowModel(key, body.model)
  const { info } = context.backend.engine()
  const id = newId('chatcmpl')
  const request = chatRequest(body, { id, tenant: key?.id ?? '' }, info)
  const scope = context.active.open(id, key)
  const events = runGeneration(context, { scope, model: body.model, requests: [request], missPolicy })
  return { scope, answer: chatAnswer(body, id, fingerprint(info)), events }
}

function chatAnswer(body: ChatCompletionBody, id: string, systemFingerprint: string): ChatAnswer {
  const last = body.messages.at(-1)!
  const echoed = body.echo === true && last.role === 'assistant'
  const text = typeof last.content === 'string' ? last.content : last.content.map((part) => part.text).join('')
  return {
    id,
    created: unixSeconds(),
    model: body.model,
    fingerprint: systemFingerprint,
    n: body.n ?? 1,
    logprobs: body.logprobs === true,
    tokenIds: body.return_token_ids === true,
    includeUsage: body.stream_options?.include_usage === true,
    continuousUsage: body.stream_options?.continuous_usage_stats === true,
    prefix: echoed ? text : '',
  }
}
