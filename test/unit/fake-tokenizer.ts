// A vocabulary of 512 ids for the fake device: ASCII characters, bytes, four control tokens, and words.

import { gemmaTemplate } from '../../engine/chat-template.js'
import { PromptEncoder } from '../../engine/prompt-encoder.js'
import { TokenTable } from '../../engine/token-table.js'
import type { Tokenizer } from '../../engine/tokenizer.js'

const CONTROL = new Map([['<eos>', 1], ['<bos>', 2], ['<start_of_turn>', 5], ['<end_of_turn>', 6]])
const FIRST_ASCII = 100
const FIRST_BYTE = 256

function spelling(id: number): string {
  for (const [text, controlId] of CONTROL) if (controlId === id) return text
  if (id >= FIRST_BYTE) return `<0x${(id - FIRST_BYTE).toString(16).padStart(2, '0')}>`
  if (id >= FIRST_ASCII && id < FIRST_ASCII + 128) return String.fromCharCode(id - FIRST_ASCII)
  return `\u2581w${id}`
}

export const fakeTable = TokenTable.fromSpellings(Array.from({ length: 512 }, (_, id) => spelling(id)), new Set(CONTROL.values()))

export const fakeTokenizer: Tokenizer = {
  table: fakeTable,
  bosId: 2,
  chatTemplate: null,
  controlSpellings: [...CONTROL.keys()],
  controlId: (text) => CONTROL.get(text),
  encode: async (text) => [...Buffer.from(text)].map((byte) => (byte < 128 ? FIRST_ASCII + byte : FIRST_BYTE + byte)),
}

export const fakeEncoder = new PromptEncoder(fakeTokenizer, gemmaTemplate)
