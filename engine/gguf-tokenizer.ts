// A GGUF file's own vocabulary, read and encoded by native code.

import { type NativeGgufTokenizer, native } from './native.js'
import { GEMMA_VOCAB_SIZE, TOKEN_CONTROL, TOKEN_NORMAL, TokenTable } from './token-table.js'
import type { Tokenizer } from './tokenizer.js'

/** Special tokens of Gemma's tokenizer.json. Converters to GGUF mark others besides (<unused5>, <mask>) and leave some of these out. */
const GEMMA_CONTROLS = new Set([
  '<pad>', '<eos>', '<bos>', '<unk>', '<start_of_turn>', '<end_of_turn>', '<start_of_image>', '<end_of_image>', '<image_soft_token>',
])

/** @throws what native code throws: FILE_INVALID, UNSUPPORTED */
export function openGgufTokenizer(path: string): Tokenizer {
  return wrapGgufTokenizer(native().openGgufTokenizer(path))
}

export function wrapGgufTokenizer(inner: NativeGgufTokenizer): Tokenizer {
  const { bytes, offsets, kinds } = inner.table()
  const asMarked = new TokenTable(bytes, offsets, kinds)
  const table = kinds.length < GEMMA_VOCAB_SIZE ? asMarked : new TokenTable(bytes, offsets, gemmaKinds(asMarked, kinds))
  const controls = new Map<string, number>()
  for (let id = 0; id < table.size; id++) if (table.isControl(id)) controls.set(table.text(id), id)
  return {
    table,
    bosId: inner.bosId,
    chatTemplate: inner.chatTemplate === '' ? null : inner.chatTemplate,
    controlSpellings: [...controls.keys()],
    controlId: (spelling) => controls.get(spelling),
    encode: async (text) => inner.encode(text, false),
  }
}

/** The same model shows the same text whichever file its vocabulary comes from. */
function gemmaKinds(table: TokenTable, kinds: Uint8Array): Uint8Array {
  return kinds.map((kind, id) => {
    if (table.isByte(id)) return kind
    return GEMMA_CONTROLS.has(table.text(id)) ? TOKEN_CONTROL : kind === TOKEN_CONTROL ? TOKEN_NORMAL : kind
  })
}
