// The training jobs of one server: in its data directory, on its engine, published into its adapters.

import { Jobs } from '../adapters/jobs.js'
import { openJobs } from '../adapters/open-jobs.js'
import type { AdapterRegistry } from '../adapters/registry.js'
import type { Engine } from '../engine/api.js'
import { EngineError } from '../engine/errors.js'
import type { ServerConfig } from './config.js'

/** Started: jobs that an earlier server left go on. Undefined where another server has them: this one serves without. */
export async function openTraining(
  config: ServerConfig, engine: Engine, registry: AdapterRegistry, onError: (error: unknown, jobId: string) => void = () => {},
): Promise<Jobs | undefined> {
  const { dataDir, modelNames, maxJobs } = config
  try {
    return await openJobs({ engine, registry, dataDir, baseName: modelNames[0]!, maxActive: maxJobs, onError })
  } catch (error) {
    if (!(error instanceof EngineError)) throw error
    onError(error, '')
    return undefined
  }
}
