// A Gemma vocabulary that a GGUF file holds, as tokenizer.json and its companions: for models that are merged over a GGUF base.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ggufNumbers, ggufTexts, readGgufValues } from './gguf.js'
import { GEMMA_CHAT_TEMPLATE } from './gemma-template.js'

/** What Gemma's own tokenizer.json marks as special; converters to GGUF mark more. */
const SPECIAL = new Set([
  '<pad>', '<eos>', '<bos>', '<unk>', '<start_of_turn>', '<end_of_turn>', '<start_of_image>', '<end_of_image>', '<image_soft_token>',
])
const [NORMAL, UNKNOWN, CONTROL, USER_DEFINED] = [1, 2, 3, 4]

interface Piece {
  readonly text: string
  readonly id: number
  readonly score: number
  readonly kind: number
}

/** Writes tokenizer.json, tokenizer_config.json and chat_template.jinja. Nothing where the file has no such vocabulary. */
export async function writeGgufTokenizer(gguf: string, folder: string): Promise<void> {
  const values = await readGgufValues(gguf)
  const [tokens, scores, kinds] = ['tokens', 'scores', 'token_type'].map((name) => values.get(`tokenizer.ggml.${name}`))
  if (tokens === undefined || scores === undefined || kinds === undefined) return
  const [scoreOf, kindOf] = [ggufNumbers(scores), ggufNumbers(kinds)]
  const pieces = ggufTexts(tokens).map((text, id): Piece => {
    const kind = kindOf[id]!
    // Converters write runs of spaces that the user defined as spaces; every other piece has the sign for them.
    return { text: kind === USER_DEFINED ? text.replaceAll(' ', '▁') : text, id, score: scoreOf[id]!, kind }
  })
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(tokenizerJson(pieces)))
  await writeFile(join(folder, 'tokenizer_config.json'), `${JSON.stringify(TOKENIZER_CONFIG, null, 2)}\n`)
  await writeFile(join(folder, 'chat_template.jinja'), GEMMA_CHAT_TEMPLATE)
}

const TOKENIZER_CONFIG = {
  add_bos_token: true, add_eos_token: false, bos_token: '<bos>', clean_up_tokenization_spaces: false, eos_token: '<eos>',
  model_max_length: 1e30, pad_token: '<pad>', padding_side: 'left', tokenizer_class: 'PreTrainedTokenizerFast', unk_token: '<unk>',
}

function tokenizerJson(pieces: readonly Piece[]): object {
  const isAdded = ({ kind }: Piece) => kind === CONTROL || kind === USER_DEFINED || kind === UNKNOWN
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: pieces.filter(isAdded).map(({ id, text }) =>
      ({ id, content: text, single_word: false, lstrip: false, rstrip: false, normalized: false, special: SPECIAL.has(text) })),
    normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    pre_tokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious', invert: false },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<bos>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [
        { SpecialToken: { id: '<bos>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: '<bos>', type_id: 1 } }, { Sequence: { id: 'B', type_id: 1 } },
      ],
      special_tokens: { '<bos>': { id: '<bos>', ids: [pieces.findIndex(({ text }) => text === '<bos>')], tokens: ['<bos>'] } },
    },
    decoder: {
      type: 'Sequence',
      decoders: [{ type: 'Replace', pattern: { String: '▁' }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }],
    },
    model: {
      type: 'BPE', dropout: null, unk_token: '<unk>', continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: true,
      byte_fallback: true, ignore_merges: false,
      vocab: Object.fromEntries(pieces.map(({ text, id }) => [text, id])),
      merges: mergesOf(pieces),
    },
  }
}

/**
 * Every way to make a piece of two others, best score first: what a SentencePiece model merges by. Source: generate_merges of
 * transformers' convert_slow_tokenizer.py. Pieces that the user defined (runs of spaces and line ends) come before all others.
 */
function mergesOf(pieces: readonly Piece[]): string[][] {
  const known = new Set(pieces.filter(({ kind }) => kind === NORMAL || kind === USER_DEFINED).map(({ text }) => text))
  const merges: Array<{ readonly left: string; readonly right: string; readonly score: number }> = []
  for (const { text, score, kind } of pieces) {
    if (!known.has(text)) continue
    for (const at of boundaries(text)) {
      const [left, right] = [text.slice(0, at), text.slice(at)]
      if (known.has(left) && known.has(right)) merges.push({ left, right, score: kind === USER_DEFINED ? 0 : score })
    }
  }
  merges.sort((a, b) => b.score - a.score || b.left.length - a.left.length || b.right.length - a.right.length)
  return merges.map(({ left, right }) => [left, right])
}

/** Places between two characters; a surrogate pair is one. */
function* boundaries(text: string): Generator<number> {
  for (let at = text.codePointAt(0)! > 0xffff ? 2 : 1; at < text.length; at += text.codePointAt(at)! > 0xffff ? 2 : 1) yield at
}
