// tokenizer.json of a Gemma as the vocabulary of a GGUF file ("llama": SentencePiece with scores and bytes).

import { readFile } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { EngineError } from '../../engine/errors.js'
import type { NativeModelConfig } from '../../engine/merged-weights.js'
import { ggufBool, ggufFloats, ggufInts, ggufString, ggufStrings, ggufU32, type GgufValue } from './gguf.js'

const [NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE] = [1, 2, 3, 4, 5, 6]
/** Of tokens that are never merged to. */
const NO_SCORE = -1_000

interface TokenizerJson {
  readonly added_tokens?: ReadonlyArray<{ readonly id: number; readonly content: string; readonly special: boolean }>
  readonly model: {
    readonly type: string
    readonly vocab: Readonly<Record<string, number>>
    /** Pairs, or in older files "left right". */
    readonly merges: ReadonlyArray<string | readonly [string, string]>
  }
}

/** @throws EngineError UNSUPPORTED where the model has no tokenizer.json of this kind */
export async function hfTokenizerValues(folder: string, config: NativeModelConfig): Promise<Array<[string, GgufValue]>> {
  const path = join(folder, 'tokenizer.json')
  if (!existsSync(path)) throw new EngineError('UNSUPPORTED', `${folder} has no tokenizer.json, and a GGUF file needs its vocabulary`)
  const json = JSON.parse(await readFile(path, 'utf8')) as TokenizerJson
  if (json.model?.type !== 'BPE') throw new EngineError('UNSUPPORTED', `${path} is no BPE tokenizer, as Gemma's is`)
  const { tokens, scores, kinds } = vocabularyOf(json, config.vocabSize)
  const template = await readTemplate(folder)
  const id = (name: string, fallback: number) => ggufU32(Math.max(tokens.indexOf(name), fallback))
  return [
    ['tokenizer.ggml.model', ggufString('llama')],
    ['tokenizer.ggml.pre', ggufString('default')],
    ['tokenizer.ggml.tokens', ggufStrings(tokens)],
    ['tokenizer.ggml.scores', ggufFloats(scores)],
    ['tokenizer.ggml.token_type', ggufInts(kinds)],
    ['tokenizer.ggml.bos_token_id', ggufU32(config.bosId)],
    ['tokenizer.ggml.eos_token_id', ggufU32(config.eosIds[0]!)],
    ['tokenizer.ggml.unknown_token_id', id('<unk>', 0)],
    ['tokenizer.ggml.padding_token_id', ggufU32(config.padId)],
    ['tokenizer.ggml.add_bos_token', ggufBool(true)],
    ['tokenizer.ggml.add_eos_token', ggufBool(false)],
    ['tokenizer.ggml.add_space_prefix', ggufBool(false)],
    ...(template === undefined ? [] : [['tokenizer.chat_template', ggufString(template)] as [string, GgufValue]]),
  ]
}

/** A merge made earlier scores higher; the first that makes a piece is the piece's. */
function vocabularyOf({ model, added_tokens: added = [] }: TokenizerJson, size: number) {
  const tokens = Array.from({ length: size }, (_, id) => `[PAD${id}]`)
  const kinds = new Int32Array(size).fill(UNUSED!)
  const scores = new Float32Array(size).fill(NO_SCORE)
  for (const [text, id] of Object.entries(model.vocab)) {
    if (id >= size) continue
    tokens[id] = text
    kinds[id] = /^<0x[0-9A-F]{2}>$/.test(text) ? BYTE! : NORMAL!
    if (kinds[id] === BYTE) scores[id] = 0
  }
  model.merges.forEach((merge, rank) => {
    const id = model.vocab[typeof merge === 'string' ? merge.replace(' ', '') : merge[0] + merge[1]]
    if (id !== undefined && id < size && scores[id] === NO_SCORE) scores[id] = -rank
  })
  for (const { id, content, special } of added) {
    if (id >= size) continue
    tokens[id] = special ? content : content.replaceAll('▁', ' ')   // as llama.cpp's own converter writes them
    kinds[id] = content === '<unk>' ? UNKNOWN! : special ? CONTROL! : USER_DEFINED!
    scores[id] = NO_SCORE
  }
  return { tokens, scores, kinds }
}

async function readTemplate(folder: string): Promise<string | undefined> {
  const own = join(folder, 'chat_template.jinja')
  if (existsSync(own)) return readFile(own, 'utf8')
  const path = join(folder, 'tokenizer_config.json')
  const config = existsSync(path) ? (JSON.parse(await readFile(path, 'utf8')) as { chat_template?: unknown }) : {}
  return typeof config.chat_template === 'string' ? config.chat_template : undefined
}
