import t from 'tap'
import { BlockPool } from '../../engine/block-pool.js'
import { BlockKeys, KvBlocks, chainSeed } from '../../engine/kv-blocks.js'

const SHAPE = { blockTokens: 4, window: 8, nGlobalBlocks: 32, nSlidingBlocks: 16 }
const tokens = (n: number, salt = 0) => Array.from({ length: n }, (_, i) => i * 7 + salt)
const keysOf = (ids: readonly number[], seed = 'seed') => new BlockKeys(seed, SHAPE.blockTokens, (position) => ids[position]!)

/** Runs a whole prompt through, in one chunk, and gives its blocks back. */
function compute(kv: KvBlocks, ids: readonly number[], seed = 'seed'): number {
  const keys = keysOf(ids, seed)
  const match = kv.match(keys, ids.length)
  const table = kv.open(keys, match)
  if (!kv.grow(table, match.nTokens, ids.length)) throw new Error('does not fit')
  kv.publish(table, ids.length)
  kv.close(table)
  return match.nTokens
}

t.test('a cached block stays findable without references until the pool runs out, the oldest going first', async (t) => {
  const pool = new BlockPool(3)
  const blocks = ['a', 'b', 'c'].map((key) => {
    const block = pool.allocate()
    pool.publish(block, key)
    return block
  })
  for (const block of blocks) pool.release(block)
  t.equal(pool.available, 3)
  t.equal(pool.allocate(), blocks[0])
  t.equal(pool.lookup('a'), undefined)
  t.equal(pool.lookup('b'), blocks[1])
  pool.retain(blocks[1]!)
  t.equal(pool.allocate(), blocks[2], 'a held block is never given away')
  t.equal(pool.available, 0)
  t.throws(() => pool.allocate(), /no block is free/)
})

t.test('releasing a block twice is an error', async (t) => {
  const pool = new BlockPool(1)
  const block = pool.allocate()
  pool.release(block)
  t.throws(() => pool.release(block), /twice/)
})

t.test('a forgotten block is free but not findable', async (t) => {
  const pool = new BlockPool(1)
  const block = pool.allocate()
  pool.publish(block, 'k')
  pool.release(block)
  pool.forget(block)
  t.equal(pool.lookup('k'), undefined)
  t.equal(pool.available, 1)
})

t.test('a prefix hit covers full blocks only and leaves a token to compute', async (t) => {
  const kv = new KvBlocks(SHAPE)
  t.equal(compute(kv, tokens(10)), 0)
  for (const [n, hit] of [[4, 0], [5, 4], [8, 4], [9, 8], [10, 8], [11, 8]] as const) {
    t.equal(kv.match(keysOf(tokens(n)), n).nTokens, hit, `${n} tokens`)
  }
})

t.test('base, adapter version and tenant each keep their states apart', async (t) => {
  const kv = new KvBlocks(SHAPE)
  const seeds = [['base', '', ''], ['base', 'v1', ''], ['base', 'v2', ''], ['base', '', 'tenant'], ['other', '', '']] as const
  for (const [base, version, salt] of seeds) t.equal(compute(kv, tokens(10), chainSeed(base, version, salt)), 0)
  for (const [base, version, salt] of seeds) t.equal(compute(kv, tokens(10), chainSeed(base, version, salt)), 8)
})

t.test('the same block of tokens after another beginning is another block', async (t) => {
  const kv = new KvBlocks(SHAPE)
  compute(kv, [...tokens(4), ...tokens(8, 100)])
  t.equal(compute(kv, [...tokens(4, 50), ...tokens(8, 100)]), 0)
})

t.test('sliding blocks leave once no later query sees them, and a sequence holds no more than its window and chunk', async (t) => {
  const kv = new KvBlocks(SHAPE)
  const ids = tokens(100)
  const table = kv.open(null, kv.match(null, ids.length))
  for (let position = 0; position < 100; position++) {
    t.ok(kv.grow(table, position, position + 1))
    const first = table.slidingFirst * SHAPE.blockTokens
    t.ok(first <= Math.max(0, position - SHAPE.window + 1) && first + SHAPE.blockTokens > position - SHAPE.window + 1)
  }
  t.equal(kv.global.used, 25)
  t.ok(kv.sliding.used <= 3)
  kv.close(table)
  t.equal(kv.global.used + kv.sliding.used, 0)
})

t.test('where the window before the longest hit is gone, a shorter prefix with a whole window is taken', async (t) => {
  const kv = new KvBlocks(SHAPE)
  const ids = tokens(41)
  compute(kv, ids)
  const keys = keysOf(ids)
  t.equal(kv.match(keys, ids.length).nTokens, 40)
  kv.sliding.forget(kv.sliding.lookup(keys.at(9))!)
  t.equal(kv.match(keys, ids.length).nTokens, 36)
  kv.sliding.forget(kv.sliding.lookup(keys.at(6))!)
  t.equal(kv.match(keys, ids.length).nTokens, 36, 'blocks 7 and 8 hold the window before 36')
  kv.sliding.forget(kv.sliding.lookup(keys.at(8))!)
  t.equal(kv.match(keys, ids.length).nTokens, 24)
  for (let i = 0; i < 9; i++) {
    const block = kv.sliding.lookup(keys.at(i))
    if (block !== undefined) kv.sliding.forget(block)
  }
  t.equal(kv.match(keys, ids.length).nTokens, 0)
})

t.test('growing is all or nothing', async (t) => {
  const kv = new KvBlocks({ ...SHAPE, nGlobalBlocks: 2 })
  const table = kv.open(null, kv.match(null, 9))
  t.notOk(kv.grow(table, 0, 9))
  t.equal(kv.global.used + kv.sliding.used, 0)
  t.ok(kv.grow(table, 0, 8))
})

t.test('matched blocks that nobody holds count as taken when asking whether a sequence fits', async (t) => {
  const kv = new KvBlocks({ ...SHAPE, nGlobalBlocks: 4 })
  compute(kv, tokens(9))
  const match = kv.match(keysOf(tokens(16)), 16)
  t.equal(match.nTokens, 8)
  t.ok(kv.canOpen(match, 16, 4))
  const other = kv.open(null, kv.match(null, 4))
  t.ok(kv.grow(other, 0, 4))
  t.notOk(kv.canOpen(match, 16, 4))
})
