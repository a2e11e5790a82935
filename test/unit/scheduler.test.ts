import t from 'tap'
import { chainSeed } from '../../engine/kv-blocks.js'
import type { Sequence } from '../../engine/sequence.js'
import { Driver, GREEDY, randomFrom, sequence } from './drive.js'
import { expectedTokens } from './fake-native.js'

const prompt = (n: number, salt = 0) => Array.from({ length: n }, (_, i) => 10 + ((i * 13 + salt * 31) % 400))
const expected = (s: Sequence, adapterPath: string | null = null, window = 8) =>
  expectedTokens([...s.promptIds], s.outputIds.length, { sampling: s.sampling, adapterPath, window })

t.test('one sequence gets the tokens that its whole context gives', async (t) => {
  for (const nPrompt of [1, 3, 4, 5, 31, 33, 100]) {
    const driver = new Driver()
    const s = sequence(prompt(nPrompt), { maxTokens: 20 })
    driver.scheduler.add([s])
    await driver.run()
    t.equal(s.outputIds.length, 20)
    t.same(s.outputIds, expected(s), `prompt of ${nPrompt}`)
    t.equal(driver.blocksUsed, 0)
  }
})

t.test('no step exceeds its token budget, and decoding goes on in every step of a long prefill', async (t) => {
  const driver = new Driver({ maxBatchTokens: 16 })
  const short = sequence(prompt(4), { maxTokens: 30 })
  driver.scheduler.add([short])
  for (let i = 0; i < 4; i++) await driver.turn()
  const long = sequence(prompt(120, 1), { maxTokens: 2 })
  driver.scheduler.add([long])
  let turns = 0
  const before = short.outputIds.length
  while (long.outputIds.length === 0) {
    await driver.turn()
    turns++
  }
  t.ok(turns >= 8)
  t.ok(short.outputIds.length - before >= turns - 1, 'one token a step')
  await driver.run()
  t.ok(driver.model.largestStep <= 16)
  t.same(long.outputIds, expected(long))
  t.same(short.outputIds, expected(short))
})

t.test('a batch of 16 gives each sequence the tokens it gets alone', async (t) => {
  const driver = new Driver({ maxNumSeqs: 16, nGlobalBlocks: 400, nSlidingBlocks: 200 })
  const all = Array.from({ length: 16 }, (_, i) => sequence(prompt(5 + i * 3, i), {
    maxTokens: 12, sampling: { ...GREEDY, temperature: i % 2, seed: BigInt(i), presencePenalty: i % 3 === 0 ? 1 : 0 },
  }))
  for (const s of all) driver.scheduler.add([s])
  await driver.run()
  for (const s of all) t.same(s.outputIds, expected(s))
})

t.test('a second request with the same prompt computes only what is not cached, with the same tokens', async (t) => {
  const driver = new Driver()
  const first = sequence(prompt(50), { maxTokens: 10 })
  driver.scheduler.add([first])
  await driver.run()
  const second = sequence(prompt(50), { maxTokens: 10 })
  driver.scheduler.add([second])
  await driver.run()
  t.equal(second.cachedTokens, 48)
  t.equal(driver.scheduler.prefixHits, 48)
  t.same(second.outputIds, first.outputIds)
})

t.test('a follow-up turn finds the answer of the turn before in the cache', async (t) => {
  const driver = new Driver()
  const first = sequence(prompt(21), { maxTokens: 12 })
  driver.scheduler.add([first])
  await driver.run()
  const next = sequence([...first.promptIds, ...first.outputIds, 77, 78], { maxTokens: 5 })
  driver.scheduler.add([next])
  await driver.run()
  t.equal(next.cachedTokens, 32)
  t.same(next.outputIds, expected(next))
})

t.test('prompt log-probabilities compute the whole prompt, cached or not', async (t) => {
  const driver = new Driver()
  driver.scheduler.add([sequence(prompt(20))])
  await driver.run()
  const scored = sequence(prompt(20), { promptLogprobs: 0 })
  driver.scheduler.add([scored])
  await driver.run()
  t.equal(scored.cachedTokens, 0)
  t.same(scored.outputIds, expected(scored))
})

t.test('a scored prompt takes no more outputs than the device has, and stops nobody', async (t) => {
  const driver = new Driver({ maxNumSeqs: 4, maxBatchTokens: 32 })
  const others = [1, 2].map((i) => sequence(prompt(4, i), { maxTokens: 30 }))
  for (const s of others) driver.scheduler.add([s])
  for (let i = 0; i < 3; i++) await driver.turn()
  const scored = sequence(prompt(30), { promptLogprobs: 2, maxTokens: 2 })
  driver.scheduler.add([scored])
  const before = others[0]!.outputIds.length
  for (let i = 0; i < 10; i++) await driver.turn()
  t.equal(others[0]!.outputIds.length, before + 10)
  await driver.run()
  for (const s of [...others, scored]) t.same(s.outputIds, expected(s))
})

