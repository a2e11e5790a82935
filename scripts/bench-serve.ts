// Serving under load: time to first token, time between tokens, tokens a second and memory, at the engine and through HTTP.

import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import type { EngineOptions } from '../engine/api.js'
import { startEngine } from '../engine/client.js'
import { type LoadOptions, type Target, runLoad } from '../server/bench/load.js'
import { fixed, type LoadSummary, summarise, ttftMs } from '../server/bench/statistics.js'
import { EngineTarget, HttpTarget } from '../server/bench/targets.js'

const USAGE = `usage: npm run bench-serve -- [options]
  --model PATH          as for "lorikeet serve"; none takes the embedded model
  --target NAME         engine, http or both (default both)
  --url URL             measure a server that runs already, instead of starting one
  --concurrency LIST    clients at once (default 1,4,16)
  --prompt-tokens N     (default 128)       --output-tokens N  (default 64)
  --requests N          requests of each client (default 2)
  --vocab-size N        prompt ids are below it, where --url is given (default 262144)
  --data-dir DIR        keeps quantised weights   --weights, --compute, --head, --threads, --isa   as for "lorikeet serve"`

/** Length of the prompt by which prefill alone is measured. */
const PREFILL_TOKENS = 512

type Options = ReturnType<typeof readOptions>

function readOptions() {
  const text = (fallback: string) => ({ type: 'string' as const, default: fallback })
  const { values } = parseArgs({
    options: {
      'model': text(''), 'target': text('both'), 'url': { type: 'string' }, 'concurrency': text('1,4,16'), 'prompt-tokens': text('128'),
      'output-tokens': text('64'), 'requests': text('2'), 'vocab-size': text('262144'), 'data-dir': text(''), 'weights': text('nf4'),
      'compute': text('auto'),
      'head': text('auto'), 'threads': text('0'), 'isa': text('auto'), 'help': { type: 'boolean', default: false },
    },
  })
  return values
}

async function main(): Promise<void> {
  const options = readOptions()
  if (options.help) return console.log(USAGE)
  console.log(`${cpus()[0]?.model ?? 'unknown processor'}, ${cpus().length} threads, Node ${process.version}`)
  console.log(`model ${options.model || 'embedded'}, ${options.weights}`)
  console.log(`prompt ${options['prompt-tokens']}, output ${options['output-tokens']} tokens; times in ms`)
  let vocabSize = Number(options['vocab-size'])
  const rates: Record<string, number> = {}
  if (options.url === undefined && options.target !== 'http') {
    const target = new EngineTarget(await startEngine(engineOptions(options)))
    vocabSize = target.engine.info.vocabSize
    rates['engine'] = await measure(target, options, vocabSize)
    reportMemory(target, (await target.engine.stats()).memory)
    await target.close()
  }
  if (options.target !== 'engine') {
    const target = await (options.url === undefined ? HttpTarget.start(serverFlags(options)) : HttpTarget.connect(options.url))
    rates['http'] = await measure(target, options, vocabSize)
    reportMemory(target, {})
    await target.close()
  }
  if (rates['engine'] !== undefined && rates['http'] !== undefined) {
    const share = (100 * rates['http'] / rates['engine']).toFixed(0)
    console.log(`\nthrough HTTP: ${share} % of the engine's own rate at the highest concurrency`)
  }
}

/** Prints one line a concurrency; returns output tokens a second at the last. */
async function measure(target: Target, options: Options, vocabSize: number): Promise<number> {
  const load: LoadOptions = {
    concurrency: 1, requestsPerClient: Number(options.requests), promptTokens: Number(options['prompt-tokens']),
    outputTokens: Number(options['output-tokens']), vocabSize,
  }
  await runLoad(target, { ...load, requestsPerClient: 1, outputTokens: 4 })
  const prefill = ttftMs(await runLoad(target, { ...load, promptTokens: PREFILL_TOKENS, outputTokens: 1, requestsPerClient: 3 }))
  const prefillRate = PREFILL_TOKENS / (Math.min(...prefill) / 1000)
  console.log(`\n${target.name}: prefill of ${PREFILL_TOKENS} at ${prefillRate.toFixed(0)} tokens/s`)
  console.log('clients   TTFT p50   TTFT p99   inter-token p50   inter-token p99   output tokens/s   all tokens/s   peak MB')
  let rate = NaN
  for (const concurrency of options.concurrency.split(',').map(Number)) {
    const summary = summarise(await runLoad(target, { ...load, concurrency }))
    rate = summary.outputTokensPerSecond
    console.log(line(concurrency, summary, load.promptTokens, target))
  }
  return rate
}

function line(concurrency: number, summary: LoadSummary, promptTokens: number, target: Target): string {
  const { nRequests, ttftMs, interTokenMs, nOutputTokens, outputTokensPerSecond, seconds } = summary
  const peak = target.residentBytes()?.peak
  const columns: [string, number][] = [
    [String(concurrency), 7], [fixed(ttftMs.p50), 11], [fixed(ttftMs.p99), 11], [fixed(interTokenMs.p50, 2), 18],
    [fixed(interTokenMs.p99, 2), 18], [fixed(outputTokensPerSecond), 18],
    [fixed((nOutputTokens + nRequests * promptTokens) / seconds), 15],
    [peak === undefined ? '-' : (peak / 1e6).toFixed(0), 10],
  ]
  return columns.map(([text, width]) => text.padStart(width)).join('')
}

function reportMemory(target: Target, memory: Readonly<Record<string, number>>): void {
  const resident = target.residentBytes()
  const total = Object.values(memory).reduce((sum, bytes) => sum + bytes, 0)
  if (resident === undefined) return
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(0)
  console.log(`memory: ${megabytes(resident.now)} MB resident, ${megabytes(resident.peak)} MB at most`)
  if (total === 0) return
  const parts = Object.entries(memory).map(([name, bytes]) => `${name} ${megabytes(bytes)}`)
  console.log(`${(resident.now / total).toFixed(2)} of what the model reserves: ${parts.join(', ')} MB`)
}

function engineOptions(options: Options): EngineOptions {
  return {
    model: options.model, dataDir: options['data-dir'], device: 'auto', compute: options.compute as EngineOptions['compute'],
    weights: options.weights as EngineOptions['weights'], head: options.head as EngineOptions['head'],
    isa: options.isa as EngineOptions['isa'],
    nThreads: Number(options.threads), maxModelLen: 0, kvCacheBytes: 0, maxNumSeqs: 128, maxBatchTokens: 512, maxQueue: 512, maxLoras: 0,
    maxLoraRank: 64,
    prefixCache: true,
  }
}

function serverFlags(options: Options): string[] {
  const names = ['model', 'data-dir', 'weights', 'compute', 'head', 'threads', 'isa'] as const
  return names.flatMap((name) => (options[name] === '' ? [] : [`--${name}`, options[name]])).concat('--max-loras', '0')
}

await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
})
