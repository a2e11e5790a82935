// The engine's process with the fake device in it.

import { serveEngine } from '../../engine/serve-engine.js'
import { EngineError } from '../../engine/errors.js'
import { type FakeEngineOptions, fakeEngine } from './fake-engine.js'

serveEngine(async (options) => {
  const fake = options as unknown as FakeEngineOptions & { failToStart?: boolean; dieAtStart?: boolean }
  if (fake.failToStart === true) throw new EngineError('MODEL_NOT_FOUND', 'no such model', { param: 'model' })
  if (fake.dieAtStart === true) process.kill(process.pid, 'SIGSEGV')
  return fakeEngine(fake).engine
})
