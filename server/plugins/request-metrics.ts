// What is measured of each request, in the server: latencies as a client sees them, outcomes, and why requests ended early.

import { Counter, Histogram, type Registry } from 'prom-client'
import type { GenerateEvent } from '../../engine/api.js'
import { toApiError } from '../errors.js'
import type { GenerationInput, PromptEvent } from '../generation.js'
import type { AbortReason } from '../request-scope.js'
import { AdapterLatency } from './adapter-latency.js'
import { BUCKETS } from './metric-buckets.js'

export type ModelLabels = { model_name: string; engine: string }

type Families = ReturnType<typeof requestFamilies>
type Finished = Extract<GenerateEvent, { type: 'finished' }>

function requestFamilies(registry: Registry) {
  const labelNames = ['model_name', 'engine']
  const registers = [registry]
  const histogram = (name: string, help: string, buckets: readonly number[]) =>
    new Histogram({ name, help, labelNames, buckets: [...buckets], registers })
  const counter = (name: string, help: string, labels: string[]) => new Counter({ name, help, labelNames: labels, registers })
  return {
    ttft: histogram('vllm:time_to_first_token_seconds', 'Arrival to first token.', BUCKETS.ttft),
    itl: histogram('vllm:inter_token_latency_seconds', 'Time between tokens of one choice.', BUCKETS.token),
    perToken: histogram('vllm:request_time_per_output_token_seconds', 'Mean time a token after the first.', BUCKETS.token),
    e2e: histogram('vllm:e2e_request_latency_seconds', 'Arrival to end.', BUCKETS.request),
    queue: histogram('vllm:request_queue_time_seconds', 'Time waiting in the engine.', BUCKETS.request),
    prefill: histogram('vllm:request_prefill_time_seconds', 'Time in prefill.', BUCKETS.request),
    decode: histogram('vllm:request_decode_time_seconds', 'Time in decode.', BUCKETS.request),
    inference: histogram('vllm:request_inference_time_seconds', 'Time in prefill and decode.', BUCKETS.request),
    promptTokens: histogram('vllm:request_prompt_tokens', 'Prompt tokens of a request.', BUCKETS.tokens),
    generationTokens: histogram('vllm:request_generation_tokens', 'Generated tokens of a choice.', BUCKETS.tokens),
    maxTokens: histogram('vllm:request_params_max_tokens', 'max_tokens asked for.', BUCKETS.tokens),
    n: histogram('vllm:request_params_n', 'n asked for.', BUCKETS.n),
    success: counter('vllm:request_success_total', 'Finished choices by reason.', [...labelNames, 'finished_reason']),
    rejections: counter('vllm:admission_rejections_total', 'Requests refused because the queue was full.', labelNames),
    errors: counter('lorikeet_request_errors_total', 'Requests that ended in an error, by its code.', ['code']),
    aborted: counter('lorikeet_requests_aborted_total', 'Requests that ended before their answer was complete, by reason.', ['reason']),
  }
}

export class RequestMetrics {
  readonly #families: Families
  readonly #adapters: AdapterLatency
  readonly #labels: () => ModelLabels

  /** `maxAdapterNames`: adapters that have series of their own. */
  constructor(registry: Registry, labels: () => ModelLabels, maxAdapterNames: number) {
    this.#families = requestFamilies(registry)
    this.#adapters = new AdapterLatency(registry, maxAdapterNames)
    this.#labels = labels
  }

  /** Starts measuring one request. */
  start(input: GenerationInput): RequestRecord {
    return new RequestRecord(this.#families, this.#adapters, this.#labels(), input)
  }
}

export class RequestRecord {
  readonly #families: Families
  readonly #adapters: AdapterLatency
  readonly #labels: ModelLabels
  readonly #startedAt: number
  /** When each choice had its last token, ms. */
  readonly #lastTokenAt = new Map<string, number>()
  #adapter: string | null = null
  #error: string | undefined

  constructor(families: Families, adapters: AdapterLatency, labels: ModelLabels, { requests, scope }: GenerationInput) {
    this.#families = families
    this.#adapters = adapters
    this.#labels = labels
    this.#startedAt = scope.startedAt
    for (const { n, maxTokens } of requests) {
      families.n.observe(labels, n ?? 1)
      if (maxTokens !== undefined) families.maxTokens.observe(labels, maxTokens)
    }
  }

  /** The adapter whose turn it is; null for the base. */
  resolved(adapter: string | null): void {
    this.#adapter = adapter
    if (adapter !== null) this.#adapters.use(adapter)
  }

  event({ prompt, event }: PromptEvent): void {
    if (event.type === 'started') this.#families.promptTokens.observe(this.#labels, event.promptTokenIds.length)
    else if (event.type === 'finished') this.#finished(event)
    else if (event.tokenIds.length > 0) this.#tokens(`${prompt}/${event.index}`, event.tokenIds.length)
  }

  #tokens(choice: string, n: number): void {
    const now = performance.now()
    const last = this.#lastTokenAt.get(choice)
    if (last !== undefined) this.#betweenTokens((now - last) / 1000 / n)
    else if (this.#lastTokenAt.size === 0) this.#firstToken((now - this.#startedAt) / 1000)
    this.#lastTokenAt.set(choice, now)
  }

  #firstToken(seconds: number): void {
    this.#families.ttft.observe(this.#labels, seconds)
    if (this.#adapter !== null) this.#adapters.firstToken(this.#adapter, seconds)
  }

  #betweenTokens(seconds: number): void {
    this.#families.itl.observe(this.#labels, seconds)
    if (this.#adapter !== null) this.#adapters.betweenTokens(this.#adapter, seconds)
  }

  #finished({ reason, completionTokens, timings }: Finished): void {
    const { success, generationTokens, queue, prefill, decode, inference, perToken } = this.#families
    success.inc({ ...this.#labels, finished_reason: reason })
    generationTokens.observe(this.#labels, completionTokens)
    queue.observe(this.#labels, timings.queuedMs / 1000)
    prefill.observe(this.#labels, timings.prefillMs / 1000)
    decode.observe(this.#labels, timings.decodeMs / 1000)
    inference.observe(this.#labels, (timings.prefillMs + timings.decodeMs) / 1000)
    if (completionTokens > 1) perToken.observe(this.#labels, timings.decodeMs / 1000 / (completionTokens - 1))
  }

  failed(error: unknown): void {
    this.#error = toApiError(error).code
  }

  /** `reason`: why it was aborted, if it was. */
  end(reason: AbortReason | undefined): void {
    const { e2e, aborted, errors, rejections } = this.#families
    e2e.observe(this.#labels, (performance.now() - this.#startedAt) / 1000)
    if (reason !== undefined) aborted.inc({ reason })
    else if (this.#error !== undefined) errors.inc({ code: this.#error })
    if (this.#error === 'queue_full') rejections.inc(this.#labels)
  }
}
