// A GGUF file's own vocabulary, read and encoded by native code.

import { type NativeGgufTokenizer, native } from './native.js'
import { TOKEN_CONTROL, TokenTable } from './token-table.js'
import type { Tokenizer } from './tokenizer.js'

/** @throws what native code throws: FILE_INVALID, UNSUPPORTED */
export function openGgufTokenizer(path: string): Tokenizer {
  return wrapGgufTokenizer(native().openGgufTokenizer(path))
}

export function wrapGgufTokenizer(inner: NativeGgufTokenizer): Tokenizer {
  const { bytes, offsets, kinds } = inner.table()
  const table = new TokenTable(bytes, offsets, kinds)
  const controls = new Map<string, number>()
  kinds.forEach((kind, id) => { if (kind === TOKEN_CONTROL) controls.set(table.text(id), id) })
  return {
    table,
    bosId: inner.bosId,
    chatTemplate: inner.chatTemplate === '' ? null : inner.chatTemplate,
    controlSpellings: [...controls.keys()],
    controlId: (spelling) => controls.get(spelling),
    encode: async (text) => inner.encode(text, false),
  }
}
