// Execution accuracy: runs expected and written SQL against a SQLite file in a process of its own, which is ended when it hangs.

import { fork, type ChildProcess } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { EngineError } from '../../engine/errors.js'
import type { JudgeAnswer, JudgeRequest } from './sql-judge-child.js'
import { sameRows, type SqlRow } from './sql-rows.js'
import { isOrdered } from './sql-text.js'

export interface SqlJudgeOptions {
  /** Longest time of one query, ms. */
  readonly timeoutMs?: number
  readonly maxRows?: number
}

export type SqlResult = { readonly rows: readonly SqlRow[] } | { readonly error: string }

export interface SqlVerdict {
  /** Null: the expected query itself does not run, so nothing can be said. */
  readonly correct: boolean | null
  /** Why not, for a person. */
  readonly reason?: string
  /** The written query gave no rows to compare. */
  readonly isError?: true
}

const DEFAULT_TIMEOUT_MS = 5_000
const DEFAULT_MAX_ROWS = 10_000
/** Of the process's data. SQLite's own limit counts nothing where it is built without memory statistics, as in the package for Node 20. */
const MEMORY_KIB = 384 * 1024
const NODE_FLAGS = ['--max-old-space-size=256']
/** Node, by a shell that limits it first. */
const LIMITED = {
  execPath: '/bin/sh', execArgv: ['-c', `ulimit -d ${MEMORY_KIB}; exec "$0" "$@"`, process.execPath, ...NODE_FLAGS],
}
const CHILD = fileURLToPath(new URL('./sql-judge-child.js', import.meta.url))

export class SqlJudge {
  readonly #timeoutMs: number
  readonly #maxRows: number
  readonly #expected = new Map<string, SqlResult>()
  #child: ChildProcess | undefined
  #turn: Promise<unknown> = Promise.resolve()
  #nextId = 1

  constructor({ timeoutMs = DEFAULT_TIMEOUT_MS, maxRows = DEFAULT_MAX_ROWS }: SqlJudgeOptions = {}) {
    this.#timeoutMs = timeoutMs
    this.#maxRows = maxRows
  }

  /** Compares results; the order of rows counts where the expected query orders them. */
  async judge(database: string, expectedSql: string, sql: string): Promise<SqlVerdict> {
    const key = `${database}\0${expectedSql}`
    const expected = this.#expected.get(key) ?? (await this.run(database, expectedSql))
    this.#expected.set(key, expected)
    if ('error' in expected) return { correct: null, reason: `the expected query fails: ${expected.error}` }
    const actual = await this.run(database, sql)
    if ('error' in actual) return { correct: false, reason: actual.error, isError: true }
    if (sameRows(expected.rows, actual.rows, isOrdered(expectedSql))) return { correct: true }
    return { correct: false, reason: `${actual.rows.length} rows that are not the ${expected.rows.length} expected` }
  }

  /** One query at a time. @throws EngineError INVALID_REQUEST when there is no such database */
  run(database: string, sql: string): Promise<SqlResult> {
    if (!existsSync(database)) return Promise.reject(new EngineError('INVALID_REQUEST', `There is no database at ${database}`))
    const result = this.#turn.then(() => this.#ask(database, sql))
    this.#turn = result.catch(() => {})
    return result
  }

  close(): void {
    this.#child?.kill('SIGKILL')
    this.#child = undefined
  }

  async #ask(database: string, sql: string): Promise<SqlResult> {
    const child = await this.#started()
    const request: JudgeRequest = { id: this.#nextId++, database, sql, maxRows: this.#maxRows }
    return new Promise((resolve) => {
      const finish = (result: SqlResult, isDead: boolean) => {
        clearTimeout(timer)
        child.off('message', onMessage).off('exit', onExit)
        if (isDead) this.close()
        resolve(result)
      }
      const onMessage = (answer: JudgeAnswer) => { if (answer.id === request.id) finish(answer, false) }
      const onExit = () => finish({ error: 'the query ended its process' }, true)
      const timer = setTimeout(() => finish({ error: `no result within ${this.#timeoutMs} ms` }, true), this.#timeoutMs)
      child.on('message', onMessage).on('exit', onExit)
      child.send(request, (error) => { if (error !== null) onExit() })
    })
  }

  /** The process, once it listens: its start is not the query's time. @throws EngineError INTERNAL when it does not start */
  #started(): Promise<ChildProcess> {
    if (this.#child?.connected === true) return Promise.resolve(this.#child)
    // It needs no variable of ours, and what it prints is nobody's.
    const child = fork(CHILD, [], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'], env: {}, ...LIMITED })
    this.#child = child
    return new Promise((resolve, reject) => {
      const onEnd = () => reject(new EngineError('INTERNAL', 'The process that runs SQL did not start'))
      child.once('message', () => {
        child.off('exit', onEnd)
        resolve(child)
      })
      child.once('exit', onEnd).on('error', onEnd)
    })
  }
}
