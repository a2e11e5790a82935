// Latencies of each adapter as its clients see them. The most used adapters by name, all others together as "other".

import { Histogram, type Registry } from 'prom-client'
import { BUCKETS } from './metric-buckets.js'
import { TopNames } from './top-names.js'

const LABELS = ['adapter']

export class AdapterLatency {
  readonly #names: TopNames
  readonly #ttft: Histogram
  readonly #itl: Histogram

  /** `maxNames`: adapters that get series of their own. */
  constructor(registry: Registry, maxNames: number) {
    const registers = [registry]
    this.#ttft = new Histogram({
      name: 'lorikeet_adapter_time_to_first_token_seconds', labelNames: LABELS, buckets: [...BUCKETS.ttft], registers,
      help: 'Arrival to first token by adapter, its load included; "other": all but the most used.',
    })
    this.#itl = new Histogram({
      name: 'lorikeet_adapter_inter_token_latency_seconds', labelNames: LABELS, buckets: [...BUCKETS.token], registers,
      help: 'Time between tokens of one choice by adapter; "other": all but the most used.',
    })
    this.#names = new TopNames({ max: maxNames, onDrop: (adapter) => this.#forget(adapter) })
  }

  /** A request for this adapter begins to run. */
  use(adapter: string): void {
    this.#names.use(adapter)
  }

  firstToken(adapter: string, seconds: number): void {
    this.#ttft.observe({ adapter: this.#names.labelOf(adapter) }, seconds)
  }

  betweenTokens(adapter: string, seconds: number): void {
    this.#itl.observe({ adapter: this.#names.labelOf(adapter) }, seconds)
  }

  #forget(adapter: string): void {
    this.#ttft.remove({ adapter })
    this.#itl.remove({ adapter })
  }
}
