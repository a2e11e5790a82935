// Our side of bench-peers: one engine in this process, measured as llama-bench and llama-batched-bench measure theirs. Prints one
// JSON line: {decode, prefill, batch}, tokens a second.

import { parseArgs } from 'node:util'
import type { Engine, EngineOptions } from '../engine/api.js'
import { createLocalEngine } from '../engine/create-engine.js'

const USAGE = 'usage: node dist/scripts/bench-peers-engine.js --model PATH [--threads N] [--sequences 16] [--repeat 3] [--cache-dir DIR] [--head auto] [--isa auto]'

const N_DECODE = 128
const N_PREFILL = 512
const N_BATCH_PROMPT = 128

/** Ids below the control tokens' end would be unlike text; these are plain entries of every Gemma vocabulary and of small ones. */
function promptOf(nTokens: number, salt: number): number[] {
  return [2, ...Array.from({ length: nTokens - 1 }, (_, i) => 300 + ((i * 7919 + salt * 104_729) % 150))]
}

/** Times at which each token of one request came, ms. */
async function tokenTimes(engine: Engine, id: string, prompt: number[], maxTokens: number): Promise<number[]> {
  const times: number[] = []
  const request = { id, prompt: { tokenIds: prompt }, maxTokens, minTokens: maxTokens, ignoreEos: true, sampling: { temperature: 0 } }
  for await (const event of engine.generate(request)) {
    if (event.type === 'delta') times.push(...event.tokenIds.map(() => performance.now()))
  }
  return times
}

async function decodeRate(engine: Engine, round: number): Promise<number> {
  const times = await tokenTimes(engine, `decode-${round}`, [2], N_DECODE + 1)
  return ((times.length - 1) / (times.at(-1)! - times[0]!)) * 1000
}

async function prefillRate(engine: Engine, round: number): Promise<number> {
  const startedAt = performance.now()
  const [first] = await tokenTimes(engine, `prefill-${round}`, promptOf(N_PREFILL, round), 1)
  return (N_PREFILL / (first! - startedAt)) * 1000
}

/** While all sequences decode: from the last one's first token to the first one's last. */
async function batchRate(engine: Engine, round: number, nSequences: number): Promise<number> {
  const all = await Promise.all(Array.from({ length: nSequences }, (_, i) =>
    tokenTimes(engine, `batch-${round}-${i}`, promptOf(N_BATCH_PROMPT, round * nSequences + i), N_DECODE)))
  const from = Math.max(...all.map((times) => times[0]!))
  const to = Math.min(...all.map((times) => times.at(-1)!))
  const nTokens = all.flat().filter((time) => time > from && time <= to).length
  return (nTokens / (to - from)) * 1000
}

async function best(repeat: number, measure: (round: number) => Promise<number>): Promise<number> {
  const rates: number[] = []
  for (let round = 0; round < repeat; round++) rates.push(await measure(round))
  return Math.max(...rates)
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      model: { type: 'string' }, threads: { type: 'string', default: '0' }, sequences: { type: 'string', default: '16' },
      repeat: { type: 'string', default: '3' }, 'cache-dir': { type: 'string', default: '' }, head: { type: 'string', default: 'auto' },
      isa: { type: 'string', default: 'auto' }, help: { type: 'boolean' },
    },
  })
  if (values.help || values.model === undefined) return console.log(USAGE)
  const nSequences = Number(values.sequences)
  const engine = await createLocalEngine({
    model: values.model, dataDir: values['cache-dir'], device: 'cpu', compute: 'auto', weights: 'nf4',
      head: values.head as EngineOptions['head'],
    isa: values.isa as EngineOptions['isa'], nThreads: Number(values.threads), maxModelLen: 2_048, kvCacheBytes: 0, maxNumSeqs: nSequences,
    maxBatchTokens: N_PREFILL, maxQueue: nSequences, maxLoras: 0, maxLoraRank: 8, prefixCache: false,
  })
  const repeat = Number(values.repeat)
  await tokenTimes(engine, 'warm-up', promptOf(N_PREFILL, -1), 16)
  const decode = await best(repeat, (round) => decodeRate(engine, round))
  const prefill = await best(repeat, (round) => prefillRate(engine, round))
  const batch = await best(Math.min(2, repeat), (round) => batchRate(engine, round, nSequences))
  console.log(JSON.stringify({ decode, prefill, batch, head: engine.info.head, compute: engine.info.compute }))
  await engine.close()
}

await main()
