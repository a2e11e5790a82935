// What the jobs of a server stand on.

import type { Engine } from '../../engine/api.js'
import type { TrainingEngine } from '../../engine/train/types.js'
import type { AdapterRegistry } from '../registry.js'
import type { FileStore } from './file-store.js'
import type { JobStore } from './job-store.js'

export type JobEngine = Engine & Partial<TrainingEngine>

export interface JobsOptions {
  readonly engine: JobEngine
  readonly registry: AdapterRegistry
  readonly store: JobStore
  readonly files: FileStore
  /** Run directories go below it. */
  readonly dataDir: string
  readonly baseName: string
  /** Jobs of one owner that may wait or run. */
  readonly maxActive: number
  readonly onError?: (error: unknown, jobId: string) => void
  readonly onClosed?: () => void
}
