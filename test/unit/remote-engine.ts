// Engines in a process of their own, over the fake device.

import { fileURLToPath } from 'node:url'
import type { EngineOptions } from '../../engine/api.js'
import { type RemoteEngine, type StartOptions, startEngine } from '../../engine/client.js'
import type { FakeEngineOptions } from './fake-engine.js'

const hostPath = fileURLToPath(new URL('./fake-host.js', import.meta.url))

export function startFake(
  options: FakeEngineOptions & { failToStart?: boolean; dieAtStart?: boolean } = {},
  timings: StartOptions['timings'] = {},
): Promise<RemoteEngine> {
  return startEngine(options as unknown as EngineOptions, () => {}, { hostPath, timings })
}
