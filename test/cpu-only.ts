// Imported first by suites of what the CPU alone does: on another device they are skipped, and say so.

import t from 'tap'
import { isCuda, notOnCuda } from './device.js'

if (isCuda) {
  t.plan(0, notOnCuda('training runs on the CPU') || '')
  process.exit()
}
