// Every plugin and route of the server, in the order in which a request meets them.

import cors from '@fastify/cors'
import helmet from '@fastify/helmet'
import Fastify, { LogController, type FastifyInstance } from 'fastify'
import { randomUUID } from 'node:crypto'
import { ActiveRequests } from './active-requests.js'
import type { Backend } from './backend.js'
import type { ServerConfig } from './config.js'
import type { ServerContext } from './context.js'
import type { KeyStore } from './keys.js'
import { registerAuth } from './plugins/auth.js'
import { registerBodyParser } from './plugins/body-parser.js'
import { registerErrors, replyToClientError } from './plugins/errors.js'
import { Gate } from './plugins/limits.js'
import { registerAccessLog } from './plugins/access-log.js'
import { Metrics } from './plugins/metrics.js'
import { registerOriginGuard } from './plugins/origin-guard.js'
import { Quarantine } from './resume.js'
import { registerAdapters } from './routes/adapters.js'
import { registerChat } from './routes/chat.js'
import { registerCompletions } from './routes/completions.js'
import { registerDocs } from './routes/docs.js'
import { registerFiles } from './routes/files.js'
import { registerFineTuning } from './routes/fine-tuning.js'
import { registerHealth } from './routes/health.js'
import { registerLora } from './routes/lora.js'
import { registerMetrics } from './routes/metrics.js'
import { registerModels } from './routes/models.js'
import { registerTrain } from './routes/train.js'
import { registerUpgrades, registerWebSocket, SocketRegistry } from './routes/websocket.js'

export interface AppOptions {
  readonly config: ServerConfig
  /** The engine, now or once it has loaded. */
  readonly backend: Backend
  readonly keys?: KeyStore
}

export interface App {
  readonly server: FastifyInstance
  readonly context: ServerContext
}

const HEADER_TIMEOUT_MS = 10_000
const BODY_TIMEOUT_MS = 60_000
const CLOSE_GRACE_MS = 1_000
const MAX_HEADER_BYTES = 16 * 1024
const MAX_PARAM_LENGTH = 256

export async function buildApp({ config, backend, keys }: AppOptions): Promise<App> {
  const context = buildContext(config, backend, keys)
  const server = createServer(config)

  server.addHook('preClose', async () => closeStragglers(server))
  await registerUpgrades(server)
  registerErrors(server)
  registerAccessLog(server)
  registerOriginGuard(server, config)
  registerBodyParser(server)
  registerAuth(server, keys)
  await server.register(helmet, { contentSecurityPolicy: { directives: { upgradeInsecureRequests: null } } })
  if (config.corsOrigin.length > 0) await server.register(cors, { origin: [...config.corsOrigin] })
  await registerDocs(server, context)

  registerHealth(server, context)
  registerMetrics(server, context)
  registerModels(server, context)
  registerChat(server, context)
  registerWebSocket(server, context)
  registerCompletions(server, context)
  registerLora(server, context)
  await registerAdapters(server, context)
  await registerFiles(server, context)
  registerFineTuning(server, context)
  registerTrain(server, context)

  return { server, context }
}

/** A connection that never becomes idle (an unread body, a half-sent request) must not hold up the end of the process. */
function closeStragglers({ server }: FastifyInstance): void {
  setTimeout(() => server.closeAllConnections(), CLOSE_GRACE_MS).unref()
}

function createServer(config: ServerConfig): FastifyInstance {
  return Fastify({
    logger: config.logLevel === 'silent' ? false : { level: config.logLevel, stream: process.stderr },
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: config.maxBodyBytes,
    genReqId: () => `req-${randomUUID().replaceAll('-', '')}`,
    requestIdHeader: false,
    requestTimeout: BODY_TIMEOUT_MS,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: MAX_PARAM_LENGTH },
    http: { headersTimeout: HEADER_TIMEOUT_MS, maxHeaderSize: MAX_HEADER_BYTES },
    ajv: { customOptions: { coerceTypes: false, useDefaults: false, removeAdditional: false, allErrors: false } },
    clientErrorHandler: replyToClientError,
  })
}

function buildContext(config: ServerConfig, backend: Backend, keys: KeyStore | undefined): ServerContext {
  return {
    config,
    backend,
    keys,
    gate: new Gate({ maxConcurrent: config.maxNumSeqs, maxQueue: config.maxQueue }, backend),
    metrics: new Metrics(backend, () => config.modelNames[0]!, config.metricsAdapters),
    active: new ActiveRequests(config.requestTimeout),
    sockets: new SocketRegistry(),
    quarantine: new Quarantine(),
  }
}
