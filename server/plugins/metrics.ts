// The Prometheus registry of one server: request metrics, engine metrics, and the few that belong to neither.

import { Counter, Gauge, Registry, collectDefaultMetrics } from 'prom-client'
import type { Backend } from '../backend.js'
import { AdapterMetrics } from './adapter-metrics.js'
import { EngineMetrics } from './engine-metrics.js'
import { TrainingMetrics } from './training-metrics.js'
import { RequestMetrics, type ModelLabels } from './request-metrics.js'

export class Metrics {
  readonly registry = new Registry()
  readonly requests: RequestMetrics
  readonly slowReaders: Counter
  readonly webSockets: Gauge

  /** `modelName`: of the base, once it is known. `maxAdapterNames`: adapters that have series of their own. */
  constructor(backend: Backend, modelName: () => string, maxAdapterNames: number) {
    const labels = (): ModelLabels => ({ model_name: modelName(), engine: '0' })
    const registers = [this.registry]
    this.requests = new RequestMetrics(this.registry, labels, maxAdapterNames)
    this.slowReaders = new Counter(
      { name: 'lorikeet_slow_readers_cut_total', help: 'Streams cut because the client did not read.', registers },
    )
    this.webSockets = new Gauge({ name: 'lorikeet_websocket_connections', help: 'Open WebSockets.', registers })
    new EngineMetrics(this.registry, backend, labels)
    new AdapterMetrics(this.registry, backend)
    new TrainingMetrics(this.registry, backend)
    collectDefaultMetrics({ register: this.registry, prefix: 'lorikeet_' })
  }
}
