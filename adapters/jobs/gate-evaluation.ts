// The measurements that a gate asks for: of the new version, and of what it would replace.

import type { Engine } from '../../engine/api.js'
import { EngineModel } from '../evaluation/engine-model.js'
import { evaluate } from '../evaluation/evaluate.js'
import type { EvaluationReport } from '../evaluation/report.js'
import { readSamples, type EvaluationSample } from '../evaluation/samples.js'
import { SqlJudge } from '../evaluation/sql-judge.js'
import type { AdapterRegistry } from '../registry.js'
import type { GateOptions, Job } from './job-types.js'

export interface Measured {
  readonly found: EvaluationReport
  readonly current: EvaluationReport | undefined
}

/** @throws EngineError DATA_INVALID, ABORTED, ADAPTER_* */
export async function measureForGate(
  job: Job, version: string, registry: AdapterRegistry, engine: Engine, signal: AbortSignal,
): Promise<Measured> {
  const gate = job.gate!
  const samples = await readSamples([gate.data.path], gate.maxSamples)
  const current = registry.store.current(job.name)
  const measure = (model: string) => measureModel({ model, gate, samples, registry, engine, signal })
  const found = await measure(`${job.name}@${version}`)
  if (!gate.notWorseThanCurrent) return { found, current: undefined }
  return { found, current: await measure(current === undefined ? job.baseName : `${job.name}@${current}`) }
}

interface MeasureOptions {
  readonly model: string
  readonly gate: GateOptions
  readonly samples: readonly EvaluationSample[]
  readonly registry: AdapterRegistry
  readonly engine: Engine
  readonly signal: AbortSignal
}

async function measureModel({ model, gate, samples, registry, engine, signal }: MeasureOptions): Promise<EvaluationReport> {
  const lease = await registry.resolve(model, signal)
  const judge = gate.database === undefined ? undefined : new SqlJudge()
  try {
    return await evaluate(new EngineModel(engine, model, lease.adapter), samples, {
      metrics: [gate.metric], signal, ...(gate.database !== undefined && { database: gate.database.path, judge: judge! }),
    })
  } finally {
    judge?.close()
    lease.release()
  }
}
