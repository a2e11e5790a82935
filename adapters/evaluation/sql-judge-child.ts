// The process that runs SQL which a model wrote: read-only, with a row limit. Whoever started it has limited its memory, and ends it when
// it takes too long. One message in, one out.

import { openSqlite, type SqlDatabase } from '../sqlite.js'
import type { SqlCell, SqlRow } from './sql-rows.js'
import { notOneQuery } from './sql-text.js'

export interface JudgeRequest {
  readonly id: number
  readonly database: string
  readonly sql: string
  readonly maxRows: number
}

export type JudgeAnswer = { readonly id: number } & ({ readonly rows: readonly SqlRow[] } | { readonly error: string })

/** Of all cells of a result, as JSON. */
const MAX_RESULT_BYTES = 32 * 2 ** 20
const MAX_SAFE = BigInt(Number.MAX_SAFE_INTEGER)

const databases = new Map<string, SqlDatabase>()

process.on('message', (request: JudgeRequest) => void answer(request).then((result) => process.send?.(result)))
process.on('disconnect', () => process.exit())
process.send?.('ready')

async function answer({ id, database, sql, maxRows }: JudgeRequest): Promise<JudgeAnswer> {
  try {
    const reason = notOneQuery(sql)
    if (reason !== undefined) return { id, error: reason }
    return { id, rows: run(await open(database), sql, maxRows) }
  } catch (error) {
    return { id, error: (error as Error).message.slice(0, 500) }
  }
}

async function open(path: string): Promise<SqlDatabase> {
  const known = databases.get(path)
  if (known !== undefined) return known
  const database = await openSqlite(path, { readOnly: true, enableDoubleQuotedStringLiterals: true })
  // Sorting stays in memory, and whoever started the process has bounded that: a query can fill neither disk nor machine.
  database.exec('PRAGMA query_only = ON; PRAGMA temp_store = MEMORY')
  databases.set(path, database)
  return database
}

/** @throws Error of SQLite, or where the result is too large */
function run(database: SqlDatabase, sql: string, maxRows: number): SqlRow[] {
  const statement = database.prepare(sql)
  statement.setReadBigInts(true)
  statement.setReturnArrays(true)
  const rows: SqlRow[] = []
  let bytes = 0
  for (const row of statement.iterate() as Iterable<unknown[]>) {
    if (rows.length === maxRows) throw new Error(`more than ${maxRows} rows`)
    const cells = row.map(toCell)
    bytes += cells.reduce((sum: number, cell) => sum + sizeOf(cell), 0)
    if (bytes > MAX_RESULT_BYTES) throw new Error(`a result of more than ${MAX_RESULT_BYTES} bytes`)
    rows.push(cells)
  }
  return rows
}

function toCell(value: unknown): SqlCell {
  if (typeof value === 'bigint') return value <= MAX_SAFE && value >= -MAX_SAFE ? Number(value) : { integer: String(value) }
  if (typeof value === 'number' && !Number.isFinite(value)) return { real: String(value) }
  if (value instanceof Uint8Array) return { blob: Buffer.from(value).toString('hex') }
  return value as SqlCell
}

function sizeOf(cell: SqlCell): number {
  if (typeof cell === 'string') return cell.length
  return typeof cell === 'object' && cell !== null && 'blob' in cell ? cell.blob.length : 8
}
