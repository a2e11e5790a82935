// Prompt -> token ids, with exactly one <bos>.

import type { Prompt } from './api.js'
import type { ChatTemplate } from './chat-template.js'
import { EngineError } from './errors.js'
import type { Tokenizer } from './tokenizer.js'

export class PromptEncoder {
  readonly #tokenizer: Tokenizer
  readonly #template: ChatTemplate

  constructor(tokenizer: Tokenizer, template: ChatTemplate) {
    this.#tokenizer = tokenizer
    this.#template = template
  }

  /** @throws EngineError INVALID_CONVERSATION */
  async encode(prompt: Prompt): Promise<number[]> {
    if ('tokenIds' in prompt) return [...prompt.tokenIds]
    const { bosId } = this.#tokenizer
    if ('text' in prompt) return [bosId, ...await this.#text(prompt.text)]
    const ids: number[] = []
    for (const part of this.#template(prompt.messages, prompt.addGenerationPrompt ?? true)) {
      if ('control' in part) ids.push(this.#control(part.control))
      else for (const id of Array.from(await this.#text(part.text))) ids.push(id)
    }
    return ids[0] === bosId ? ids : [bosId, ...ids]
  }

  async #text(text: string): Promise<ArrayLike<number> & Iterable<number>> {
    return Array.from(text === '' ? [] : await this.#tokenizer.encode(text))
  }

  #control(spelling: string): number {
    const id = this.#tokenizer.controlId(spelling)
    if (id === undefined) throw new EngineError('INVALID_CONVERSATION', `the vocabulary has no ${spelling}: this model cannot be given messages`)
    return id
  }
}
