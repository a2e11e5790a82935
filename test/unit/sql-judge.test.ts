import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { SqlJudge, type SqlJudgeOptions } from '../../adapters/evaluation/sql-judge.js'
import { isOrdered, notOneQuery, sqlOfAnswer } from '../../adapters/evaluation/sql-text.js'
import { openSqlite } from '../../adapters/sqlite.js'
import { temporaryFolder } from './adapters-fixtures.js'

const SCHEMA = `
  CREATE TABLE city (name text, state text, population int, area double);
  INSERT INTO city VALUES ('wichita', 'kansas', 279272, 1.5), ('topeka', 'kansas', 115266, NULL), ('austin', 'texas', 345496, 2.5),
    ('big', 'none', 9223372036854775807, 0.1);
  CREATE TABLE piece (value double);
  INSERT INTO piece VALUES (0.1), (0.2), (0.3), (1e15), (-1e15);`

async function startJudge(t: Test, options: SqlJudgeOptions = {}) {
  const folder = temporaryFolder(t)
  const path = join(folder, 'cities.sqlite')
  const database = await openSqlite(path)
  database.exec(SCHEMA)
  database.close()
  const judge = new SqlJudge(options)
  t.teardown(() => judge.close())
  return { folder, path, judge, verdict: (expected: string, sql: string) => judge.judge(path, expected, sql) }
}

const NAMES = 'SELECT name FROM city'

t.test('the same rows in another order are right, unless the expected query orders them', async (t) => {
  const { verdict } = await startJudge(t)
  t.match(await verdict(NAMES, `${NAMES} ORDER BY population DESC`), { correct: true })
  t.match(await verdict(`${NAMES} ORDER BY population`, `${NAMES} ORDER BY population DESC`), { correct: false, reason: /4 rows/ })
  t.match(await verdict(`${NAMES} ORDER BY population`, `${NAMES} ORDER BY population ASC;`), { correct: true })
  t.match(await verdict('SELECT name FROM (SELECT * FROM city ORDER BY name)', NAMES), { correct: true },
    'the order of a sub-query is not that of the result')
})

t.test('names of columns do not count; their number, order and values do', async (t) => {
  const { verdict } = await startJudge(t)
  t.match(await verdict(NAMES, 'SELECT name AS n FROM city'), { correct: true })
  t.match(await verdict('SELECT name, state FROM city', 'SELECT state, name FROM city'), { correct: false })
  t.match(await verdict('SELECT name, name FROM city', NAMES), { correct: false }, 'two columns of one name are two columns')
  t.match(await verdict('SELECT state FROM city', 'SELECT DISTINCT state FROM city'), { correct: false }, 'a row twice is not a row once')
  t.match(await verdict('SELECT 1 WHERE 0', 'SELECT NULL'), { correct: false }, 'no row is not a row of NULL')
})

t.test('values are compared as SQLite compares them', async (t) => {
  const { verdict } = await startJudge(t)
  t.match(await verdict('SELECT 3', 'SELECT 3.0'), { correct: true })
  t.match(await verdict('SELECT 3', "SELECT '3'"), { correct: false })
  t.match(await verdict('SELECT sum(value) FROM piece WHERE value < 1e3 AND value > 0', 'SELECT 0.3 + 0.2 + 0.1'), { correct: true },
    'another last digit')
  t.match(await verdict('SELECT 0.1 + 0.2', 'SELECT 0.3'), { correct: true })
  t.match(await verdict('SELECT 1.00000001', 'SELECT 1.0'), { correct: false }, 'a difference that is no rounding')
  t.match(await verdict('SELECT max(population) FROM city', 'SELECT 9223372036854775806'), { correct: false }, 'all 64 bits count')
  t.match(await verdict("SELECT x'00ff'", "SELECT x'00fe'"), { correct: false })
  t.match(await verdict('SELECT 9e999', 'SELECT NULL'), { correct: false }, 'infinity is not NULL')
  t.match(await verdict('SELECT NULL', 'SELECT NULL'), { correct: true })
  t.match(await verdict(`${NAMES} WHERE state = "kansas"`, `${NAMES} WHERE state = 'kansas'`), { correct: true }, 'a string in double quotes')
})

t.test('SQL that does not run is wrong, and an expected query that does not run judges nothing', async (t) => {
  const { verdict } = await startJudge(t)
  t.match(await verdict(NAMES, 'SELECT a FROM nowhere'), { correct: false, reason: /no such table/ })
  t.match(await verdict(NAMES, ''), { correct: false, reason: 'no SQL' })
  t.match(await verdict('SELECT FROM', NAMES), { correct: null, reason: /the expected query fails/ })
})

