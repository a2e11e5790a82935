// Token counts of one request. A prompt counts once, however many choices continue it.

import type { GenerateEvent } from '../../engine/api.js'

export interface UsageBody {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
  readonly prompt_tokens_details: { readonly cached_tokens: number }
}

export class Usage {
  #prompt = 0
  #cached = 0
  #completion = 0
  /** Tokens of choices that have not finished, by prompt-free choice key. */
  readonly #open = new Map<number, number>()

  /** `prompt` tells choices of different prompts apart. */
  add(event: GenerateEvent, prompt = 0): void {
    if (event.type === 'started') {
      this.#prompt += event.promptTokenIds.length
      this.#cached += event.cachedTokens
      return
    }
    const key = prompt * 1_000 + event.index
    if (event.type === 'delta') this.#open.set(key, (this.#open.get(key) ?? 0) + event.tokenIds.length)
    else {
      this.#open.delete(key)
      this.#completion += event.completionTokens
    }
  }

  get body(): UsageBody {
    const open = [...this.#open.values()].reduce((sum, n) => sum + n, 0)
    const completion = this.#completion + open
    return {
      prompt_tokens: this.#prompt,
      completion_tokens: completion,
      total_tokens: this.#prompt + completion,
      prompt_tokens_details: { cached_tokens: this.#cached },
    }
  }
}
