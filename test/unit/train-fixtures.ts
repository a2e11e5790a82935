// A vocabulary of bytes for training tests, and data files in a temporary folder.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gemmaTemplate } from '../../engine/chat-template.js'
import { TokenTable } from '../../engine/token-table.js'
import type { Tokenizer } from '../../engine/tokenizer.js'
import { SampleEncoder } from '../../engine/train/sample-encoder.js'

const CONTROLS = ['<pad>', '<eos>', '<bos>', '<unk>', '<start_of_turn>', '<end_of_turn>']
/** Id of byte 0. */
export const FIRST_BYTE = CONTROLS.length
export const VOCAB_SIZE = FIRST_BYTE + 256
export const [BOS, EOS, START, END] = [2, 1, 4, 5]

export const byteTokenizer: Tokenizer = {
  table: TokenTable.fromSpellings(
    [...CONTROLS, ...Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).padStart(2, '0')}>`)], new Set([0, 1, 2, 3, 4, 5])),
  bosId: BOS,
  chatTemplate: null,
  controlSpellings: CONTROLS,
  controlId: (spelling) => (CONTROLS.includes(spelling) ? CONTROLS.indexOf(spelling) : undefined),
  encode: async (text) => Array.from(Buffer.from(text), (byte) => FIRST_BYTE + byte),
}

export const byteEncoder = new SampleEncoder(byteTokenizer, gemmaTemplate)

/** Ids of text. */
export const bytes = (text: string): number[] => Array.from(Buffer.from(text), (byte) => FIRST_BYTE + byte)

export interface Folder {
  readonly path: string
  write(name: string, content: string | Uint8Array): string
  remove(): void
}

export function temporaryFolder(): Folder {
  const path = mkdtempSync(join(tmpdir(), 'lorikeet-train-'))
  return {
    path,
    write(name, content) {
      writeFileSync(join(path, name), content)
      return join(path, name)
    },
    remove: () => rmSync(path, { recursive: true, force: true }),
  }
}

export const user = (content: unknown) => ({ role: 'user', content })
export const answer = (content: unknown, more: object = {}) => ({ role: 'assistant', content, ...more })
export const system = (content: unknown) => ({ role: 'system', content })
export const chat = (...messages: unknown[]) => ({ messages })
export const jsonl = (rows: readonly unknown[]) => rows.map((row) => `${typeof row === 'string' ? row : JSON.stringify(row)}\n`).join('')
