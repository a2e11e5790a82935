// A checked request and its prompt ids -> its choices, ready for the scheduler.

import type { GenerateRequest, ModelInfo } from './api.js'
import { Choice } from './choice.js'
import { EngineError } from './errors.js'
import { chainSeed } from './kv-blocks.js'
import { resolveSampling } from './sampling.js'
import { Sequence } from './sequence.js'
import type { TokenTable } from './token-table.js'

export interface ChoiceContext {
  readonly info: ModelInfo
  readonly table: TokenTable | null
  readonly prefixCache: boolean
}

/** @throws EngineError CONTEXT_LENGTH_EXCEEDED with the numbers */
export function makeChoices(request: GenerateRequest, promptIds: Int32Array, context: ChoiceContext): Choice[] {
  const { info, table } = context
  const maxTokens = tokenLimit(request, promptIds.length, info.maxModelLen)
  const namedStopIds = new Set(request.stopTokenIds ?? [])
  const stopIds = new Set([...namedStopIds, ...(request.ignoreEos === true ? [] : info.stopTokenIds)])
  const minTokens = request.minTokens ?? 0
  const cacheSeed = cacheSeedOf(request, context)
  const extras = { minTokens, suppressedIds: [...stopIds] }
  const samplings = resolveSampling(request.n ?? 1, request.sampling ?? {}, info.defaultSampling, extras)
  return samplings.map((sampling, index) => {
    const sequence = new Sequence({
      requestId: request.id, index, promptIds, sampling, maxTokens, stopIds, cacheSeed,
      outputIds: request.resume?.[index]?.tokenIds ?? [],
      flow: request.adapter?.version ?? '',
      adapterSlot: request.adapter?.slot ?? -1,
      logprobs: request.logprobs ?? -1,
      promptLogprobs: index === 0 ? request.promptLogprobs ?? -1 : -1,
      promptLogprobsFrom: request.promptLogprobsFrom ?? 1,
    })
    return new Choice(sequence, {
      table, minTokens, namedStopIds,
      stop: request.stop ?? [],
      includeStop: request.includeStopInOutput ?? false,
      skipSpecialTokens: request.skipSpecialTokens ?? true,
    })
  })
}

function tokenLimit(request: GenerateRequest, nPrompt: number, maxModelLen: number): number {
  const limit = request.maxTokens ?? Math.max(1, maxModelLen - nPrompt)
  if (nPrompt + limit <= maxModelLen) return limit
  const completion = request.maxTokens === undefined ? 'no room is left for an answer' : `max_tokens asks for ${request.maxTokens} more`
  const message = `this model's context is ${maxModelLen} tokens: the prompt has ${nPrompt}, and ${completion}`
  throw new EngineError('CONTEXT_LENGTH_EXCEEDED', message, {
    param: 'messages' in request.prompt ? 'messages' : 'prompt',
  })
}

/** Without a prefix cache, the choices of one request still share their prompt, and nothing else does. */
function cacheSeedOf(request: GenerateRequest, { info, prefixCache }: ChoiceContext): string | null {
  const version = request.adapter?.version ?? ''
  if (prefixCache) return chainSeed(info.hash, version, request.cacheSalt ?? '')
  return (request.n ?? 1) > 1 ? chainSeed(info.hash, version, `request ${request.id}`) : null
}
