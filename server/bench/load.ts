// Closed-loop load: so many clients, each asking again as soon as it is answered, and when their tokens came.

import type { Timeline } from './statistics.js'

export interface LoadRequest {
  readonly promptIds: readonly number[]
  readonly maxTokens: number
  /** 0-based; a target may treat clients differently, as by adapter. */
  readonly client: number
}

/** Asks once and tells of tokens as they come. */
export interface Target {
  readonly name: string
  generate(request: LoadRequest, onTokens: (n: number) => void): Promise<void>
  /** Bytes of the engine's process: now, and most so far; undefined where the system does not tell. */
  residentBytes(): { readonly now: number; readonly peak: number } | undefined
  close(): Promise<void>
}

export interface LoadOptions {
  readonly concurrency: number
  readonly requestsPerClient: number
  readonly promptTokens: number
  readonly outputTokens: number
  /** Prompts are random ids below this; no two share a beginning. */
  readonly vocabSize: number
}

/** Ids below this are control tokens, bytes and the like. */
const FIRST_WORD_ID = 500

/** One timeline a request. */
export async function runLoad(target: Target, options: LoadOptions): Promise<Timeline[]> {
  const timelines: Timeline[] = []
  await Promise.all(Array.from({ length: options.concurrency }, async (_, client) => {
    for (let i = 0; i < options.requestsPerClient; i++) {
      const request = { promptIds: randomPrompt(options), maxTokens: options.outputTokens, client }
      const tokenAtMs: number[] = []
      const timeline = { askedAtMs: performance.now(), tokenAtMs }
      timelines.push(timeline)
      await target.generate(request, (n) => addTokens(tokenAtMs, n, performance.now()))
    }
  }))
  return timelines
}

/** Tokens that come together share the time since those before them. */
function addTokens(tokenAtMs: number[], n: number, nowMs: number): void {
  const lastMs = tokenAtMs.at(-1) ?? nowMs
  for (let i = 1; i <= n; i++) tokenAtMs.push(lastMs + ((nowMs - lastMs) * i) / n)
}

function randomPrompt({ promptTokens, vocabSize }: LoadOptions): number[] {
  const first = Math.min(FIRST_WORD_ID, Math.floor(vocabSize / 2))
  return Array.from({ length: promptTokens }, () => first + Math.floor(Math.random() * (vocabSize - first)))
}
