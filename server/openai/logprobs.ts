// Log-probabilities in three shapes: chat's, the legacy completions', and vLLM's prompt_logprobs.

import type { TokenLogprob } from '../../engine/api.js'

export interface ChatLogprob {
  readonly token: string
  readonly logprob: number
  readonly bytes: readonly number[]
}

export interface ChatLogprobs {
  readonly content: ReadonlyArray<ChatLogprob & { readonly top_logprobs: readonly ChatLogprob[] }>
  readonly refusal: null
}

export interface LegacyLogprobs {
  readonly tokens: string[]
  readonly token_logprobs: Array<number | null>
  readonly top_logprobs: Array<Record<string, number> | null>
  readonly text_offset: number[]
}

/** JSON has no -Infinity: vLLM's stand-in. Rounding may leave the likeliest token a hair above 0. */
const FLOOR = -9999

type Scored = Pick<TokenLogprob, 'tokenId' | 'bytes' | 'text' | 'logprob'>

const finite = (logprob: number): number => (Number.isFinite(logprob) ? Math.min(0, logprob) : FLOOR)

export function chatLogprobs(tokens: readonly TokenLogprob[]): ChatLogprobs {
  const entry = ({ text, logprob, bytes }: Scored): ChatLogprob => ({ token: text, logprob: finite(logprob), bytes })
  return { content: tokens.map((token) => ({ ...entry(token), top_logprobs: token.top.map(entry) })), refusal: null }
}

/** The legacy shape, appended to piece by piece: `text_offset` counts code points from the start of the choice's text. */
export class LegacyLogprobsWriter {
  #offset = 0

  /** Null stands for the first prompt token, which nothing predicts: `first` is its name and what the text shows of it. */
  write(tokens: ReadonlyArray<TokenLogprob | null>, first = { name: '', shown: '' }): LegacyLogprobs {
    const out: LegacyLogprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] }
    for (const token of tokens) {
      const text = token === null ? first.name : legacyText(token)
      out.tokens.push(text)
      out.token_logprobs.push(token === null ? null : finite(token.logprob))
      out.top_logprobs.push(token === null ? null : topOf(token))
      out.text_offset.push(this.#offset)
      this.#offset += codePoints(token === null ? first.shown : token.text)
    }
    return out
  }
}

/** The likeliest alternatives, and the token itself where it is not among them. */
function topOf(token: TokenLogprob): Record<string, number> {
  const all: readonly Scored[] = token.top.some((top) => top.tokenId === token.tokenId) ? token.top : [...token.top, token]
  return Object.fromEntries(all.map((top) => [legacyText(top), finite(top.logprob)]))
}

/** OpenAI's spelling for tokens that are no whole characters: distinct tokens keep distinct keys. */
function legacyText({ text, bytes }: Scored): string {
  if (!text.includes('\ufffd')) return text
  return `bytes:${bytes.map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`
}

function codePoints(text: string): number {
  let n = 0
  for (const _ of text) n++
  return n
}

export type PromptLogprobs = ReadonlyArray<Record<string, { logprob: number; rank: number | null; decoded_token: string }> | null>

/** vLLM's: by token id; the rank is null where the token is not among the alternatives. */
export function promptLogprobs(tokens: ReadonlyArray<TokenLogprob | null>): PromptLogprobs {
  return tokens.map((token) => {
    if (token === null) return null
    const ranked = token.top.map((top, i) => [top.tokenId, { logprob: finite(top.logprob), rank: i + 1, decoded_token: top.text }] as const)
    const own = [token.tokenId, { logprob: finite(token.logprob), rank: null, decoded_token: token.text }] as const
    return Object.fromEntries([own, ...ranked])
  })
}
