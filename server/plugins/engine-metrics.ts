// What the engine counts, as Prometheus sees it. Its counters start again when its process does; ours never fall.

import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import type { Engine, EngineStats, StepPart, StepPhase } from '../../engine/api.js'
import type { Backend } from '../backend.js'
import { BUCKETS } from './metric-buckets.js'
import type { ModelLabels } from './request-metrics.js'

/** Counters of EngineStats and the names under which they are exposed. */
const COUNTERS = {
  prefixQueries: ['vllm:prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache.'],
  prefixHits: ['vllm:prefix_cache_hits_total', 'Prompt tokens found in the prefix cache.'],
  preemptions: ['vllm:num_preemptions_total', 'Sequences preempted.'],
  promptTokens: ['vllm:prompt_tokens_total', 'Prompt tokens processed.'],
  generationTokens: ['vllm:generation_tokens_total', 'Tokens generated.'],
  nanRows: ['vllm:corrupted_requests_total', 'Sequences that met NaN in their logits.'],
  steps: ['lorikeet_engine_steps_total', 'Steps of the engine.'],
} as const satisfies Partial<Record<keyof EngineStats, readonly [name: string, help: string]>>

type CounterKey = keyof typeof COUNTERS

/** Counters of DeviceStats, a series for each kind of them. */
const DEVICE_COUNTERS = {
  graphs: ['lorikeet_cuda_graphs_total', 'Decode steps by a captured graph, by one captured just then, and kernel by kernel.', ['event']],
  measured: ['lorikeet_steps_measured_total', 'Steps whose parts were timed on the device.', ['phase']],
  parts: ['lorikeet_step_part_seconds_total', 'Time of the parts of the steps that were timed.', ['phase', 'part']],
} as const

export class EngineMetrics {
  readonly #backend: Backend
  readonly #labels: () => ModelLabels
  readonly #counters: Record<CounterKey, Counter>
  readonly #last: Partial<Record<CounterKey, number>> = {}
  readonly #gauges: ReturnType<typeof engineGauges>
  readonly #deviceCounters: Record<keyof typeof DEVICE_COUNTERS, Counter>
  /** Last values of the device's counters, by series. */
  readonly #lastOfDevice = new Map<string, number>()
  readonly #iterationTokens: Histogram
  readonly #stepTime: Histogram
  #restarts = 0

