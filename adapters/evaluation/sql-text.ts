// SQL read just far enough to judge it: one query and nothing else, and whether the order of its rows counts. SQLite does the rest.

export interface SqlWord {
  readonly text: string                   // a bare word in capitals, or one character of punctuation
  readonly depth: number                  // of parentheses
  readonly end: number                    // index after it
}

/** Comments, quoted names and strings, words, and every other character that is not white. */
const TOKEN = new RegExp([
  /--[^\n]*/, /\/\*[^]*?(?:\*\/|$)/, /'(?:[^']|'')*(?:'|$)/, /"(?:[^"]|"")*(?:"|$)/, /`(?:[^`]|``)*(?:`|$)/, /\[[^\]]*(?:\]|$)/,
  /[A-Za-z_]\w*/, /\S/,
].map(({ source }) => source).join('|'), 'g')
const QUERIES = ['SELECT', 'WITH', 'VALUES']

/** Bare words and punctuation outside of comments and quotes. */
export function* sqlWords(sql: string): Generator<SqlWord> {
  let depth = 0
  for (const { 0: text, index } of sql.matchAll(TOKEN)) {
    if (text.startsWith('--') || text.startsWith('/*')) continue
    if (text === ')') depth--
    const shown = /^['"`[]/.test(text) ? '?' : text.toUpperCase()
    yield { text: shown, depth, end: index + text.length }
    if (text === '(') depth++
  }
}

/** Why this is not one query, or undefined. Only a query may run: even a connection that cannot write can make files (VACUUM INTO). */
export function notOneQuery(sql: string): string | undefined {
  let first: string | undefined
  let ended = false
  for (const { text } of sqlWords(sql)) {
    if (ended && text !== ';') return 'more than one statement'
    if (text === ';') ended = first !== undefined
    else first ??= text
    if (first !== undefined && first !== '(' && !QUERIES.includes(first)) return `not a query: it begins with ${first.slice(0, 40)}`
  }
  return first === undefined ? 'no SQL' : undefined
}

/** The query orders its own rows, not only those of a sub-query. */
export function isOrdered(sql: string): boolean {
  let previous = ''
  for (const { text, depth } of sqlWords(sql)) {
    if (depth === 0 && text === 'BY' && previous === 'ORDER') return true
    previous = depth === 0 ? text : ''
  }
  return false
}

/** A model's answer as SQL: what stands in its first code fence, if there is one. */
export function sqlOfAnswer(answer: string): string {
  const fenced = /```(?:\w+)?\s*\n([^]*?)(?:```|$)/.exec(answer)?.[1]
  return (fenced ?? answer).trim()
}
