// Text -> ids behind one interface, whatever file the vocabulary comes from. A user's text never becomes a control token.

import type { TokenTable } from './token-table.js'

export interface Tokenizer {
  readonly table: TokenTable
  readonly bosId: number
  /** The model's chat template, where its files hold one. */
  readonly chatTemplate: string | null
  /** Ids of text, without <bos>; control tokens spelt in it stay text. */
  encode(text: string): Promise<ArrayLike<number>>
  /** Id of a control token by its spelling, undefined where there is none. */
  controlId(spelling: string): number | undefined
  /** Spellings of all control tokens. */
  readonly controlSpellings: readonly string[]
}
