// A server on the fake engine, in memory or on a real port, and small readers of its answers.

import type { Test } from 'tap'
import type { FastifyInstance, InjectOptions } from 'fastify'
import type { AddressInfo } from 'node:net'
import type { Jobs } from '../../adapters/jobs.js'
import { BaseOnlyDirectory, type AdapterDirectory } from '../../server/adapter-directory.js'
import { buildApp, type App } from '../../server/app.js'
import { Backend } from '../../server/backend.js'
import { loadConfig } from '../../server/config.js'
import type { KeyStore } from '../../server/keys.js'
import { FakeEngine, type FakeScript } from './fake-engine.js'

export const MODEL = 'fake'

export interface HarnessOptions {
  readonly script?: FakeScript
  readonly engine?: FakeEngine
  readonly flags?: readonly string[]
  readonly keys?: KeyStore
  readonly adapters?: AdapterDirectory
  readonly jobs?: Jobs
  /** The model is still loading. */
  readonly loading?: boolean
}

export interface Harness extends App {
  readonly engine: FakeEngine
  readonly backend: Backend
}

/** Closed when the test ends. */
export async function startApp(t: Test, options: HarnessOptions = {}): Promise<Harness> {
  const { script, keys, loading = false, flags = [] } = options
  const engine = options.engine ?? new FakeEngine(script)
  const config = loadConfig(['--served-model-name', MODEL, '--log-level', 'silent', ...flags], {})
  const backend = new Backend()
  if (!loading) backend.attach(engine, options.adapters ?? new BaseOnlyDirectory(config.modelNames, engine.info.source), options.jobs)
  const app = await buildApp({ config, backend, ...(keys && { keys }) })
  t.teardown(async () => {
    await options.jobs?.close()
    backend.close()
    await app.server.close()
  })
  return { ...app, engine, backend }
}

/** Listens on a free port; returns the base URL. */
export async function listen({ server }: { readonly server: FastifyInstance }): Promise<string> {
  await server.listen({ port: 0, host: '127.0.0.1' })
  return `http://127.0.0.1:${(server.server.address() as AddressInfo).port}`
}

export function chatBody(fields: object = {}): object {
  return { model: MODEL, messages: [{ role: 'user', content: 'Say hello' }], ...fields }
}

export function completionBody(fields: object = {}): object {
  return { model: MODEL, prompt: 'Once upon', ...fields }
}

export async function post(app: App, url: string, body: object | string, extra: Partial<InjectOptions> = {}) {
  return app.server.inject({ method: 'POST', url, payload: body, headers: { 'content-type': 'application/json' }, ...extra })
}

export const chat = (app: App, fields: object = {}) => post(app, '/v1/chat/completions', chatBody(fields))
export const complete = (app: App, fields: object = {}) => post(app, '/v1/completions', completionBody(fields))

/** The payloads of an SSE body; "[DONE]" stays a string. */
export function sseEvents(body: string): any[] {
  return body.split('\n\n').filter((event) => event !== '').map((event) => {
    const data = event.replace(/^data: /, '')
    return data === '[DONE]' ? data : JSON.parse(data)
  })
}

/** Until the condition holds; fails the test by throwing after thirty seconds. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 30_000
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`still not: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
