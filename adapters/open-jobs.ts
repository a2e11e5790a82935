// Jobs and files of one data directory, on an engine.

import { openJobDatabase } from './jobs/database.js'
import { FileStore } from './jobs/file-store.js'
import { JobStore } from './jobs/job-store.js'
import { Jobs } from './jobs.js'
import type { JobsOptions } from './jobs/jobs-options.js'

/** Started: what an earlier process left goes on. */
export async function openJobs(options: Omit<JobsOptions, 'store' | 'files'>): Promise<Jobs> {
  const { database, close } = await openJobDatabase(options.dataDir)
  const files = await FileStore.open(database, options.dataDir)
  await files.sweep()
  const jobs = new Jobs({ ...options, store: new JobStore(database), files, onClosed: close })
  jobs.start()
  return jobs
}
