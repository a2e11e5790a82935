import t from 'tap'
import type { EngineStats } from '../../engine/api.js'
import { EngineError } from '../../engine/errors.js'
import { chat, startApp, type Harness } from './harness.js'

async function scrape(app: Harness): Promise<string> {
  const response = await app.server.inject('/metrics')
  t.equal(response.statusCode, 200)
  t.match(response.headers['content-type'], /^text\/plain; version=0\.0\.4/)
  return response.body
}

/** The value of one series. */
function value(text: string, series: string): number {
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${series} `))
  return Number(line?.slice(series.length + 1) ?? NaN)
}

const LABELS = '{model_name="fake",engine="0"}'

t.test('vLLM\'s names are all there, with its labels', async (t) => {
  const app = await startApp(t)
  await chat(app, { max_tokens: 4 })
  const text = await scrape(app)
  const names = [
    'num_requests_running', 'num_requests_waiting', 'num_requests_waiting_by_reason', 'kv_cache_usage_perc', 'lora_requests_info',
    'cache_config_info',
    'prefix_cache_queries_total', 'prefix_cache_hits_total', 'num_preemptions_total', 'prompt_tokens_total', 'generation_tokens_total',
    'request_success_total', 'corrupted_requests_total', 'admission_rejections_total', 'time_to_first_token_seconds',
    'inter_token_latency_seconds',
    'request_time_per_output_token_seconds', 'e2e_request_latency_seconds', 'request_queue_time_seconds', 'request_inference_time_seconds',
    'request_prefill_time_seconds', 'request_decode_time_seconds', 'iteration_tokens_total', 'request_params_n', 'request_prompt_tokens',
    'request_generation_tokens', 'request_params_max_tokens',
  ]
  for (const name of names) t.match(text, new RegExp(`^# TYPE vllm:${name} `, 'm'), name)
  t.equal(value(text, `vllm:kv_cache_usage_perc${LABELS}`), 0.25)
  t.equal(value(text, 'vllm:cache_config_info{engine="0",block_size="16",num_gpu_blocks="100"}'), 1)
  t.match(text, /vllm:lora_requests_info\{max_lora="8",running_lora_adapters="",waiting_lora_adapters=""\} 1\d{9}/)
  t.match(text, /vllm:num_requests_waiting_by_reason\{model_name="fake",engine="0",reason="(capacity|deferred)"\} 0/)
})

t.test('a request is measured: first token, tokens between, lengths, outcome', async (t) => {
  const app = await startApp(t, { script: { delayMs: 3 } })
  await chat(app, { max_tokens: 4, n: 2 })
  const text = await scrape(app)
  t.equal(value(text, `vllm:time_to_first_token_seconds_count${LABELS}`), 1)
  t.equal(value(text, `vllm:inter_token_latency_seconds_count${LABELS}`), 6)
  t.equal(value(text, `vllm:e2e_request_latency_seconds_count${LABELS}`), 1)
  t.equal(value(text, `vllm:request_prompt_tokens_sum${LABELS}`), 3)
  t.equal(value(text, `vllm:request_generation_tokens_sum${LABELS}`), 8)
  t.equal(value(text, `vllm:request_params_n_sum${LABELS}`), 2)
  t.equal(value(text, 'vllm:request_success_total{model_name="fake",engine="0",finished_reason="length"}'), 2)
  t.ok(value(text, `vllm:time_to_first_token_seconds_sum${LABELS}`) >= 0.002)
})

