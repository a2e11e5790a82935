import t, { type Test } from 'tap'
import type { GenerateRequest } from '../../engine/api.js'
import { createLocalEngine } from '../../engine/index.js'
import type { LocalEngine } from '../../engine/engine.js'
import { ask, collect, isEmpty, newId } from '../unit/engine-suite.js'
import { randomFrom } from '../unit/drive.js'
import { embedded } from './engine-options.js'

const QUESTIONS = [
  'List all employees in the Sales department.', 'How many orders are there?', 'What is the average price of the products?',
  'Show the names of customers from Berlin.', 'Count the cities.', 'Which product is the most expensive?', 'Hello!', 'Sum the salaries by department.',
]
const question = (i: number): Partial<GenerateRequest> => ({
  prompt: { messages: [{ role: 'system', content: `Schema ${i}: ${'a table with columns, '.repeat(i % 5)}` }, { role: 'user', content: QUESTIONS[i % QUESTIONS.length]! }] },
})
const WAYS: readonly (readonly [string, Partial<GenerateRequest>])[] = [
  ['greedy', { sampling: { temperature: 0 } }],
  ['seeded', { sampling: { temperature: 1, topK: 40, topP: 0.95, seed: 1234 } }],
  ['seeded, with penalties and a bias', {
    sampling: { temperature: 0.8, topK: 0, topP: 1, minP: 0.02, seed: 7, repetitionPenalty: 1.2, presencePenalty: 0.5, frequencyPenalty: 0.3, logitBias: [[20, 2], [30, -5]] },
  }],
]

t.setTimeout(200_000)

async function open(t: Test, fields: Parameters<typeof embedded>[0] = {}): Promise<LocalEngine> {
  const engine = await createLocalEngine(embedded(fields))
  t.teardown(() => engine.close())
  return engine
}

t.test('the same request gives the same bytes alone, in a batch of 16 others, in other chunks, after a prefix hit and after a preemption', async (t) => {
  const roomy = await open(t)
  const chunked = await open(t, { maxBatchTokens: 24, prefixCache: false })
  for (const [name, way] of WAYS) {
    const request = { ...question(3), maxTokens: 48, ignoreEos: true, ...way }
    const alone = (await ask(roomy, { ...request, cacheSalt: name })).choices[0]!
    t.equal(alone.tokenIds.length, 48)
    const others = Array.from({ length: 16 }, (_, i) => ask(roomy, { ...question(i), maxTokens: 20 + i, ...WAYS[i % 3]![1] }))
    const among = ask(roomy, { ...request, cacheSalt: `${name}, among others` })
    await Promise.all(others)
    const again = await ask(roomy, { ...request, cacheSalt: name })
    t.ok(again.started.cachedTokens > 0, 'a prefix hit')
    const pieces = await ask(chunked, request)
    for (const [how, answer] of [['among others', await among], ['after a prefix hit', again], ['in other chunks', pieces]] as const) {
      t.same(answer.choices[0]!.tokenIds, alone.tokenIds, `${name}, ${how}`)
      t.equal(answer.choices[0]!.text, alone.text)
    }
  }
})

t.test('preempted requests lose nothing', async (t) => {
  const roomy = await open(t)
  // Just more than one sequence of 512 tokens needs.
  const tight = await open(t, { kvCacheBytes: 5 << 20, maxModelLen: 512, maxNumSeqs: 8 })
  const requests = Array.from({ length: 8 }, (_, i) => ({ ...question(i), maxTokens: 200, ignoreEos: true, ...WAYS[i % 3]![1] }))
  const expected = await Promise.all(requests.map((request) => ask(roomy, request)))
  const found = await Promise.all(requests.map((request) => ask(tight, request)))
  t.ok((await tight.stats()).preemptions > 0, `${(await tight.stats()).preemptions} preemptions with ${tight.info.nGlobalBlocks} blocks`)
  found.forEach((answer, i) => t.same(answer.choices[0]!.tokenIds, expected[i]!.choices[0]!.tokenIds))
})