t.test('choices of one prompt compute its full blocks once, each as if alone', async (t) => {
  const driver = new Driver({ nGlobalBlocks: 200, nSlidingBlocks: 200 })
  const seeds = [1n, 2n, 3n, 4n]
  const choices = seeds.map((seed, index) => sequence(prompt(41), { index, maxTokens: 9, sampling: { ...GREEDY, temperature: 1, seed } }))
  driver.scheduler.add(choices)
  let nComputed = 0
  driver.model.keepPlans = true
  await driver.run()
  for (const plan of driver.model.plans) nComputed += plan.positions.filter((position) => position < 41).length
  t.equal(nComputed, 41 + 3)
  for (const s of choices) t.same(s.outputIds, expected(s))
  t.equal(new Set(choices.map((s) => s.outputIds.join())).size, 4)
})

t.test('choices go on when the first one ends before the prompt is computed', async (t) => {
  const driver = new Driver({ maxBatchTokens: 8 })
  const choices = [0, 1].map((index) => sequence(prompt(41), { index, maxTokens: 4 }))
  driver.scheduler.add(choices)
  await driver.turn()
  driver.scheduler.finish(choices[0]!)
  await driver.run()
  t.same(choices[1]!.outputIds, expected(choices[1]!))
  t.equal(driver.blocksUsed, 0)
})

t.test('when blocks run out the latest is preempted, recomputed, and loses no token', async (t) => {
  const driver = new Driver({ nGlobalBlocks: 16, nSlidingBlocks: 40 })
  const all = [0, 1, 2].map((i) => sequence(prompt(8, i), { maxTokens: 40, cacheSeed: i === 0 ? null : chainSeed('b', '', String(i)) }))
  for (const s of all) driver.scheduler.add([s])
  await driver.run()
  t.ok(driver.scheduler.preemptions > 0)
  t.equal(all[0]!.preemptions, 0, 'the first to come is never preempted')
  for (const s of all) {
    t.equal(s.outputIds.length, 40)
    t.same(s.outputIds, expected(s))
  }
  t.equal(driver.blocksUsed, 0)
})

t.test('an aborted sequence frees its blocks and slot before the next plan', async (t) => {
  const driver = new Driver({ maxNumSeqs: 1 })
  const first = sequence(prompt(30), { maxTokens: 50 })
  const second = sequence(prompt(30, 1), { maxTokens: 5 })
  driver.scheduler.add([first])
  driver.scheduler.add([second])
  for (let i = 0; i < 5; i++) await driver.turn()
  t.equal(second.status, 'waiting')
  driver.scheduler.finish(first)
  t.equal(driver.blocksUsed, 0)
  const rows = driver.scheduler.plan()
  t.equal(rows[0]?.sequence, second)
})

t.test('a paused sequence stops, lets others run, and goes on with the same tokens', async (t) => {
  const driver = new Driver({ maxNumSeqs: 1 })
  const slow = sequence(prompt(10), { maxTokens: 30 })
  const other = sequence(prompt(10, 1), { maxTokens: 10 })
  driver.scheduler.add([slow])
  for (let i = 0; i < 6; i++) await driver.turn()
  slow.paused = true
  driver.scheduler.add([other])
  await driver.run()
  t.same(other.outputIds, expected(other))
  t.equal(other.status, 'finished')
  t.ok(slow.outputIds.length < 30)
  t.equal(driver.scheduler.nDeferred, 1)
  slow.paused = false
  await driver.run()
  t.equal(slow.outputIds.length, 30)
  t.same(slow.outputIds, expected(slow))
})

t.test('a state of NaN leaves the cache with its sequence', async (t) => {
  const driver = new Driver()
  const sick = sequence(prompt(20))
  driver.scheduler.add([sick])
  await driver.turn()
  driver.scheduler.poison(sick)
  await driver.run()
  const next = sequence(prompt(20))
  driver.scheduler.add([next])
  await driver.run()
  t.equal(next.cachedTokens, 0)
})

t.test('adapters share steps and the pool, and never states', async (t) => {
  const driver = new Driver({ nGlobalBlocks: 200, nSlidingBlocks: 200 })
  const paths = ['one', 'two', 'three']
  await Promise.all(paths.map((path, slot) => driver.model.loadAdapter(slot, path)))
  const all = [...paths, null, ...paths, null].map((path) => ({
    path,
    s: sequence(prompt(30), {
      adapterSlot: path === null ? -1 : paths.indexOf(path), flow: path ?? '', maxTokens: 10, cacheSeed: chainSeed('b', path ?? '', ''),
    }),
  }))
  for (const { s } of all) driver.scheduler.add([s])
  await driver.run()
  for (const { s, path } of all) t.same(s.outputIds, expected(s, path))
  t.equal(new Set(all.map(({ s }) => s.outputIds.join())).size, 4)
})

