// Results of two queries compared: by position of columns, whatever their names, and as a bag of rows unless order counts.

/** As the judge's process sends them: JSON has no BLOB, no 64-bit integer and no infinity. */
export type SqlCell =
  | string | number | boolean | null
  | { readonly integer: string }
  | { readonly blob: string }
  | { readonly real: string }
export type SqlRow = readonly SqlCell[]

/** Sums and averages come out in another last digit when rows are met in another order. */
const SIGNIFICANT_DIGITS = 10

export function sameRows(expected: readonly SqlRow[], actual: readonly SqlRow[], isOrdered: boolean): boolean {
  if (expected.length !== actual.length) return false
  const [a, b] = [expected.map(rowKey), actual.map(rowKey)]
  if (!isOrdered) for (const keys of [a, b]) keys.sort()
  return a.every((key, i) => key === b[i])
}

const rowKey = (row: SqlRow): string => JSON.stringify(row.map(cellKey))

/** 3 and 3.0 are one value, as in SQLite; 3 and "3" are not. */
function cellKey(cell: SqlCell): string {
  if (cell === null) return 'null'
  if (typeof cell === 'string') return `text ${cell}`
  if (typeof cell === 'number') return `number ${cell === 0 ? 0 : Number(cell.toPrecision(SIGNIFICANT_DIGITS))}`
  if (typeof cell === 'boolean') return `number ${Number(cell)}`
  if ('integer' in cell) return `number ${cell.integer}`
  return 'real' in cell ? `number ${cell.real}` : `blob ${cell.blob}`
}
