// A model of a running server as an evaluation uses it: greedy answers, and log-probabilities of given tokens, over its OpenAI routes.

import type { EvaluationModel, Scores } from '../../adapters/evaluation/evaluation-model.js'
import type { TrainRow } from '../../engine/train/row-format.js'
import { UsageError } from '../settings.js'
import type { ServerClient } from './server-client.js'

interface Completion {
  readonly choices: ReadonlyArray<{
    readonly text?: string
    readonly message?: { readonly content: string | null }
    readonly prompt_token_ids?: readonly number[]
    readonly prompt_logprobs?: PromptLogprobs
  }>
  readonly prompt_token_ids?: readonly number[]
  readonly prompt_logprobs?: PromptLogprobs
}

type PromptLogprobs = ReadonlyArray<Readonly<Record<string, { readonly logprob: number; readonly rank: number | null }>> | null>

interface ModelCard {
  readonly id: string
  readonly parent: string | null
}

/** The base, then the adapter; one of them where the other is not asked for. @throws UsageError when the server has no such model */
export async function modelsOfServer(client: ServerClient, adapter: string | undefined, isAlone: boolean): Promise<ServerModel[]> {
  const { data } = await client.json<{ data: readonly ModelCard[] }>('GET', '/v1/models')
  if (adapter !== undefined) await client.json('GET', `/v1/models/${encodeURIComponent(adapter)}`)
  const base = data.find(({ parent }) => parent === null)?.id
  const names = [...(isAlone && adapter !== undefined ? [] : [base]), adapter].filter((name) => name !== undefined)
  if (names.length === 0) throw new UsageError(`${client.origin} shows no base model to this key: name one by --adapter`)
  return names.map((name) => new ServerModel(client, name))
}

export class ServerModel implements EvaluationModel {
  readonly name: string
  readonly #client: ServerClient

  constructor(client: ServerClient, name: string) {
    this.#client = client
    this.name = name
  }

  async answer(row: TrainRow, maxTokens: number): Promise<string> {
    const { choices: [choice] } = await this.#ask(row, false, { temperature: 0, max_tokens: maxTokens })
    return choice?.message?.content ?? choice?.text ?? ''
  }

  /** As EngineModel's: from the first token on that the prompt alone does not have. */
  async score(row: TrainRow): Promise<Scores | undefined> {
    try {
      const tokens = { max_tokens: 1, return_token_ids: true }
      const [whole, prompt] = await Promise.all([this.#ask(row, true, { ...tokens, prompt_logprobs: 1 }), this.#ask(row, false, tokens)])
      return sumOf(idsOf(whole), idsOf(prompt), whole.prompt_logprobs ?? whole.choices[0]?.prompt_logprobs ?? [])
    } catch (error) {
      if (error instanceof UsageError && /this model's context is/.test(error.message)) return undefined
      throw error
    }
  }

  #ask(row: TrainRow, isWhole: boolean, fields: object): Promise<Completion> {
    const body = { model: this.name, ...fields }
    if (row.type === 'plain') {
      return this.#client.json('POST', '/v1/completions', { ...body, prompt: row.prompt + (isWhole ? row.completion : '') })
    }
    const messages = row.messages.slice(0, isWhole ? undefined : -1).map(({ role, content }) => ({ role, content }))
    return this.#client.json('POST', '/v1/chat/completions', { ...body, messages, add_generation_prompt: !isWhole })
  }
}

const idsOf = ({ prompt_token_ids: ids, choices }: Completion): readonly number[] => ids ?? choices[0]?.prompt_token_ids ?? []

function sumOf(ids: readonly number[], prompt: readonly number[], logprobs: PromptLogprobs): Scores {
  const scores = { lossSum: 0, targets: 0, correct: 0 }
  const differing = ids.findIndex((id, i) => id !== prompt[i])
  for (let i = differing === -1 ? ids.length : Math.max(1, differing); i < ids.length; i++) {
    const entry = logprobs[i]?.[ids[i]!]
    if (entry === undefined) continue
    scores.lossSum -= entry.logprob
    scores.targets++
    if (entry.rank === 1) scores.correct++
  }
  return scores
}