t.test('n choices are those of n requests', async (t) => {
  const engine = await open(t)
  const request = { ...question(2), maxTokens: 16, sampling: { temperature: 1, seed: 50 } }
  const { choices } = await ask(engine, { ...request, n: 4 })
  for (let i = 0; i < 4; i++) {
    const single = await ask(engine, { ...request, sampling: { temperature: 1, seed: 50 + i } })
    t.same(choices[i]!.tokenIds, single.choices[0]!.tokenIds)
  }
})

t.test('log-probabilities of a prompt are those that its tokens got when they were sampled', async (t) => {
  const engine = await open(t)
  const { started, choices: [choice], events } = await ask(engine, { ...question(1), maxTokens: 24, logprobs: 5, sampling: { temperature: 0 } })
  const sampled = events.flatMap((event) => (event.type === 'delta' ? event.logprobs! : []))
  t.ok(sampled.every(({ tokenId, logprob, top }) => top[0]!.tokenId === tokenId && top[0]!.logprob === logprob))
  const all = [...started.promptTokenIds, ...choice!.tokenIds]
  const scored = await ask(engine, { prompt: { tokenIds: all }, maxTokens: 0, promptLogprobs: 5 })
  const tail = scored.started.promptLogprobs!.slice(started.promptTokenIds.length)
  t.same(tail.map((entry) => entry!.logprob), sampled.map((entry) => entry.logprob), 'the same bits')
  t.same(tail.map((entry) => entry!.top.map(({ tokenId }) => tokenId)), sampled.map((entry) => entry.top.map(({ tokenId }) => tokenId)))
})

t.test('stop strings cut the text that the same request gives without them', async (t) => {
  const engine = await open(t)
  const request = { ...question(0), maxTokens: 40, ignoreEos: true, sampling: { temperature: 0 } }
  const { text } = (await ask(engine, request)).choices[0]!
  for (let at = 2; at + 5 < text.length; at += 9) {
    const stop = text.slice(at, at + 5)
    if (/\ufffd/.test(stop)) continue
    const { choices: [cut] } = await ask(engine, { ...request, stop: [stop] })
    t.equal(cut!.text, text.slice(0, text.indexOf(stop)))
    t.equal(cut!.finished.stopReason, stop)
  }
})

t.test('the longest prompt that fits is answered, one more is refused', async (t) => {
  const engine = await open(t, { maxModelLen: 300 })
  const tokenIds = (n: number) => Array.from({ length: n }, (_, i) => 10 + (i * 37) % 1000)
  t.equal(engine.info.maxModelLen, 300)
  t.equal((await ask(engine, { prompt: { tokenIds: tokenIds(299) }, maxTokens: undefined })).choices[0]!.tokenIds.length, 1)
  await t.rejects(ask(engine, { prompt: { tokenIds: tokenIds(300) }, maxTokens: undefined }), { code: 'CONTEXT_LENGTH_EXCEEDED' })
})

t.test('100 random drops leave no block and no request', async (t) => {
  const engine = await open(t, { maxQueue: 200 })
  const random = randomFrom(5)
  await Promise.all(Array.from({ length: 100 }, async (_, i) => {
    let left = 1 + random(12)
    const tokenIds = Array.from({ length: 1 + random(40) }, (_, j) => 10 + (j * 31 + i % 5) % 1000)
    const request: GenerateRequest = { id: newId(), prompt: { tokenIds }, maxTokens: 1 + random(30), ignoreEos: true, n: 1 + random(2) }
    if (random(4) === 0) return collect(engine.generate(request, AbortSignal.timeout(random(2000)))).catch(() => {})
    for await (const _event of engine.generate(request)) if (--left === 0) break
    return undefined
  }))
  t.ok(await isEmpty(engine))
})
