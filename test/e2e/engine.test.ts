import t, { type Test } from 'tap'
import type { GenerateRequest } from '../../engine/api.js'
import { createLocalEngine } from '../../engine/index.js'
import type { LocalEngine } from '../../engine/engine.js'
import { type Answer, ask, collect, isEmpty, newId } from '../unit/engine-suite.js'
import { randomFrom } from '../unit/drive.js'
import { said, saidIn, type SaidToken } from '../../scripts/same-answer.js'
import { PROOF, isCuda, sameAnswers, type Comparison } from '../device.js'
import { embedded } from './engine-options.js'

const QUESTIONS = [
  'List all employees in the Sales department.', 'How many orders are there?', 'What is the average price of the products?',
  'Show the names of customers from Berlin.', 'Count the cities.', 'Which product is the most expensive?', 'Hello!',
  'Sum the salaries by department.',
]
const question = (i: number): Partial<GenerateRequest> => ({
  prompt: {
    messages: [
      { role: 'system', content: `Schema ${i}: ${'a table with columns, '.repeat(i % 5)}` },
      { role: 'user', content: QUESTIONS[i % QUESTIONS.length]! },
    ],
  },
})
const WAYS: readonly (readonly [string, Partial<GenerateRequest>])[] = [
  ['greedy', { sampling: { temperature: 0 } }],
  ['seeded', { sampling: { temperature: 1, topK: 40, topP: 0.95, seed: 1234 } }],
  ['seeded, with penalties and a bias', {
    sampling: { temperature: 0.8, topK: 0, topP: 1, minP: 0.02, seed: 7, repetitionPenalty: 1.2, presencePenalty: 0.5,
      frequencyPenalty: 0.3, logitBias: [[20, 2], [30, -5]] },
  }],
]

t.setTimeout(200_000)

async function open(t: Test, fields: Parameters<typeof embedded>[0] = {}): Promise<LocalEngine> {
  const engine = await createLocalEngine(embedded(fields))
  t.teardown(() => engine.close())
  return engine
}

t.test('the same request gives the same bytes alone, in a batch of 16 others, in other chunks and after a prefix hit', async (t) => {
  const roomy = await open(t)
  const chunked = await open(t, { maxBatchTokens: 24, prefixCache: false })
  const comparisons: Comparison[] = []
  for (const [name, way] of WAYS) {
    const request = { ...question(3), maxTokens: 48, ignoreEos: true, ...PROOF, ...way }
    const alone = await ask(roomy, { ...request, cacheSalt: name })
    t.equal(alone.choices[0]!.tokenIds.length, 48)
    const others = Array.from({ length: 16 }, (_, i) => ask(roomy, { ...question(i), maxTokens: 20 + i, ...WAYS[i % 3]![1] }))
    const among = ask(roomy, { ...request, cacheSalt: `${name}, among others` })
    await Promise.all(others)
    const again = await ask(roomy, { ...request, cacheSalt: name })
    t.ok(again.started.cachedTokens > 0, 'a prefix hit')
    const pieces = await ask(chunked, request)
    for (const [how, answer] of [['among others', await among], ['after a prefix hit', again], ['in other chunks', pieces]] as const) {
      const isGreedy = name === 'greedy'
      comparisons.push({ what: `${name}, ${how}`, found: saidIn(answer.events), expected: saidIn(alone.events), isGreedy })
      if (!isCuda) t.equal(answer.choices[0]!.text, alone.choices[0]!.text)
    }
  }
  sameAnswers(t, comparisons)
})

t.test('requests of every kind, preempted, dropped and sharing prefixes, give the bytes they give alone', async (t) => {
  // Room for little more than one sequence of 256 tokens.
  const tight = await open(t, { kvCacheBytes: 2 << 20, maxModelLen: 256, maxNumSeqs: 12, maxBatchTokens: 40 })
  const alone = await open(t, { maxNumSeqs: 1, maxBatchTokens: 512, prefixCache: false })
  const random = randomFrom(2)
  const requests = Array.from({ length: 60 }, () => randomRequest(random))
  const answers = await Promise.all(requests.map(async (request, i) => {
    if (i % 6 !== 0) return ask(tight, request)
    for await (const event of tight.generate({ id: newId(), ...request } as GenerateRequest)) if (event.type === 'delta') break
    return undefined
  }))
  const { preemptions, prefixHits } = await tight.stats()
  t.ok(preemptions > 0 && prefixHits > 0, `${preemptions} preemptions, ${prefixHits} cached tokens`)
  t.ok(await isEmpty(tight))
  const comparisons: Comparison[] = []
  for (const [i, answer] of answers.entries()) {
    if (answer === undefined) continue
    const single = await ask(alone, { ...requests[i]!, n: 1 })
    const isGreedy = requests[i]!.sampling!.temperature === 0
    comparisons.push({ what: `request ${i}`, found: saidIn(answer.events), expected: saidIn(single.events), isGreedy })
    comparisons.push({ what: `prompt ${i}`, found: promptLogprobs(answer), expected: promptLogprobs(single) })
  }
  sameAnswers(t, comparisons)
})