t.test('nothing but one query runs: no writing, no other file, no second statement', async (t) => {
  const { folder, path, verdict } = await startJudge(t)
  const other = join(folder, 'other.sqlite')
  for (const sql of [
    'DELETE FROM city', 'DROP TABLE city', `VACUUM INTO '${other}'`, `ATTACH '${other}' AS o`, 'PRAGMA journal_mode = WAL',
    `${NAMES}; DELETE FROM city`, `/* SELECT */ DELETE FROM city`, `-- SELECT\nDELETE FROM city`, "SELECT ';' FROM city; DROP TABLE city",
    'WITH c AS (SELECT 1) DELETE FROM city', 'WITH c AS (SELECT 1) INSERT INTO city (name) SELECT * FROM c', 'BEGIN', 'CREATE TEMP TABLE x (y)',
    "SELECT load_extension('x')", "SELECT writefile('x', 'y')",
  ]) t.match(await verdict(NAMES, sql), { correct: false, reason: String }, sql)
  t.notOk(existsSync(other))
  const database = await openSqlite(path, { readOnly: true })
  t.match(database.prepare('SELECT count(*) AS n FROM city').get(), { n: 4 })
  database.close()
})

t.test('a query that hangs is ended, and the next one runs', async (t) => {
  const { verdict } = await startJudge(t, { timeoutMs: 300 })
  const started = performance.now()
  const endless = 'WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n'
  t.match(await verdict(NAMES, endless), { correct: false, reason: 'no result within 300 ms' })
  t.ok(performance.now() - started < 3_000)
  t.match(await verdict(NAMES, NAMES), { correct: true })
})

t.test('results of too many rows or bytes are refused, and memory is bounded', async (t) => {
  const { verdict } = await startJudge(t, { maxRows: 100, timeoutMs: 20_000 })
  const rows = (n: number) => `WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ${n}) SELECT x FROM n`
  t.match(await verdict(rows(100), rows(100)), { correct: true })
  t.match(await verdict(NAMES, rows(101)), { correct: false, reason: 'more than 100 rows' })
  t.match(await verdict(NAMES, 'SELECT hex(zeroblob(40000000))'), { correct: false })
  t.match(await verdict(NAMES, 'SELECT hex(zeroblob(900000000))'), { correct: false })
  const wide = `SELECT x, hex(zeroblob(500000)) FROM (${rows(40)})`
  t.match(await verdict(NAMES, wide), { correct: false, reason: /a result of more than \d+ bytes/ })
  t.match(await verdict(NAMES, 'SELECT length(hex(zeroblob(150000000)))'), { correct: false, reason: /out of memory/ })
  t.match(await verdict(NAMES, NAMES), { correct: true }, 'the next query runs')
})

t.test('judgements asked for at once are each right', async (t) => {
  const { verdict } = await startJudge(t, { timeoutMs: 1_000 })
  const verdicts = await Promise.all(Array.from({ length: 40 }, (_, i) => verdict(`SELECT ${i % 7}`, `SELECT ${i % 5}`)))
  t.same(verdicts.map(({ correct }) => correct), Array.from({ length: 40 }, (_, i) => i % 7 === i % 5))
})

t.test('a database that is not there, or is none', async (t) => {
  const { folder, judge } = await startJudge(t)
  await t.rejects(judge.run(join(folder, 'none.sqlite'), NAMES), { code: 'INVALID_REQUEST' })
  await writeFile(join(folder, 'text.sqlite'), 'this is not a database, although it is long enough to be read as one'.repeat(20))
  t.match(await judge.run(join(folder, 'text.sqlite'), NAMES), { error: /not a database/ })
})

t.test('one query is told from everything else', async (t) => {
  for (const sql of ['SELECT 1', ' select 1 ; ', '(SELECT 1)', '/* a */ WITH a AS (SELECT 1) SELECT * FROM a;;', 'VALUES (1)', "SELECT ';'"]) {
    t.equal(notOneQuery(sql), undefined, sql)
  }
  for (const sql of ['', ';', '-- nothing', 'SELECT 1; SELECT 2', 'EXPLAIN SELECT 1', 'the answer is SELECT 1', "'SELECT'"]) {
    t.type(notOneQuery(sql), 'string', sql)
  }
})

t.test('ORDER BY counts at the top only', async (t) => {
  t.ok(isOrdered('select a from b order by a'))
  t.ok(isOrdered('SELECT a FROM b ORDER /* by name */ BY a LIMIT 1'))
  t.notOk(isOrdered('SELECT a FROM (SELECT a FROM b ORDER BY a)'))
  t.notOk(isOrdered("SELECT 'ORDER BY a'"))
  t.notOk(isOrdered('SELECT row_number() OVER (ORDER BY a) FROM b'))
})

t.test('SQL is taken out of a code fence', async (t) => {
  t.equal(sqlOfAnswer('Here it is:\n```sql\nSELECT 1;\n```\nBye'), 'SELECT 1;')
  t.equal(sqlOfAnswer(' SELECT 1 '), 'SELECT 1')
  t.equal(sqlOfAnswer('```\nSELECT 2'), 'SELECT 2')
})
