// Where adapters are and what moving them costs: the lorikeet_adapter_* family, read from the registry when it is scraped.

import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import { AdapterRegistry } from '../../adapters/registry.js'
import type { Backend } from '../backend.js'

const LOAD_BUCKETS_S = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

export class AdapterMetrics {
  readonly #families: ReturnType<typeof adapterFamilies>

  constructor(registry: Registry, backend: Backend) {
    this.#families = adapterFamilies(registry, () => {
      const directory = backend.started ? backend.adapters() : undefined
      if (directory instanceof AdapterRegistry) this.#update(directory)
    })
  }

  #update(adapters: AdapterRegistry): void {
    const { stored, slots, resident, bytes, pinned, pins, waiting } = this.#families
    const { loads, failures, evictions, hits, misses, busy, loadSeconds } = this.#families
    const { host, ...device } = adapters.stats()
    stored.set(adapters.store.names().length)
    slots.set(device.nSlots)
    resident.set({ tier: 'device' }, device.resident)
    resident.set({ tier: 'host' }, host.versions)
    bytes.set({ tier: 'device' }, device.residentBytes)
    bytes.set({ tier: 'host' }, host.bytes)
    pinned.set(device.pinned)
    pins.set(device.pins)
    waiting.set(device.waiting)
    setCounter(loads, {}, device.loads)
    setCounter(failures, {}, device.loadFailures)
    setCounter(busy, {}, device.busy)
    for (const [counter, name] of [[evictions, 'evictions'], [hits, 'hits'], [misses, 'misses']] as const) {
      counter.reset()
      counter.inc({ tier: 'device' }, device[name])
      counter.inc({ tier: 'host' }, host[name])
    }
    for (const { seconds, from } of adapters.takeLoadSamples()) loadSeconds.observe({ from }, seconds)
  }
}

function setCounter(counter: Counter, labels: Record<string, string>, value: number): void {
  counter.reset()
  counter.inc(labels, value)
}

function adapterFamilies(registry: Registry, collect: () => void) {
  const registers = [registry]
  const gauge = (name: string, help: string, labelNames: string[] = []) => new Gauge({ name, help, labelNames, registers })
  const counter = (name: string, help: string, labelNames: string[] = []) => new Counter({ name, help, labelNames, registers })
  return {
    // Metrics are collected in the order of their registration: this first one brings all others up to date.
    stored: new Gauge({ name: 'lorikeet_adapters_stored', help: 'Adapter names in the store.', registers, collect }),
    slots: gauge('lorikeet_adapter_slots', 'Device slots.'),
    resident: gauge('lorikeet_adapters_resident', 'Adapter versions held, by tier.', ['tier']),
    bytes: gauge('lorikeet_adapter_resident_bytes', 'Bytes of the adapter versions held, by tier.', ['tier']),
    pinned: gauge('lorikeet_adapters_pinned', 'Adapter versions that a request or the configuration holds.'),
    pins: gauge('lorikeet_adapter_pins', 'Holds on adapter versions.'),
    waiting: gauge('lorikeet_adapters_waiting', 'Loads that wait for a slot.'),
    loads: counter('lorikeet_adapter_loads_total', 'Loads into a device slot.'),
    failures: counter('lorikeet_adapter_load_failures_total', 'Loads into a device slot that failed.'),
    evictions: counter('lorikeet_adapter_evictions_total', 'Versions that left a tier.', ['tier']),
    hits: counter('lorikeet_adapter_hits_total', 'Look-ups that found the version in the tier.', ['tier']),
    misses: counter('lorikeet_adapter_misses_total', 'Look-ups that did not.', ['tier']),
    busy: counter('lorikeet_adapter_slots_busy_total', 'Requests that gave up waiting for a slot.'),
    loadSeconds: new Histogram({
      name: 'lorikeet_adapter_load_seconds', help: 'Time of a load into a device slot, by where the bytes were.', labelNames: ['from'],
        buckets: LOAD_BUCKETS_S, registers,
    }),
  }
}
