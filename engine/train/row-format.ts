// One row of a data set -> a conversation or plain text, checked. First match wins; null counts as absent; other columns are ignored.

import { RowFault, type RowFaultKind } from './data-error.js'

/** Columns that make a format, in the order in which they are tried; instruction may have `input` beside it. */
export const FORMATS: ReadonlyArray<readonly string[]> = [['messages'], ['prompt', 'completion'], ['instruction', 'output'], ['text']]

export interface TrainMessage {
  readonly role: 'system' | 'user' | 'assistant'
  readonly content: string
  /** 0: this answer is no target. */
  readonly weight: 0 | 1
}

export type TrainRow =
  | { readonly type: 'chat'; readonly messages: readonly TrainMessage[] }
  /** `prompt` is empty for a text. */
  | { readonly type: 'plain'; readonly prompt: string; readonly completion: string; readonly isText: boolean }

type Columns = Readonly<Record<string, unknown>>

/** What Python's str.strip leaves nothing of. */
const WHITE = /^[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$/
const LONE_SURROGATE = /\p{Surrogate}/u

/** @throws RowFault */
export function readRow(value: unknown): TrainRow {
  if (value instanceof RowFault) throw value
  demand(isObject(value), 'not_an_object')
  const row = value as Columns
  const has = (column: string) => Object.hasOwn(row, column) && row[column] !== null && row[column] !== undefined
  const format = FORMATS.find((columns) => columns.every(has))
  demand(format !== undefined, 'unknown_columns')
  switch (format![0]) {
    case 'messages': return readChat(row['messages'])
    case 'prompt': return readPromptCompletion(row['prompt'], row['completion'])
    case 'instruction': return readInstruction(row, has('input'))
    default: return { type: 'plain', prompt: '', completion: text(row['text']), isText: true }
  }
}

function readPromptCompletion(prompt: unknown, completion: unknown): TrainRow {
  if (Array.isArray(prompt) || Array.isArray(completion)) {
    demand(Array.isArray(prompt) && Array.isArray(completion), 'messages_not_list')
    return readChat([...prompt as unknown[], ...completion as unknown[]])
  }
  return { type: 'plain', prompt: text(prompt, true), completion: text(completion), isText: false }
}

function readInstruction(row: Columns, hasInput: boolean): TrainRow {
  const input = hasInput ? text(row['input'], true) : ''
  const question = text(row['instruction']) + (input === '' ? '' : `\n\n${input}`)
  return readChat([{ role: 'user', content: question }, { role: 'assistant', content: row['output'] }])
}

function readChat(value: unknown): TrainRow {
  demand(Array.isArray(value), 'messages_not_list')
  demand((value as unknown[]).length > 0, 'empty_messages')
  const messages = (value as unknown[]).map(readMessage)
  const turns = messages[0]!.role === 'system' ? messages.slice(1) : messages
  demand(turns.every(({ role }, i) => role === (i % 2 === 0 ? 'user' : 'assistant')), 'bad_alternation')
  demand(turns.at(-1)?.role === 'assistant', 'no_answer')
  demand(turns.some(({ role, weight }) => role === 'assistant' && weight === 1), 'no_targets')
  return { type: 'chat', messages }
}

function readMessage(value: unknown): TrainMessage {
  demand(isObject(value), 'message_not_object')
  const { role, content, weight } = value as Columns
  demand(role !== null && role !== undefined, 'missing_role')
  demand(role === 'system' || role === 'user' || role === 'assistant', 'unknown_role')
  demand(content !== null && content !== undefined, 'missing_content')
  const checked = text(content)
  const given = weight ?? undefined
  demand(given === undefined || ((given === 0 || given === 1) && role === 'assistant'), 'bad_weight')
  return { role: role as TrainMessage['role'], content: checked, weight: (given as 0 | 1 | undefined) ?? 1 }
}

function text(value: unknown, mayBeEmpty = false): string {
  demand(typeof value === 'string', 'content_not_string')
  demand(!LONE_SURROGATE.test(value as string), 'invalid_utf8', 'half of a surrogate pair')
  demand(mayBeEmpty || !WHITE.test(value as string), 'empty_content')
  return value as string
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function demand(holds: boolean, kind: RowFaultKind, detail = ''): void {
  if (!holds) throw new RowFault(kind, detail)
}
