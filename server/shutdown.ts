// The end of a server: SIGTERM drains, a second one does not wait.

import type { App } from './app.js'

/** After requests were told that the server stops, this long to send it, ms. */
const LAST_WORDS_MS = 2_000

/** Refuses new work, lets what runs finish in time, tells the rest, and closes everything. True when all could finish. */
export async function drain({ server, context }: App): Promise<boolean> {
  const { backend, active, sockets, config } = context
  backend.startDraining()
  sockets.drain()
  // A run stops at a checkpoint meanwhile; one that takes too long goes on from its last when a server is started again.
  const jobs = backend.attachedJobs?.close()
  const finished = await active.idle(config.drainTimeout)
  if (!finished) {
    active.abortAll('draining')
    await active.idle(LAST_WORDS_MS)
  }
  sockets.closeAll()
  await atMost(config.drainTimeout, jobs)
  await server.close()
  context.keys?.close()
  backend.close()
  await backend.loaded?.close()
  return finished
}

async function atMost(ms: number, work: Promise<void> | undefined): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const end = new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)))
  await Promise.race([work, end]).finally(() => clearTimeout(timer))
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
