// `lorikeet serve`: configuration, HTTP first (so that probes are answered while the model loads), then the engine, then one
// line on standard output.

import type { AddressInfo } from 'node:net'
import type { Engine, EngineOptions, Progress } from '../engine/api.js'
import { startEngine } from '../engine/client.js'
import { EngineError } from '../engine/errors.js'
import { buildApp, type App } from './app.js'
import { Backend } from './backend.js'
import { describeSettings, loadConfig, UsageError, type ServerConfig } from './config.js'
import { KeyStore } from './keys.js'
import { openAdapters } from './open-adapters.js'
import { openTraining } from './open-training.js'
import { ProgressBar } from './progress-bar.js'
import { drain, onceStopped } from './shutdown.js'

const USAGE = `Usage: lorikeet serve [FLAGS]

Every flag is also a variable: --max-model-len is LORIKEET_MAX_MODEL_LEN. SIGTERM drains, a second one stops at once.

`

export type StartEngine = (options: EngineOptions, onProgress: (progress: Progress) => void) => Promise<Engine>

/** Resolves with the exit code once the server has stopped. @throws UsageError for a bad setting. */
export async function serve(args: readonly string[], start: StartEngine = startEngine): Promise<number> {
  if (args.includes('--help') || args.includes('-h')) {
    process.stdout.write(`${USAGE}${describeSettings()}\n`)
    return 0
  }
  const config = loadConfig(args)
  const keys = config.apiKeys === '' ? undefined : new KeyStore(config.apiKeys)
  const app = await buildApp({ config, backend: new Backend(), ...(keys && { keys }) })
  const { promise: stopped, resolve: stop } = withResolvers<number>()
  onceStopped((signal) => void stopOn(signal, app).then(stop))
  keys?.watch((id) => revoke(app, id), (err) => app.server.log.error({ err }, 'key file not read'))
  const address = await listen(app, config)
  void loadEngine(app, start).then(
    () => announce(app, address),
    (error: unknown) => void fail(app, error).then(stop),
  )
  return stopped
}

async function listen({ server }: App, { host, port }: ServerConfig): Promise<string> {
  try {
    await server.listen({ host, port, listenTextResolver: (at) => `listening at ${at}, the model loads` })
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new UsageError(
      code === 'EADDRINUSE' ? `port ${port} of ${host} is taken: choose another by --port` : `cannot listen on ${host}:${port}: ${message}`,
    )
  }
  const bound = server.server.address() as AddressInfo
  return `http://${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`
}

async function loadEngine({ context, server }: App, start: StartEngine): Promise<void> {
  const { backend, config } = context
  const bar = new ProgressBar()
  const engine = await start(config.engine, (progress) => {
    backend.progress = progress
    bar.update(progress)
  })
  bar.finish()
  if (backend.draining) return engine.close()
  const closing = async (error: unknown): Promise<never> => {
    await engine.close()                               // its process would keep this one alive
    throw error
  }
  const adapters = await openAdapters(config, engine, (message) => server.log.info(message)).catch(closing)
  const jobs = await openTraining(config, engine, adapters, (err, job) => server.log.error({ err, job }, 'training job')).catch(closing)
  backend.attach(engine, adapters, jobs)
}

function announce({ context }: App, address: string): void {
  const { backend, config } = context
  if (backend.loaded === undefined) return
  const { name, weights, compute, device, maxModelLen } = backend.loaded.info
  process.stderr.write(`${name}: ${weights} weights, ${compute} on ${device}, context ${maxModelLen}\n`)
  if (context.keys === undefined) process.stderr.write('No key file: open to every user of this machine, and to nobody else (--api-keys)\n')
  process.stdout.write(`lorikeet serves ${config.modelNames[0]} at ${address}\n`)
}

/** The model did not load: say why and stop. */
async function fail({ server, context }: App, error: unknown): Promise<number> {
  const reason = error instanceof EngineError ? `${error.code}: ${error.message}` : String((error as Error).stack ?? error)
  process.stderr.write(`lorikeet: the model did not load: ${reason}\n`)
  context.backend.fail('The model did not load.')
  await server.close()
  return 1
}

async function stopOn(signal: NodeJS.Signals, app: App): Promise<number> {
  app.server.log.info({ signal, inFlight: app.context.active.size }, 'draining')
  if (!app.context.backend.started) process.exit(0)
  const finished = await drain(app)
  app.server.log.info({ finished }, 'stopped')
  return 0
}

function revoke({ context }: App, keyId: string): void {
  context.active.abortKey(keyId, 'key_revoked')
  context.sockets.closeKey(keyId)
}

/** Promise.withResolvers, which Node 20 lacks. */
function withResolvers<T>() {
  let resolve!: (value: T) => void
  const promise = new Promise<T>((settle) => (resolve = settle))
  return { promise, resolve }
}
