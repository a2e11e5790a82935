// `lorikeet serve` with a real engine, as a process of its own.

import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import type { SaidToken } from '../../scripts/same-answer.js'
import { device } from '../device.js'

export interface ServerProcess {
  readonly url: string
  readonly model: string
  readonly child: ChildProcess
  /** The engine's process. */
  enginePid(): number
  /** The value of a metric's only series, by its name. */
  metric(name: string): Promise<number>
  /** Sends SIGTERM; resolves with the exit code. */
  stop(): Promise<number | null>
  /** Everything on standard error. */
  log(): string
}

const MODEL = 'under-test'
const START_MS = 120_000

export interface StartOptions {
  /** By a shell that runs package.json's start script, as npm does; without the set-up, which has its own test. */
  readonly byStartScript?: boolean
  readonly env?: Readonly<Record<string, string>>
}

/** Serves the embedded model unless the flags name another; on one thread, so that a busy machine stays fair. Killed with the test. */
export async function startServer(
  t: Test, flags: readonly string[] = [], { byStartScript = false, env = {} }: StartOptions = {},
): Promise<ServerProcess> {
  const cli = fileURLToPath(new URL('../../server/cli.js', import.meta.url))
  const command = byStartScript ? ['sh', '-c', `${startScript()} "$@"`, 'sh'] : [process.execPath, cli, 'serve']
  const own = ['--port', '0', '--data-dir', t.testdir({}), '--served-model-name', MODEL, '--device', device, '--threads', '1',
    '--recovery-timeout', '60s']
  const args = [...command.slice(1), ...own, ...flags]
  const child = spawn(command[0]!, args, { env: { ...process.env, NODE_OPTIONS: '', ...env } })
  const exit = once(child, 'exit').then(([code]) => code as number | null)
  t.teardown(async () => {
    child.kill('SIGKILL')
    await exit
  })
  const texts = { out: '', err: '' }
  child.stdout.on('data', (data) => (texts.out += data))
  child.stderr.on('data', (data) => (texts.err += data))
  const url = await addressIn(() => texts.out, () => child.exitCode !== null, () => texts.err)
  return {
    url,
    model: MODEL,
    child,
    enginePid: () => childOf(child.pid!),
    metric: (name) => readMetric(url, name),
    stop: () => {
      child.kill('SIGTERM')
      return exit
    },
    log: () => texts.err,
  }
}

/** The only child of a process: the engine is the server's. Not every Linux has ps, not every system /proc. */
export function childOf(pid: number): number {
  if (!existsSync('/proc/self/stat')) return Number(execFileSync('ps', ['-o', 'pid=', '--ppid', String(pid)]).toString().trim())
  return Number(readdirSync('/proc').find((name) => /^\d+$/.test(name) && parentOf(name) === pid))
}

function parentOf(pid: string): number | undefined {
  try {
    return Number(/\) \S+ (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1])
  } catch {
    return undefined                                     // it has ended meanwhile
  }
}

function startScript(): string {
  const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: { start: string } }
  return scripts.start.replace('node scripts/setup.mjs', 'true')
}

async function addressIn(out: () => string, ended: () => boolean, err: () => string): Promise<string> {
  for (const deadline = performance.now() + START_MS; performance.now() < deadline && !ended(); await sleep(20)) {
    const url = /http:\/\/\S+/.exec(out())?.[0]
    if (url !== undefined) return url
  }
  throw new Error(`the server did not start: ${err()}`)
}

/** Tokens of a chat choice, or of one piece of it. */
export function saidBy(choice: any): SaidToken[] {
  const content: readonly any[] = choice?.logprobs?.content ?? []
  const named = ({ token, bytes, logprob }: any): [string, number] => [bytes?.join() ?? token, logprob]
  return (choice?.token_ids ?? []).map((token: number, i: number) =>
    (content[i] ? { token, logprob: content[i].logprob, top: content[i].top_logprobs.map(named) } : { token }))
}

async function readMetric(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${name} `) || candidate.startsWith(`${name}{`))
  return Number(line?.split(' ').at(-1) ?? NaN)
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Resolves when the condition holds. @throws after a minute. */
export async function eventually(what: string, condition: () => Promise<boolean> | boolean): Promise<void> {
  for (const deadline = performance.now() + 60_000; performance.now() < deadline; await sleep(20)) if (await condition()) return
  throw new Error(`still not: ${what}`)
}
