// SQLite, by whichever module this Node has: its own, or the package with the same interface where it has none (Node 20, early 22).

export interface SqlStatement {
  all(...parameters: readonly SqlValue[]): unknown[]
  get(...parameters: readonly SqlValue[]): unknown
  run(...parameters: readonly SqlValue[]): { readonly changes: number | bigint; readonly lastInsertRowid: number | bigint }
  iterate(...parameters: readonly SqlValue[]): IterableIterator<unknown>
  setReadBigInts(enabled: boolean): void
  setReturnArrays(enabled: boolean): void
}

export interface SqlDatabase {
  exec(sql: string): void
  prepare(sql: string): SqlStatement
  close(): void
}

export type SqlValue = string | number | bigint | null | Uint8Array

export interface SqliteOptions {
  readonly readOnly?: boolean
  /** "text" is a string where no column has that name, as the sqlite3 shell and Python read it. */
  readonly enableDoubleQuotedStringLiterals?: boolean
}

interface SqliteModule {
  readonly DatabaseSync: new (path: string, options?: SqliteOptions) => SqlDatabase
  readonly StatementSync: { readonly prototype: object }
}

let loaded: Promise<SqliteModule> | undefined

/** @throws Error of SQLite when the file cannot be opened or is no database */
export async function openSqlite(path: string, options: SqliteOptions = {}): Promise<SqlDatabase> {
  loaded ??= loadSqlite()
  const { DatabaseSync } = await loaded
  return new DatabaseSync(path, options)
}

async function loadSqlite(): Promise<SqliteModule> {
  const name: string = 'node:sqlite'                   // a variable: Node 20 has no such module, nor do its types
  const own = await import(name).then((module) => module as SqliteModule, () => undefined)
  if (own !== undefined && 'setReturnArrays' in own.StatementSync.prototype) return own
  return (await import('@photostructure/sqlite')) as unknown as SqliteModule
}