function randomRequest(random: (n: number) => number): Partial<GenerateRequest> {
  const beginning = random(5)
  const nPrompt = 1 + random(120)
  return {
    prompt: { tokenIds: Array.from({ length: nPrompt },
      (_, i) => 10 + (i * 31 + beginning * 7 + (i > nPrompt - 4 ? random(50) : 0)) % 2000) },
    maxTokens: 1 + random(50),
    ignoreEos: true,
    n: 1 + (random(4) === 0 ? random(3) : 0),
    logprobs: random(3) === 0 ? random(4) : undefined,
    ...PROOF,
    promptLogprobs: random(5) === 0 ? 1 : undefined,
    sampling: random(2) === 0 ? { temperature: 0 }
      : { temperature: 1, topK: 40, topP: 0.9, seed: random(1e6), repetitionPenalty: 1 + random(2) / 4 },
  }
}

/** The prompt's own log-probabilities, where they were asked for. */
function promptLogprobs({ started }: Answer): SaidToken[] {
  return (started.promptLogprobs ?? []).map((entry, i) => said(started.promptTokenIds[i]!, entry)).slice(1)
}

t.test('n choices are those of n requests', async (t) => {
  const engine = await open(t)
  const request = { ...question(2), maxTokens: 16, ...PROOF, sampling: { temperature: 1, seed: 50 } }
  const { events } = await ask(engine, { ...request, n: 4 })
  const comparisons: Comparison[] = []
  for (let i = 0; i < 4; i++) {
    const single = await ask(engine, { ...request, sampling: { temperature: 1, seed: 50 + i } })
    comparisons.push({ what: `choice ${i}`, found: saidIn(events, i), expected: saidIn(single.events) })
  }
  sameAnswers(t, comparisons)
})

t.test('log-probabilities of a prompt are those that its tokens got when they were sampled', async (t) => {
  const engine = await open(t)
  const { started, choices: [choice], events } = await ask(engine,
    { ...question(1), maxTokens: 24, logprobs: 5, sampling: { temperature: 0 } })
  const sampled = events.flatMap((event) => (event.type === 'delta' ? event.logprobs! : []))
  t.ok(sampled.every(({ tokenId, logprob, top }) => top[0]!.tokenId === tokenId && top[0]!.logprob === logprob))
  const all = [...started.promptTokenIds, ...choice!.tokenIds]
  const answer = await ask(engine, { prompt: { tokenIds: all }, maxTokens: 0, promptLogprobs: 5 })
  const tail = promptLogprobs(answer).slice(started.promptTokenIds.length - 1)
  sameAnswers(t, [{ what: 'the same bits', found: tail, expected: sampled.map((entry) => said(entry.tokenId, entry)) }])
})

t.test('stop strings cut the text that the same request gives without them', async (t) => {
  // On CUDA a prompt gives the same bits again where it is computed again in one piece.
  const engine = await open(t, { prefixCache: !isCuda })
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

t.test('a bias forces or bars a token, stop ids end an answer, and neither an end nor a stop comes before min_tokens', async (t) => {
  const engine = await open(t)
  const request = { ...question(0), maxTokens: 8, ignoreEos: true, sampling: { temperature: 0 } }
  const tokensOf = async (fields: Partial<GenerateRequest>) => (await ask(engine, { ...request, ...fields })).choices[0]!
  const [first] = (await tokensOf({})).tokenIds
  t.same((await tokensOf({ sampling: { temperature: 1, topK: 0, topP: 1, seed: 3, logitBias: [[77, 100]] } })).tokenIds, Array(8).fill(77))
  t.notOk((await tokensOf({ sampling: { temperature: 0, logitBias: [[first!, -100]] } })).tokenIds.includes(first!))
  const stopped = await tokensOf({ stopTokenIds: [first!] })
  t.match(stopped.finished, { reason: 'stop', stopReason: first })
  const later = await tokensOf({ stopTokenIds: [first!], minTokens: 4 })
  t.ok(later.tokenIds.length >= 4 && !later.tokenIds.slice(0, 4).includes(first!), later.tokenIds.join())
  const ending = engine.info.stopTokenIds[0]!
  const wantsToEnd = { ignoreEos: false, sampling: { temperature: 0, logitBias: [[ending, 100]] as const } }
  t.match((await tokensOf(wantsToEnd)).finished, { reason: 'stop', completionTokens: 1 })
  t.equal((await tokensOf({ ...wantsToEnd, minTokens: 5 })).finished.completionTokens, 6)
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