t.test('with one busy adapter and 50 quiet ones, a quiet request is admitted within the stated bound', async (t) => {
  const driver = new Driver({ maxNumSeqs: 4, nGlobalBlocks: 400, nSlidingBlocks: 200, maxBatchTokens: 64 })
  const busy = Array.from({ length: 300 }, (_, i) => sequence(prompt(20, i), { flow: 'busy', maxTokens: 4 }))
  for (const s of busy) driver.scheduler.add([s])
  for (let i = 0; i < 10; i++) await driver.turn()
  const admitted = () => busy.filter((s) => s.status !== 'waiting').length
  const before = admitted()
  const quiet = Array.from({ length: 50 }, (_, i) => sequence(prompt(20, i), { flow: `quiet ${i}`, maxTokens: 4 }))
  for (const s of quiet) driver.scheduler.add([s])
  while (quiet.some((s) => s.status === 'waiting')) await driver.turn()
  const cost = 24
  t.ok((admitted() - before) * cost <= 2 * 512 + cost, `${admitted() - before} busy requests went first`)
  t.ok(busy.some((s) => s.status === 'waiting'))
})

t.test('a context shorter than the window needs blocks for the context only', async (t) => {
  const driver = new Driver({ window: 200, maxModelLen: 40, nGlobalBlocks: 10, nSlidingBlocks: 10, maxBatchTokens: 32 })
  const all = [0, 1, 2].map((i) => sequence(prompt(25, i), { maxTokens: 15 }))
  for (const s of all) driver.scheduler.add([s])
  await driver.run()
  for (const s of all) t.same(s.outputIds, expectedTokens([...s.promptIds], 15, { sampling: GREEDY, window: 200 }))
})

t.test('a sliding pool that does not hold one window is refused', async (t) => {
  t.throws(() => new Driver({ window: 100, nSlidingBlocks: 10 }), { code: 'OUT_OF_MEMORY', message: /kv-cache-bytes/ })
})

t.test('random workloads: blocks are conserved, rules hold, every request ends with its own tokens', async (t) => {
  for (let seed = 1; seed <= 12; seed++) {
    const random = randomFrom(seed)
    const driver = new Driver({
      nGlobalBlocks: 30 + random(60), nSlidingBlocks: 24 + random(60), maxNumSeqs: 1 + random(10), maxBatchTokens: 12 + random(40),
      maxModelLen: 110, window: 3 + random(10),
    })
    await driver.model.loadAdapter(0, 'an adapter')
    const live = new Set<Sequence>()
    const all: Sequence[] = []
    for (let turn = 0; turn < 400; turn++) {
      if (random(3) === 0) {
        const onAdapter = random(3) === 0
        const n = 1 + (random(4) === 0 ? random(3) : 0)
        const ids = prompt(1 + random(60), random(6))
        const maxTokens = 1 + random(40)
        const choices = Array.from({ length: n }, (_, index) => sequence(ids, {
          index, maxTokens, adapterSlot: onAdapter ? 0 : -1, flow: onAdapter ? 'an adapter' : '',
          promptLogprobs: index === 0 && random(4) === 0 ? 0 : -1,
          cacheSeed: random(8) === 0 ? null : chainSeed('b', onAdapter ? 'an adapter' : '', ''),
          sampling: { ...GREEDY, temperature: random(2), seed: BigInt(random(1000)), presencePenalty: random(2) },
          stopIds: new Set([random(512), random(512), random(512)]),
        }))
        driver.scheduler.add(choices)
        for (const s of choices) {
          live.add(s)
          all.push(s)
        }
      }
      for (const s of live) {
        if (random(200) === 0) driver.scheduler.finish(s)
        if (random(40) === 0) s.paused = true
        else if (random(10) === 0) s.paused = false
        if (s.status === 'finished') live.delete(s)
      }
      await driver.turn()
      checkBlocks(driver)
    }
    for (const s of live) s.paused = false
    await driver.run()
    const wrong = all.filter((s) => expected(s, s.flow || null, driver.model.info.slidingWindow).join() !== s.outputIds.join())
    const { preemptions, prefixHits } = driver.scheduler
    const seen = `${all.length} sequences, ${driver.model.nSteps} steps, ${preemptions} preemptions, ${prefixHits} cached tokens`
    t.equal(wrong.length, 0, `seed ${seed}: ${seen}`)
    t.ok(all.every((s) => s.status === 'finished'), 'every request ended')
    t.equal(driver.blocksUsed, 0)
    t.equal(driver.scheduler.nWaiting, 0)
  }
})

/** Every block in use is in the table of a running sequence, and the other way round. */
function checkBlocks(driver: Driver): void {
  const { running, kv } = driver.scheduler
  for (const pool of ['global', 'sliding'] as const) {
    const held = new Set(running.flatMap((s) => s.kv![pool]))
    if (held.size !== kv[pool].used) throw new Error(`${pool}: ${held.size} blocks in tables, ${kv[pool].used} in use`)
    for (const block of held) if (!kv[pool].isReferenced(block)) throw new Error(`${pool} block ${block} is in a table without a reference`)
  }
  const slots = new Set(running.map((s) => s.slot))
  if (slots.size !== running.length) throw new Error('two sequences share a slot')
}
