// What every route is given. One object, built once by app.ts.

import type { ActiveRequests } from './active-requests.js'
import type { Backend } from './backend.js'
import type { ServerConfig } from './config.js'
import type { KeyStore } from './keys.js'
import type { Gate } from './plugins/limits.js'
import type { Metrics } from './plugins/metrics.js'
import type { Quarantine } from './resume.js'
import type { SocketRegistry } from './routes/websocket.js'

export interface ServerContext {
  readonly config: ServerConfig
  readonly backend: Backend
  readonly gate: Gate
  readonly metrics: Metrics
  readonly active: ActiveRequests
  readonly sockets: SocketRegistry
  readonly quarantine: Quarantine
  /** Undefined = no keys configured: loopback only, everything allowed. */
  readonly keys: KeyStore | undefined
}
