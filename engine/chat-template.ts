// Messages -> Gemma turns. The template alone makes control tokens; what people wrote stays text.

import { Template } from '@huggingface/jinja'
import type { ChatMessage } from './api.js'
import { EngineError } from './errors.js'

/** A control token by its spelling, or text to be encoded as text. */
export type TemplatePart = { readonly control: string } | { readonly text: string }

/** @throws EngineError INVALID_CONVERSATION where the template refuses the messages */
export type ChatTemplate = (messages: readonly ChatMessage[], addGenerationPrompt: boolean) => TemplatePart[]

const BOS = '<bos>'
const START = '<start_of_turn>'
const END = '<end_of_turn>'

/** What Python's str.strip removes: also U+001C to U+001F and U+0085, but not U+FEFF. */
const PYTHON_SPACE = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'
const LEADING = new RegExp(`^${PYTHON_SPACE}+`)
const TRAILING = new RegExp(`(?<!${PYTHON_SPACE})${PYTHON_SPACE}+$`)

export function pythonStrip(text: string): string {
  return text.replace(LEADING, '').replace(TRAILING, '')
}

/** The template of the published instruction-tuned Gemma 3 checkpoints. A developer message counts as a system message. */
export function gemmaTemplate(messages: readonly ChatMessage[], addGenerationPrompt: boolean): TemplatePart[] {
  const turns = messages.map(({ role, content }) => ({ role: role === 'developer' ? 'system' : role, content }))
  if (turns.length === 0) throw refused('no messages')
  const system = turns[0]!.role === 'system' ? turns.shift()!.content + '\n\n' : ''
  const parts: TemplatePart[] = [{ control: BOS }]
  turns.forEach(({ role, content }, i) => {
    if ((role === 'user') !== (i % 2 === 0)) throw refused('conversation roles must alternate user/assistant/user/assistant/...')
    const name = role === 'assistant' ? 'model' : role
    parts.push({ control: START }, { text: `${name}\n${i === 0 ? system : ''}${pythonStrip(content)}` }, { control: END }, { text: '\n' })
  })
  if (addGenerationPrompt) parts.push({ control: START }, { text: 'model\n' })
  return parts
}

/** The model's own template where it is another than Gemma's, else Gemma's; base checkpoints get Gemma's too. */
export function chooseTemplate(source: string | null, controlSpellings: readonly string[]): ChatTemplate {
  return source === null || isGemmaTemplate(source) ? gemmaTemplate : jinjaTemplate(source, controlSpellings)
}

/** Published copies differ in white space only; these are the statements that make Gemma's turns. */
function isGemmaTemplate(source: string): boolean {
  const text = source.replace(/\s+/g, '')
  return ["'<start_of_turn>'+role", "(message['role']=='user')!=(loop.index0%2==0)", "message['content']|trim", '<end_of_turn>']
    .every((statement) => text.includes(statement)) && !text.includes('tools')
}

/**
 * Any other template, rendered with placeholders in place of what people wrote, so that their text cannot look like the template's.
 * A template that trims shows it on the spaces around a placeholder.
 */
export function jinjaTemplate(source: string, controlSpellings: readonly string[]): ChatTemplate {
  const template = new Template(source)
  const controls = new RegExp(controlSpellings.map(escapeRegExp).sort((a, b) => b.length - a.length).join('|') || '(?!)', 'g')
  return (messages, addGenerationPrompt) => {
    if (messages.length === 0) throw refused('no messages')
    const contents = messages.map(({ content }) => content)
    const marked = messages.map((message, i) => ({
      ...message, role: message.role === 'developer' ? 'system' : message.role, content: ` \u{f0000}${i}\u{f0001} `,
    }))
    const rendered = render(template, marked, addGenerationPrompt)
    return mergeText(rendered.split(/( ?\u{f0000}\d+\u{f0001} ?)/u).flatMap((piece) => {
      const placeholder = /^( ?)\u{f0000}(\d+)\u{f0001}( ?)$/u.exec(piece)
      if (placeholder === null) return splitControls(piece, controls)
      const content = contents[Number(placeholder[2])] ?? ''
      const left = placeholder[1] === '' ? content.replace(LEADING, '') : content
      return [{ text: placeholder[3] === '' ? left.replace(TRAILING, '') : left }]
    }))
  }
}

function render(template: Template, messages: readonly object[], addGenerationPrompt: boolean): string {
  try {
    return template.render({ messages, add_generation_prompt: addGenerationPrompt, bos_token: BOS, eos_token: '<eos>' })
  } catch (cause) {
    throw refused((cause as Error).message)
  }
}

function splitControls(text: string, controls: RegExp): TemplatePart[] {
  const parts: TemplatePart[] = []
  let at = 0
  for (const match of text.matchAll(controls)) {
    parts.push({ text: text.slice(at, match.index) }, { control: match[0] })
    at = match.index + match[0].length
  }
  return [...parts, { text: text.slice(at) }]
}

/** Neighbouring text is encoded together, as the tokenizer would. */
function mergeText(parts: readonly TemplatePart[]): TemplatePart[] {
  const merged: TemplatePart[] = []
  for (const part of parts) {
    const last = merged.at(-1)
    if ('text' in part && last !== undefined && 'text' in last) merged[merged.length - 1] = { text: last.text + part.text }
    else merged.push(part)
  }
  return merged.filter((part) => 'control' in part || part.text !== '')
}

function escapeRegExp(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
}

function refused(message: string): EngineError {
  return new EngineError('INVALID_CONVERSATION', message, { param: 'messages' })
}
