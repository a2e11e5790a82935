// tokenizer.json through the `tokenizers` package, with control tokens taken out of its matcher.

import { readFile } from 'node:fs/promises'
import { Tokenizer as NativeTokenizer } from 'tokenizers'
import { EngineError } from './errors.js'
import { TokenTable } from './token-table.js'
import type { Tokenizer } from './tokenizer.js'

interface AddedToken {
  readonly id: number
  readonly content: string
  readonly special: boolean
}

/** @throws EngineError FILE_INVALID */
export async function loadHfTokenizer(path: string, chatTemplate: string | null): Promise<Tokenizer> {
  try {
    return build(await readFile(path, 'utf8'), chatTemplate)
  } catch (cause) {
    throw new EngineError('FILE_INVALID', `${path}: ${(cause as Error).message}`, { cause })
  }
}

function build(json: string, chatTemplate: string | null): Tokenizer {
  const { added, withoutControls } = splitAddedTokens(json)
  const controls = new Map(added.filter((token) => token.special).map((token) => [token.content, token.id]))
  const inner = NativeTokenizer.fromString(withoutControls)
  const bosId = controls.get('<bos>') ?? controls.get('<s>')
  if (bosId === undefined) throw new Error('expected a special token <bos>')
  return {
    table: makeTable(inner.getVocab(true), added),
    bosId,
    chatTemplate,
    controlSpellings: [...controls.keys()],
    controlId: (spelling) => controls.get(spelling),
    encode: async (text) => (await inner.encode(text, null, { addSpecialTokens: false })).getIds(),
  }
}

function makeTable(vocab: Readonly<Record<string, number>>, added: readonly AddedToken[]): TokenTable {
  const spellings: string[] = []
  for (const [spelling, id] of Object.entries(vocab)) spellings[id] = spelling
  for (const { id, content } of added) spellings[id] = content
  return TokenTable.fromSpellings(Array.from(spellings), new Set(added.filter((token) => token.special).map((token) => token.id)))
}

/**
 * The package has no switch to read control tokens as text, so they leave `added_tokens` before it sees the file. Only that list is
 * parsed here: the whole file (33 MB for Gemma 3) is parsed once, by the package.
 */
function splitAddedTokens(json: string): { added: AddedToken[]; withoutControls: string } {
  const key = /"added_tokens"\s*:\s*\[/.exec(json)
  if (key === null) throw new Error('expected "added_tokens"')
  const start = key.index + key[0].length - 1
  const end = endOfArray(json, start)
  const added = JSON.parse(json.slice(start, end)) as AddedToken[]
  const plain = added.filter((token) => !token.special)
  return { added, withoutControls: json.slice(0, start) + JSON.stringify(plain) + json.slice(end) }
}

/** Index after the bracket that closes the array at `start`. */
function endOfArray(json: string, start: number): number {
  let depth = 0
  for (let i = start; i < json.length; i++) {
    const char = json[i]
    if (char === '"') i = endOfString(json, i)
    else if (char === '[') depth++
    else if (char === ']' && --depth === 0) return i + 1
  }
  throw new Error('"added_tokens" does not end')
}

function endOfString(json: string, start: number): number {
  let i = start + 1
  while (i < json.length && json[i] !== '"') i += json[i] === '\\' ? 2 : 1
  return i
}
