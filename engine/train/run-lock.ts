// One run at a time in a directory: run.lock/holder.json names the process that trains there. A process that is gone holds nothing.

import { randomBytes } from 'node:crypto'
import { mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { toDiskError } from '../durable.js'
import { EngineError } from '../errors.js'

const NAME = 'run.lock'
const HOLDER = 'holder.json'
const STALE = '.stale-'
const MAX_TRIES = 20

interface Holder {
  readonly pid: number
  /** When the process began, as the system counts it; a pid alone comes back. Empty where the system does not say. */
  readonly began: string
  /** Another for each lock. */
  readonly token: string
}

/** A process on another machine that shares the directory is not seen. */
export class RunLock {
  readonly #path: string
  readonly #holder: Holder

  private constructor(path: string, holder: Holder) {
    this.#path = path
    this.#holder = holder
  }

  /** @throws EngineError TRAINING_BUSY when a process that lives holds the directory, DISK_FULL */
  static async acquire(folder: string): Promise<RunLock> {
    const path = join(folder, NAME)
    const holder: Holder = { pid: process.pid, began: await beginOf(process.pid) ?? '', token: randomBytes(8).toString('hex') }
    const own = `${path}.${holder.token}`
    try {
      await mkdir(own)
      await writeFile(join(own, HOLDER), JSON.stringify(holder))
      for (let nTries = 0; nTries < MAX_TRIES; nTries++) {
        // A folder takes the place of none or of an empty one, whole or not at all, on every file system.
        if (await rename(own, path).then(() => true, unless('ENOTEMPTY', 'EEXIST'))) return new RunLock(path, holder)
        const other = await readHolder(path)
        if (other !== undefined && await lives(other)) throw busy(folder, other)
        await setAside(path, other?.token ?? '')
      }
      throw busy(folder, await readHolder(path))
    } catch (error) {
      throw toDiskError(error)
    } finally {
      await rm(own, { recursive: true, force: true })
    }
  }

  /** Idempotent; a lock that somebody else has taken over stays. */
  async release(): Promise<void> {
    if ((await readHolder(this.#path))?.token !== this.#holder.token) return
    const folder = dirname(this.#path)
    await setAside(this.#path, this.#holder.token)
    const stale = (await readdir(folder)).filter((name) => name.startsWith(NAME + STALE))
    await Promise.all(stale.map((name) => rm(join(folder, name), { recursive: true, force: true })))
  }
}

/** Of many that see the same stale lock one moves it: for the others its new name is taken, and so a fresh lock stays where it is. */
async function setAside(path: string, token: string): Promise<void> {
  await rename(path, path + STALE + token).catch(unless('ENOENT', 'ENOTEMPTY', 'EEXIST'))
}

/** Undefined: it is gone, or a crash of the machine has left it torn. */
async function readHolder(path: string): Promise<Holder | undefined> {
  const text = await readFile(join(path, HOLDER), 'utf8').catch(unless('ENOENT'))
  try {
    return text === false ? undefined : JSON.parse(text) as Holder
  } catch {
    return undefined
  }
}

async function lives({ pid, began }: Holder): Promise<boolean> {
  try {
    process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
  const now = await beginOf(pid)
  return now === undefined || began === '' || now === began
}

/** Boot and clock ticks since then. Undefined where there is no /proc, or no such process; another for one that only waits to be reaped. */
async function beginOf(pid: number): Promise<string | undefined> {
  try {
    const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8')
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')     // the name before may hold anything
    return fields[0] === 'Z' ? 'ended' : `${boot.trim()} ${fields[19]}`
  } catch {
    return undefined
  }
}

function busy(folder: string, other: Holder | undefined): EngineError {
  const who = other === undefined ? 'another process' : `process ${other.pid}`
  return new EngineError('TRAINING_BUSY', `${who} is training in ${folder}: wait for it, or take another output directory`,
    { retryAfterMs: 60_000 })
}

function unless(...codes: readonly string[]): (error: NodeJS.ErrnoException) => false {
  return (error) => {
    if (codes.includes(error.code ?? '')) return false
    throw error
  }
}
