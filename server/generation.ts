// One generation from a checked body to the engine and back: admission, adapter, engine requests, metrics. Routes and the
// WebSocket only turn its events into bytes.

import type { MissPolicy } from '../adapters/slot-types.js'
import type { GenerateEvent, GenerateRequest } from '../engine/api.js'
import { EngineError } from '../engine/errors.js'
import type { ModelLease } from './adapter-directory.js'
import { mergeStreams } from './merge-streams.js'
import { engineReady, generateResumable } from './resume.js'
import type { RequestScope } from './request-scope.js'
import type { ServerContext } from './context.js'

/** An event of the engine and which prompt of the request it belongs to. */
export interface PromptEvent {
  readonly prompt: number
  readonly event: GenerateEvent
}

export interface GenerationInput {
  readonly scope: RequestScope
  readonly model: string
  /** Without an adapter: it is resolved here. */
  readonly requests: readonly GenerateRequest[]
  /** Undefined: the server's own. */
  readonly missPolicy?: MissPolicy
}

/**
 * Runs every request of the input; ends when all have finished. Leaving early frees everything at once.
 * @throws EngineError, ApiError; before the first event where the request could not start.
 */
export async function* runGeneration(context: ServerContext, input: GenerationInput): AsyncGenerator<PromptEvent> {
  const { scope, requests } = input
  const { backend, gate, metrics, config } = context
  const record = metrics.requests.start(input)
  let leave = () => {}
  let lease: ModelLease | undefined
  try {
    leave = gate.enter(requests.reduce((seats, request) => seats + (request.n ?? 1), 0))
    await engineReady(backend.engine(), config.recoveryMs, scope.signal)
    lease = await backend.adapters().resolve(input.model, scope.signal, { policy: input.missPolicy })
    record.resolved(lease.name)
    for await (const item of mergeStreams(sources(context, input, lease), scope.signal)) {
      refuseAborted(item.event)
      record.event(item)
      yield item
    }
    scope.signal.throwIfAborted()
  } catch (error) {
    const told = scope.signal.aborted ? scope.error : error
    record.failed(told)
    throw told
  } finally {
    record.end(scope.reason)
    scope.close()
    lease?.release()
    leave()
  }
}

/** The engine gave the request up by itself (it is being closed): no client is told that this was an answer. */
function refuseAborted(event: GenerateEvent): void {
  if (event.type !== 'finished' || event.reason !== 'abort') return
  throw new EngineError('ENGINE_UNAVAILABLE', 'The engine stopped before the answer was complete.')
}

function sources(context: ServerContext, { requests }: GenerationInput, lease: ModelLease) {
  const { adapter } = lease
  const deps = {
    engine: context.backend.engine(),
    quarantine: context.quarantine,
    renewAdapter: () => lease.renew(),
    recoveryMs: context.config.recoveryMs,
  }
  return requests.map((request, prompt) => async function* (signal: AbortSignal): AsyncGenerator<PromptEvent> {
    for await (const event of generateResumable(deps, { ...request, adapter }, signal)) yield { prompt, event }
  })
}
