// The real 270M: rows of its GGUF types, and its answers from f32 weights.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { GenerateEvent } from '../../engine/api.js'
import type { LocalEngine } from '../../engine/engine.js'
import { native } from '../../engine/native.js'
import { checkGreedy, openModel, promptsOf, type Arithmetic } from './models.js'
import { type Report, countBits, largestDifference } from './report.js'
import { TensorFile } from './tensors.js'

/** Of fp32 on f32 weights. In bf16 the weights are rounded too. */
const EXACT = { logits: 1e-3, clearMargin: 1e-2 }
type Tolerance = Pick<Arithmetic, 'logits' | 'clearMargin'>
/** All logits of a longer prompt would fill hundreds of megabytes. */
const MAX_TOKENS_FOR_LOGITS = 64
const SCALE = 'exact'

export async function checkGguf(directory: string, gguf: string, arithmetic: Arithmetic, report: Report): Promise<void> {
  report.section('gemma-3-270m')
  checkRows(join(directory, 'quant_rows.safetensors'), report)
  if (!existsSync(join(directory, 'expected.safetensors'))) return
  if (!existsSync(gguf)) return report.skip('answers of the real weights', `not installed: no file at ${gguf}`)
  const file = new TensorFile(join(directory, 'expected.safetensors'))
  const isExact = arithmetic.compute === 'fp32'
  const tolerance = isExact ? EXACT : arithmetic
  const engine = await openModel(arithmetic, gguf, {
    weights: isExact ? 'f32' : 'bf16', head: isExact ? 'auto' : 'bf16', maxNumSeqs: 64, maxBatchTokens: 512, maxModelLen: 1024, kvCacheBytes: 256 << 20,
  })
  try {
    const texts = JSON.parse(readFileSync(join(directory, 'expected.json'), 'utf8')) as Record<string, { text?: string }>
    for (const prompt of promptsOf(file)) await checkPrompt(engine, prompt, file, texts[prompt]?.text, tolerance, report)
  } finally {
    await engine.close()
  }
}

function checkRows(path: string, report: Report): void {
  if (!existsSync(path)) return
  const file = new TensorFile(path)
  for (const name of file.names.filter((name) => name.endsWith('.raw'))) {
    const expected = file.f32(name.replace(/raw$/, 'dequantised'))
    const ours = native().ggmlDequantize(name.split('.')[0]!, file.raw(name), expected.length)
    report.equal(name.replace(/\.raw$/, ''), countBits(ours, expected), expected.length)
  }
}

async function checkPrompt(engine: LocalEngine, prompt: string, file: TensorFile, text: string | undefined, tolerance: Tolerance,
  report: Report): Promise<void> {
  const ids = file.i32(`${prompt}.input_ids`)
  const key = `${prompt}.${SCALE}`
  const topIds = file.i32(`${key}.top20_ids`)
  // The conversation was written with its control tokens, which a text never holds.
  if (text !== undefined && !text.includes('<start_of_turn>')) {
    const ours = await engine.tokenize({ text })
    report.holds(`${prompt} tokenised`, ours.join() === ids.join(), `${ours.length} ids`)
  }
  if (ids.length <= MAX_TOKENS_FOR_LOGITS) {
    const logits = await engine.model.logits(ids, -1)
    const last = logits.subarray(logits.length - engine.info.vocabSize)
    const ours = Float32Array.from(topIds, (id) => last[id]!)
    report.difference(`${prompt} top-20 logits`, largestDifference(ours, file.f32(`${key}.top20_logits`)), tolerance.logits)
    report.difference(`${prompt} logsumexp`, Math.abs(logSumExp(last) - file.f32(`${key}.logsumexp`)[0]!), tolerance.logits)
  }
  await checkLogprobs(engine, prompt, file, tolerance, report)
  await checkGreedy(engine, `${prompt} greedy`, ids, file, `${key}.greedy`, tolerance.clearMargin, null, report)
}

/** Through the scheduler, in chunks and blocks: log-probabilities of the prompt and of the 20 best next tokens. */
async function checkLogprobs(engine: LocalEngine, prompt: string, file: TensorFile, tolerance: Tolerance, report: Report): Promise<void> {
  const key = `${prompt}.${SCALE}`
  const events: GenerateEvent[] = []
  const request = {
    id: prompt, prompt: { tokenIds: [...file.i32(`${prompt}.input_ids`)] }, maxTokens: 1, promptLogprobs: 0, logprobs: 20,
    sampling: { temperature: 0 },
  }
  for await (const event of engine.generate(request)) events.push(event)
  const started = events.find((event) => event.type === 'started')!
  const ours = Float32Array.from(started.promptLogprobs!.slice(1), (entry) => entry!.logprob)
  report.difference(`${prompt} prompt log-probabilities`, largestDifference(ours, file.f32(`${key}.prompt_logprobs`)), tolerance.logits)
  const { top } = events.find((event) => event.type === 'delta')!.logprobs![0]!
  const logsumexp = file.f32(`${key}.logsumexp`)[0]!
  const expected = new Map([...file.i32(`${key}.top20_ids`)].map((id, i) => [id, file.f32(`${key}.top20_logits`)[i]! - logsumexp]))
  const lowest = Math.min(...expected.values())
  // Of tokens as likely as the twentieth, any may be listed.
  const differences = top.map(({ tokenId, logprob }) => Math.abs(logprob - (expected.get(tokenId) ?? lowest)))
  report.difference(`${prompt} 20 best log-probabilities`, top.length === 20 ? Math.max(...differences) : Infinity, tolerance.logits)
}

function logSumExp(values: Float32Array): number {
  const most = values.reduce((a, b) => Math.max(a, b), -Infinity)
  return most + Math.log(values.reduce((sum, value) => sum + Math.exp(value - most), 0))
}
