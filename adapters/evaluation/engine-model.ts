// A base or an adapter on an engine, as an evaluation uses it: greedy answers, and log-probabilities of given tokens.

import { randomUUID } from 'node:crypto'
import type { AdapterHandle, Engine, GenerateRequest, Prompt, TokenLogprob } from '../../engine/api.js'
import { EngineError } from '../../engine/errors.js'
import type { TrainRow } from '../../engine/train/row-format.js'
import type { EvaluationModel, Scores } from './evaluation-model.js'

export type EvaluationEngine = Pick<Engine, 'generate' | 'tokenize' | 'info'>

export class EngineModel implements EvaluationModel {
  readonly name: string
  readonly #engine: EvaluationEngine
  readonly #adapter: AdapterHandle | null

  constructor(engine: EvaluationEngine, name: string, adapter: AdapterHandle | null) {
    this.name = name
    this.#engine = engine
    this.#adapter = adapter
  }

  async answer(row: TrainRow, maxTokens: number, signal?: AbortSignal): Promise<string> {
    let text = ''
    const request = { prompt: promptOf(row), maxTokens, sampling: { temperature: 0 } }
    for await (const event of this.#generate(request, signal)) if (event.type !== 'started') text += event.text
    return text
  }

  async score(row: TrainRow, signal?: AbortSignal): Promise<Scores | undefined> {
    const tokenIds = await this.#engine.tokenize(wholeOf(row))
    const prompt = await this.#engine.tokenize(promptOf(row))
    const from = Math.max(1, commonPrefix(prompt, tokenIds))
    if (tokenIds.length > this.#engine.info.maxModelLen) return undefined
    const request = { prompt: { tokenIds }, maxTokens: 0, promptLogprobs: 1, promptLogprobsFrom: from }
    for await (const event of this.#generate(request, signal)) {
      if (event.type === 'started') return sumOf(event.promptLogprobs ?? [], from)
    }
    return undefined
  }

  /** @throws EngineError ABORTED when the signal is */
  async *#generate(request: Omit<GenerateRequest, 'id'>, signal: AbortSignal | undefined) {
    for await (const event of this.#engine.generate({ id: `eval-${randomUUID()}`, adapter: this.#adapter, ...request }, signal)) {
      if (event.type === 'finished' && event.reason === 'abort') throw new EngineError('ABORTED', 'The evaluation was stopped')
      yield event
    }
  }
}

type PromptLogprobs = ReadonlyArray<TokenLogprob | null>

function sumOf(logprobs: PromptLogprobs, from: number): Scores {
  const scores = { lossSum: 0, targets: 0, correct: 0 }
  for (const entry of logprobs.slice(from)) {
    if (entry === null) continue
    scores.lossSum -= entry.logprob
    scores.targets++
    if (entry.top[0]?.tokenId === entry.tokenId) scores.correct++
  }
  return scores
}

function promptOf(row: TrainRow): Prompt {
  if (row.type === 'plain') return { text: row.prompt }
  return { messages: row.messages.slice(0, -1), addGenerationPrompt: true }
}

function wholeOf(row: TrainRow): Prompt {
  if (row.type === 'plain') return { text: row.prompt + row.completion }
  return { messages: row.messages, addGenerationPrompt: false }
}

function commonPrefix(a: readonly number[], b: readonly number[]): number {
  const end = Math.min(a.length, b.length)
  for (let i = 0; i < end; i++) if (a[i] !== b[i]) return i
  return end
}
