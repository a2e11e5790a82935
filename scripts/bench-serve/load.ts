// Closed-loop load: so many clients, each asking again as soon as it is answered, and what they saw.

/** Asks once and tells of tokens as they come. */
export interface Target {
  readonly name: string
  generate(promptIds: readonly number[], maxTokens: number, onTokens: (n: number) => void): Promise<void>
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

export interface LoadResult {
  readonly concurrency: number
  readonly ttftMs: readonly number[]
  readonly interTokenMs: readonly number[]
  readonly nOutputTokens: number
  readonly nPromptTokens: number
  readonly seconds: number
}

/** Ids below this are control tokens, bytes and the like. */
const FIRST_WORD_ID = 500

export async function runLoad(target: Target, options: LoadOptions): Promise<LoadResult> {
  const ttftMs: number[] = []
  const interTokenMs: number[] = []
  let nOutputTokens = 0
  const begin = performance.now()
  await Promise.all(Array.from({ length: options.concurrency }, async () => {
    for (let i = 0; i < options.requestsPerClient; i++) {
      const askedAt = performance.now()
      let lastAt = 0
      await target.generate(randomPrompt(options), options.outputTokens, (n) => {
        const now = performance.now()
        if (lastAt === 0) ttftMs.push(now - askedAt)
        else for (let token = 0; token < n; token++) interTokenMs.push((now - lastAt) / n)
        lastAt = now
        nOutputTokens += n
      })
    }
  }))
  return {
    concurrency: options.concurrency, ttftMs, interTokenMs, nOutputTokens,
    nPromptTokens: options.concurrency * options.requestsPerClient * options.promptTokens,
    seconds: (performance.now() - begin) / 1000,
  }
}

function randomPrompt({ promptTokens, vocabSize }: LoadOptions): number[] {
  const first = Math.min(FIRST_WORD_ID, Math.floor(vocabSize / 2))
  return Array.from({ length: promptTokens }, () => first + Math.floor(Math.random() * (vocabSize - first)))
}

/** The p-th share of the values, 0..1, nearest rank. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(p * sorted.length) - 1))] ?? NaN
}
