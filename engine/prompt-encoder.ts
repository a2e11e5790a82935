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

  /**
   * A text that no `maxModelLen` tokens could hold is refused before time goes into its tokens.
   * @throws EngineError INVALID_CONVERSATION, CONTEXT_LENGTH_EXCEEDED
   */
  async encode(prompt: Prompt, maxModelLen = Infinity): Promise<number[]> {
    if ('tokenIds' in prompt) return [...prompt.tokenIds]
    this.#checkLength(prompt, maxModelLen)
    const { bosId } = this.#tokenizer
    if ('text' in prompt) return [bosId, ...await this.#text(prompt.text)]
    const ids: number[] = []
    for (const part of this.#template(prompt.messages, prompt.addGenerationPrompt ?? true)) {
      if ('control' in part) ids.push(this.#control(part.control))
      else for (const id of Array.from(await this.#text(part.text))) ids.push(id)
    }
    return ids[0] === bosId ? ids : [bosId, ...ids]
  }

  #checkLength(prompt: Exclude<Prompt, { tokenIds: unknown }>, maxModelLen: number): void {
    const texts = 'text' in prompt ? [prompt.text] : prompt.messages.map((message) => message.content)
    const nBytes = texts.reduce((n, text) => n + Buffer.byteLength(text), 0)
    const least = Math.ceil(nBytes / this.#tokenizer.table.longestToken)
    if (least <= maxModelLen) return
    throw new EngineError('CONTEXT_LENGTH_EXCEEDED', `this model's context is ${maxModelLen} tokens: the prompt has at least ${least}`, {
      param: 'text' in prompt ? 'prompt' : 'messages',
    })
  }

  async #text(text: string): Promise<ArrayLike<number> & Iterable<number>> {
    return Array.from(text === '' ? [] : await this.#tokenizer.encode(text))
  }

  #control(spelling: string): number {
    const id = this.#tokenizer.controlId(spelling)
    if (id !== undefined) return id
    throw new EngineError('INVALID_CONVERSATION', `the vocabulary has no ${spelling}: this model cannot be given messages`)
  }
}