  constructor(registry: Registry, backend: Backend, labels: () => ModelLabels) {
    this.#backend = backend
    this.#labels = labels
    const registers = [registry]
    const labelNames = ['model_name', 'engine']
    const counter = ([name, help]: readonly [string, string]) => new Counter({ name, help, labelNames, registers })
    this.#counters = Object.fromEntries(Object.entries(COUNTERS).map(([key, row]) => [key, counter(row)])) as Record<CounterKey, Counter>
    this.#iterationTokens = new Histogram({
      name: 'vllm:iteration_tokens_total', help: 'Tokens of one step.', labelNames, buckets: [...BUCKETS.iteration], registers,
    })
    this.#deviceCounters = Object.fromEntries(Object.entries(DEVICE_COUNTERS).map(([key, [name, help, labelNames]]) =>
      [key, new Counter({ name, help, labelNames, registers })])) as Record<keyof typeof DEVICE_COUNTERS, Counter>
    this.#stepTime = new Histogram({
      name: 'lorikeet_step_time_seconds', help: 'Time of one step.', labelNames: ['phase'], buckets: [...BUCKETS.step], registers,
    })
    this.#gauges = engineGauges(registry)
    backend.onStats((stats, engine) => this.#update(stats, engine))
  }

  #update(stats: EngineStats, engine: Engine): void {
    const labels = this.#labels()
    const restarted = engine.restarts !== this.#restarts
    this.#restarts = engine.restarts
    this.#updateCounters(stats, restarted, labels)
    this.#updateDevice(stats, restarted)
    for (const tokens of stats.stepTokens) this.#iterationTokens.observe(labels, tokens)
    for (const [phase, seconds] of stats.stepSeconds) this.#stepTime.observe({ phase }, seconds)
    const { running, waiting, waitingByReason, kvUsage, memory, restarts, cacheConfig } = this.#gauges
    const forAdapters = [...this.#backend.adapters().waiting().values()].reduce((sum, requests) => sum + requests, 0)
    running.set(labels, stats.running)
    waiting.set(labels, stats.waiting + forAdapters)
    waitingByReason.set({ ...labels, reason: 'capacity' }, stats.waitingByReason.capacity)
    waitingByReason.set({ ...labels, reason: 'deferred' }, stats.waitingByReason.deferred + forAdapters)
    kvUsage.set(labels, stats.kvUsage)
    for (const [purpose, bytes] of Object.entries(stats.memory)) memory.set({ purpose }, bytes)
    restarts.set(engine.restarts)
    const { info } = engine
    cacheConfig.set({ engine: labels.engine, block_size: String(info.kvBlockTokens), num_gpu_blocks: String(info.nGlobalBlocks) }, 1)
    this.#updateLora(stats, info.maxLoras)
  }

  /** Adds what is new since the last look; after a restart everything is. */
  #updateCounters(stats: EngineStats, restarted: boolean, labels: ModelLabels): void {
    for (const key of Object.keys(COUNTERS) as CounterKey[]) {
      const last = restarted ? 0 : (this.#last[key] ?? 0)
      const now = stats[key]
      this.#counters[key].inc(labels, now >= last ? now - last : now)
      this.#last[key] = now
    }
  }

  /** The CPU has no memory of its own and no graphs: its series stay away. */
  #updateDevice({ device }: EngineStats, restarted: boolean): void {
    if (restarted) this.#lastOfDevice.clear()
    const grow = (kind: keyof typeof DEVICE_COUNTERS, labels: Record<string, string>, now: number) => {
      const series = `${kind} ${Object.values(labels).join(' ')}`
      const last = this.#lastOfDevice.get(series) ?? 0
      this.#deviceCounters[kind].inc(labels, now >= last ? now - last : now)
      this.#lastOfDevice.set(series, now)
    }
    for (const [phase, { steps, seconds }] of Object.entries(device.stepTimes) as [StepPhase, typeof device.stepTimes[StepPhase]][]) {
      grow('measured', { phase }, steps)
      for (const [part, sum] of Object.entries(seconds) as [StepPart, number][]) grow('parts', { phase, part }, sum)
    }
    if (device.totalBytes === 0) return
    this.#gauges.deviceMemory.set({ kind: 'total' }, device.totalBytes)
    this.#gauges.deviceMemory.set({ kind: 'free' }, device.freeBytes)
    for (const [event, n] of Object.entries(device.graphs)) grow('graphs', { event }, n)
  }

  /** One series with the names in its labels, its value the time: the Gateway API reads the one with the highest value. */
  #updateLora(stats: EngineStats, maxLoras: number): void {
    const directory = this.#backend.adapters()
    const inSlots = (slots: readonly number[]) => slots.flatMap((slot) => directory.nameOfSlot(slot) ?? [])
    const list = (names: readonly string[]) => [...new Set(names)].sort().join(',')
    this.#gauges.lora.reset()
    const labels = {
      max_lora: String(maxLoras),
      running_lora_adapters: list(inSlots(stats.runningSlots)),
      waiting_lora_adapters: list([...inSlots(stats.waitingSlots), ...directory.waiting().keys()]),
    }
    this.#gauges.lora.set(labels, Date.now() / 1000)
  }
}

function engineGauges(registry: Registry) {
  const labels = ['model_name', 'engine']
  const gauge = (name: string, help: string, labelNames: string[]) => new Gauge({ name, help, labelNames, registers: [registry] })
  return {
    running: gauge('vllm:num_requests_running', 'Sequences in the running batch.', labels),
    waiting: gauge('vllm:num_requests_waiting', 'Sequences waiting.', labels),
    waitingByReason: gauge('vllm:num_requests_waiting_by_reason', 'Sequences waiting, by reason.', [...labels, 'reason']),
    kvUsage: gauge('vllm:kv_cache_usage_perc', 'Share of KV blocks in use, 0 to 1.', labels),
    lora: gauge('vllm:lora_requests_info', 'Adapters of running and waiting requests; the value is the time.', [
      'max_lora', 'running_lora_adapters', 'waiting_lora_adapters',
    ]),
    cacheConfig: gauge('vllm:cache_config_info', 'Shape of the KV cache.', ['engine', 'block_size', 'num_gpu_blocks']),
    memory: gauge('lorikeet_engine_memory_bytes', 'Memory of the engine by purpose.', ['purpose']),
    deviceMemory: gauge('lorikeet_device_memory_bytes', 'Memory of the GPU: all of it, and what is free.', ['kind']),
    restarts: gauge('lorikeet_engine_restarts_total', 'Restarts of the engine process.', []),
  }
}