t.test('buckets below 10 ms are a superset of vLLM\'s', async (t) => {
  const app = await startApp(t)
  await chat(app)
  const text = await scrape(app)
  const bounds = [0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
  for (const le of bounds) {
    t.match(text, `vllm:inter_token_latency_seconds_bucket{le="${le}",model_name="fake",engine="0"}`)
  }
})

t.test('counters of the engine grow on across its restarts', async (t) => {
  const app = await startApp(t)
  const base = await app.engine.stats()
  const report = (fields: Partial<EngineStats>) => (app.engine.stats = async () => ({ ...base, ...fields }))
  report({ generationTokens: 100, promptTokens: 10 })
  t.equal(value(await scrape(app), `vllm:generation_tokens_total${LABELS}`), 100)
  report({ generationTokens: 130, promptTokens: 10 })
  t.equal(value(await scrape(app), `vllm:generation_tokens_total${LABELS}`), 130)
  app.engine.restarts = 1
  report({ generationTokens: 5 })
  const text = await scrape(app)
  t.equal(value(text, `vllm:generation_tokens_total${LABELS}`), 135)
  t.equal(value(text, 'lorikeet_engine_restarts_total'), 1)
  app.engine.restarts = 2
  report({ generationTokens: 150 })
  t.equal(value(await scrape(app), `vllm:generation_tokens_total${LABELS}`), 285, 'more than before the restart is new as well')
})

t.test('every step counts once in the iteration histogram', async (t) => {
  const app = await startApp(t)
  const base = await app.engine.stats()
  let stepTokens = [1, 5, 64]
  app.engine.stats = async () => ({ ...base, stepTokens: stepTokens.splice(0) })
  await scrape(app)
  stepTokens = [2]
  const text = await scrape(app)
  t.equal(value(text, `vllm:iteration_tokens_total_sum${LABELS}`), 72)
  t.equal(value(text, `vllm:iteration_tokens_total_count${LABELS}`), 4)
})

t.test('steps are timed by phase, as a whole and by part', async (t) => {
  const app = await startApp(t)
  const base = await app.engine.stats()
  const decode = { steps: 2, seconds: { upload: 0.001, layers: 0.01, head: 0.004, sample: 0.002 } }
  const device = { ...base.device, stepTimes: { ...base.device.stepTimes, decode } }
  app.engine.stats = async () => ({ ...base, stepSeconds: [['decode', 0.0008], ['decode', 0.0012], ['prefill', 0.02]], device })
  const text = await scrape(app)
  t.equal(value(text, 'lorikeet_step_time_seconds_count{phase="decode"}'), 2)
  t.equal(value(text, 'lorikeet_step_time_seconds_bucket{le="0.001",phase="decode"}'), 1)
  t.equal(value(text, 'lorikeet_step_time_seconds_sum{phase="prefill"}'), 0.02)
  t.equal(value(text, 'lorikeet_steps_measured_total{phase="decode"}'), 2)
  t.equal(value(text, 'lorikeet_step_part_seconds_total{phase="decode",part="layers"}'), 0.01)
  t.equal(value(text, 'lorikeet_step_part_seconds_total{phase="mixed",part="head"}'), 0)
  t.notMatch(text, /^lorikeet_device_memory_bytes\{/m, 'a CPU has none')
  t.notMatch(text, /^lorikeet_cuda_graphs_total\{/m)
})

t.test('a GPU tells its memory, by purpose and as a whole, and its graphs; counters grow on across a restart', async (t) => {
  const app = await startApp(t)
  const base = await app.engine.stats()
  const report = (hit: number, freeBytes: number) => (app.engine.stats = async () => ({
    ...base, memory: { weights: 5, kv_global: 7, kv_sliding: 9 },
    device: { ...base.device, totalBytes: 80e9, freeBytes, graphs: { hit, capture: 3, plain: 4 } },
  }))
  report(100, 9e9)
  let text = await scrape(app)
  t.equal(value(text, 'lorikeet_device_memory_bytes{kind="total"}'), 80e9)
  t.equal(value(text, 'lorikeet_device_memory_bytes{kind="free"}'), 9e9)
  t.equal(value(text, 'lorikeet_engine_memory_bytes{purpose="kv_sliding"}'), 9)
  t.equal(value(text, 'lorikeet_cuda_graphs_total{event="hit"}'), 100)
  report(150, 8e9)
  t.equal(value(await scrape(app), 'lorikeet_cuda_graphs_total{event="hit"}'), 150)
  app.engine.restarts = 1
  report(160, 8e9)
  text = await scrape(app)
  t.equal(value(text, 'lorikeet_cuda_graphs_total{event="hit"}'), 310)
  t.equal(value(text, 'lorikeet_cuda_graphs_total{event="plain"}'), 8)
})

t.test('adapters in use are named by slot', async (t) => {
  const { BaseOnlyDirectory } = await import('../../server/adapter-directory.js')
  class Named extends BaseOnlyDirectory {
    override nameOfSlot(slot?: number): any {
      return slot === 7 ? undefined : `adapter-${slot}`
    }
  }
  const app = await startApp(t, { adapters: new Named(['fake'], '') })
  const base = await app.engine.stats()
  app.engine.stats = async () => ({ ...base, runningSlots: [2, 1, 2, 7], waitingSlots: [3] })
  await scrape(app)
  const text = await scrape(app)
  t.match(text, 'vllm:lora_requests_info{max_lora="8",running_lora_adapters="adapter-1,adapter-2",waiting_lora_adapters="adapter-3"}')
  t.equal(text.match(/^vllm:lora_requests_info\{/gm)?.length, 1, 'one series, however often it is read')
})

t.test('a full queue is 429 with Retry-After, counted, and told by readiness when it lasts', async (t) => {
  const app = await startApp(t, { script: { delayMs: 30 }, flags: ['--max-num-seqs', '2', '--max-queue', '1'] })
  const answers = await Promise.all([chat(app), chat(app), chat(app), chat(app), chat(app, { n: 4 })])
  t.same(answers.map(({ statusCode }) => statusCode), [200, 200, 200, 429, 429])
  t.match(answers[3]!.json().error, { type: 'rate_limit_error', code: 'queue_full' })
  t.ok(answers[3]!.headers['retry-after'])
  t.equal(value(await scrape(app), `vllm:admission_rejections_total${LABELS}`), 2)
  t.equal((await chat(app)).statusCode, 200)
  app.backend.queueFullSince = performance.now() - 5_001
  t.equal((await app.server.inject('/readyz')).json().reason, 'queue full')
})

t.test('errors are counted by code, and a scrape survives an engine that does not answer', async (t) => {
  const app = await startApp(t, { script: { refuse: new EngineError('OUT_OF_MEMORY', 'x') } })
  await chat(app)
  app.engine.stats = () => new Promise(() => {})
  const text = await scrape(app)
  t.equal(value(text, 'lorikeet_request_errors_total{code="out_of_memory"}'), 1)
})
