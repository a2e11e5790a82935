// From a finished run to a version that is served: staged, measured where a gate is asked for, made current. Nothing is half done.

import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import type { Engine } from '../../engine/api.js'
import type { AdapterRegistry } from '../registry.js'
import type { StoredVersion } from '../store.js'
import { judgeGate } from './gate.js'
import { measureForGate } from './gate-evaluation.js'
import type { JobStore } from './job-store.js'
import type { Job } from './job-types.js'

export type Publication =
  | { readonly kind: 'published'; readonly version: string }
  | { readonly kind: 'refused'; readonly reason: string }
  | { readonly kind: 'stopped' }

export interface PublicationParts {
  readonly registry: AdapterRegistry
  readonly engine: Engine
  readonly store: JobStore
  readonly signal: AbortSignal
}

/**
 * `onDecided` is called when nothing can stop it any more. A version that is refused, or stopped before that, is removed again.
 * @throws EngineError ADAPTER_*, DATA_INVALID, DISK_FULL, ENGINE_*
 */
export async function publishResult(job: Job, adapterPath: string, parts: PublicationParts, onDecided: () => void): Promise<Publication> {
  const { registry, signal } = parts
  if (signal.aborted) return { kind: 'stopped' }
  const before = new Set(registry.store.versions(job.name).map(({ version }) => version))
  const { version } = await stage(job, adapterPath, registry)
  let isKept = false
  try {
    const reason = job.gate === undefined ? undefined : await gateRefusal(job, version, parts)
    if (reason !== undefined) return { kind: 'refused', reason }
    if (signal.aborted) return { kind: 'stopped' }
    isKept = true
    onDecided()
    await registry.promote(job.name, version)
    return { kind: 'published', version }
  } catch (error) {
    if (signal.aborted) return { kind: 'stopped' }
    throw error
  } finally {
    if (!isKept && !before.has(version)) await drop(job.name, version, registry)
  }
}

/** The result as a version that is not yet current. */
async function stage(job: Job, adapterPath: string, registry: AdapterRegistry): Promise<StoredVersion> {
  const staging = await registry.store.stage()
  try {
    await staging.copyFrom(adapterPath)
  } catch (error) {
    await staging.dispose()
    throw error
  }
  return registry.publish(job.name, staging, job.id, false)
}

/** Why the gate does not let the version pass; undefined when it does. */
async function gateRefusal(job: Job, version: string, { registry, engine, store, signal }: PublicationParts): Promise<string | undefined> {
  const gate = job.gate!
  store.addEvent(job.id, 'info', `Evaluating on ${gate.data.shown}`)
  const { found, current } = await measureForGate(job, version, registry, engine, signal)
  const { passed, reason } = judgeGate(gate, found, current)
  store.update(job.id, { evaluation: found })
  store.addEvent(job.id, passed ? 'info' : 'error', `Evaluation ${passed ? 'passed' : 'did not pass'}: ${reason}`, {
    passed, metric: gate.metric, value: found[gate.metric], before: current?.[gate.metric] ?? null,
  })
  return passed ? undefined : reason
}

/** A version that was never current; a name that has no other goes with it. */
async function drop(name: string, version: string, registry: AdapterRegistry): Promise<void> {
  const isOnly = registry.store.versions(name).length === 1 && registry.store.current(name) === undefined
  await (isOnly ? registry.remove(name) : registry.removeVersion(name, version)).catch(() => {})
}

/** Checkpoints that the run has kept, as versions that are not current. One that cannot be read is left out. */
export async function publishCheckpoints(job: Job, registry: AdapterRegistry, store: JobStore): Promise<void> {
  for (const checkpoint of store.checkpoints(job.id, { limit: 1_000 }).data) {
    if (!existsSync(checkpoint.path)) continue
    const published = await stage(job, checkpoint.path, registry).catch(() => undefined)
    if (published !== undefined) store.putCheckpoint({ ...checkpoint, version: published.version })
  }
}

/** What a run leaves that nobody needs once it has succeeded; its logs stay. */
export async function removeCheckpoints(jobId: string, folder: string, store: JobStore): Promise<void> {
  for (const { path } of store.checkpoints(jobId, { limit: 10_000 }).data) {
    if (path.startsWith(folder)) await rm(path, { recursive: true, force: true })
  }
}
