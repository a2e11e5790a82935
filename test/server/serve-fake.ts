// `lorikeet serve` on the fake engine, as a process of its own: for tests of start, signals and output.
// FAKE_DELAY_MS: time of one token; FAKE_LOAD_MS: time of loading; FAKE_LOAD_ERROR: loading fails.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Engine, EngineOptions, Progress } from '../../engine/api.js'
import { EngineError } from '../../engine/errors.js'
import { serve } from '../../server/main.js'
import { UsageError } from '../../server/settings.js'
import { FakeEngine } from './fake-engine.js'

const { FAKE_DELAY_MS = '0', FAKE_LOAD_MS = '0', FAKE_LOAD_ERROR } = process.env

process.exitCode = await serve(process.argv.slice(2), startFake).catch((error: unknown) => {
  if (!(error instanceof UsageError)) throw error
  process.stderr.write(`${error.message}\n`)
  return 2
})

async function startFake(_options: EngineOptions, onProgress: (progress: Progress) => void): Promise<Engine> {
  onProgress({ phase: 'reading', done: 0, total: 2 })
  await sleep(Number(FAKE_LOAD_MS))
  if (FAKE_LOAD_ERROR !== undefined) throw new EngineError('MODEL_NOT_FOUND', FAKE_LOAD_ERROR)
  onProgress({ phase: 'reading', done: 2, total: 2 })
  return new FakeEngine({ delayMs: Number(FAKE_DELAY_MS) })
}
