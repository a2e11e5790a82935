// The end of a server: SIGTERM drains, a second one does not wait.

import type { App } from './app.js'

/** After requests were told that the server stops, this long to send it, ms. */
const LAST_WORDS_MS = 2_000

/** Refuses new work, lets what runs finish in time, tells the rest, and closes everything. True when all could finish. */
export async function drain({ server, context }: App): Promise<boolean> {
  const { backend, active, sockets, config } = context
  backend.startDraining()
  sockets.drain()
  const finished = await active.idle(config.drainTimeout)
  if (!finished) {
    active.abortAll('draining')
    await active.idle(LAST_WORDS_MS)
  }
  sockets.closeAll()
  await backend.attachedJobs?.close()
  await server.close()
  context.keys?.close()
  backend.close()
  await backend.loaded?.close()
  return finished
}

/** Runs `onSignal` at the first SIGTERM or SIGINT and leaves at the second. */
export function onceStopped(onSignal: (signal: NodeJS.Signals) => void): void {
  let stopping = false
  const stop = (signal: NodeJS.Signals) => {
    if (stopping) process.exit(1)
    stopping = true
    onSignal(signal)
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
}
