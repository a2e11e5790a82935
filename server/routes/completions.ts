// POST /v1/completions: text or token ids in, text out; every prompt is an engine request of its own.

import type { Static } from 'typebox'
import type { FastifyInstance } from 'fastify'
import type { Engine, GenerateRequest } from '../../engine/api.js'
import type { ServerContext } from '../context.js'
import { runGeneration } from '../generation.js'
import { completion, completionChunks, type CompletionAnswer, type EchoedPrompt } from '../openai/completion-response.js'
import { completionRequests } from '../openai/generate-request.js'
import { MissHeaders, missPolicyOf } from '../openai/miss-policy.js'
import { refuseUnsupportedCompletion } from '../openai/refusals.js'
import { completionResponses } from '../openai/response-schemas.js'
import { CompletionRequest, type CompletionBody } from '../openai/schemas.js'
import { allowModel } from '../plugins/auth.js'
import { newId } from '../request-scope.js'
import { fingerprint, noteUnknownFields, sendStream, unixSeconds } from './respond.js'

export function registerCompletions(app: FastifyInstance, context: ServerContext): void {
  app.post<{ Body: CompletionBody; Headers: Static<typeof MissHeaders> }>('/v1/completions', {
    config: { scope: 'infer' },
    schema: {
      operationId: 'createCompletion', summary: 'Text completion', tags: ['inference'],
      headers: MissHeaders, body: CompletionRequest, response: completionResponses,
    },
  }, async (request, reply) => {
    const { body, apiKey } = request
    noteUnknownFields(request, CompletionRequest)
    refuseUnsupportedCompletion(body)
    allowModel(apiKey, body.model)
    const engine = context.backend.engine()
    const id = newId('cmpl')
    const requests = completionRequests(body, { id, tenant: apiKey?.id ?? '' }, engine.info)
    const answer = await completionAnswer(body, id, engine, requests)
    const scope = context.active.open(id, apiKey).watch(reply.raw)
    const events = runGeneration(context, { scope, model: body.model, requests, missPolicy: missPolicyOf(request) })
    if (body.stream === true) return sendStream(context, reply, scope, completionChunks(answer, events))
    return completion(answer, events)
  })
}

async function completionAnswer(
  body: CompletionBody, id: string, engine: Engine, requests: readonly GenerateRequest[],
): Promise<CompletionAnswer> {
  return {
    id,
    created: unixSeconds(),
    model: body.model,
    fingerprint: fingerprint(engine.info),
    n: body.n ?? 1,
    echo: await Promise.all(requests.map(({ prompt }) => (body.echo === true ? echoOf(engine, prompt, body) : null))),
    logprobs: typeof body.logprobs === 'number',
    promptLogprobs: typeof body.prompt_logprobs === 'number',
    tokenIds: body.return_token_ids === true,
    includeUsage: body.stream_options?.include_usage === true,
    continuousUsage: body.stream_options?.continuous_usage_stats === true,
  }
}

/** The prompt as text; its first token's text only where log-probabilities will name it. */
async function echoOf(engine: Engine, prompt: GenerateRequest['prompt'], { logprobs }: CompletionBody): Promise<EchoedPrompt> {
  const text = 'text' in prompt ? prompt.text : 'tokenIds' in prompt ? await engine.detokenize(prompt.tokenIds) : ''
  const name = typeof logprobs === 'number' ? await firstToken(engine, prompt) : ''
  return { text, firstToken: { name, shown: text.startsWith(name) ? name : '' } }
}

async function firstToken(engine: Engine, prompt: GenerateRequest['prompt']): Promise<string> {
  const [first] = await engine.tokenize(prompt)
  return first === undefined ? '' : engine.detokenize([first])
}
