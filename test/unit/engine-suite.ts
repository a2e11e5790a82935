// What any Engine over the fake device must do, in process or across a child process.

import type { Test } from 'tap'
import type { Engine, GenerateEvent, GenerateRequest } from '../../engine/api.js'
import { GREEDY, randomFrom } from './drive.js'
import type { FakeEngineOptions } from './fake-engine.js'
import { expectedTokens } from './fake-native.js'
import { fakeTable } from './fake-tokenizer.js'

export type EngineFactory = (options?: FakeEngineOptions) => Promise<Engine>

export interface Answer {
  readonly events: readonly GenerateEvent[]
  readonly started: Extract<GenerateEvent, { type: 'started' }>
  readonly choices: readonly { text: string; tokenIds: number[]; finished: Extract<GenerateEvent, { type: 'finished' }> }[]
}

let nRequests = 0
export const newId = () => `request-${nRequests++}`
export const ids = (n: number, salt = 0) => Array.from({ length: n }, (_, i) => 10 + ((i * 13 + salt * 31) % 400))

export async function collect(stream: AsyncIterable<GenerateEvent>): Promise<Answer> {
  const events: GenerateEvent[] = []
  for await (const event of stream) events.push(event)
  const choices: { text: string; tokenIds: number[]; finished: Extract<GenerateEvent, { type: 'finished' }> }[] = []
  for (const event of events) {
    if (event.type === 'started') continue
    const choice = (choices[event.index] ??= { text: '', tokenIds: [], finished: undefined as never })
    choice.text += event.text
    if (event.type === 'delta') choice.tokenIds.push(...event.tokenIds)
    else choice.finished = event
  }
  return { events, started: events.find((event) => event.type === 'started')!, choices }
}

export function ask(engine: Engine, request: Partial<GenerateRequest>, signal?: AbortSignal): Promise<Answer> {
  return collect(engine.generate(greedy(request), signal))
}

function greedy(request: Partial<GenerateRequest>): GenerateRequest {
  return { id: newId(), prompt: { tokenIds: ids(10) }, maxTokens: 12, ignoreEos: true, ...request,
    sampling: { temperature: 0, ...request.sampling } }
}

/** Everything came back: no request, no sequence, no block in use. */
export async function isEmpty(engine: Engine): Promise<boolean> {
  const { running, waiting, kvUsage } = await engine.stats()
  return running === 0 && waiting === 0 && kvUsage === 0
}

export function engineSuite(t: Test, create: EngineFactory): void {
  t.setTimeout(100_000)
  const withEngine = async (t: Test, options: FakeEngineOptions = {}) => {
    const engine = await create(options)
    t.teardown(() => engine.close())
    return engine
  }

  t.test('a request starts, streams its tokens and finishes, in this order and once each', async (t) => {
    const engine = await withEngine(t)
    const { events, started, choices: [choice] } = await ask(engine, {})
    t.same(events.map((event) => event.type), ['started', ...Array.from({ length: 12 }, () => 'delta'), 'finished'])
    t.same(started.promptTokenIds, ids(10))
    t.same(choice!.tokenIds, expectedTokens(ids(10), 12, { sampling: GREEDY }))
    t.match(choice!.finished, { index: 0, reason: 'length', stopReason: null, completionTokens: 12 })
    t.ok(choice!.finished.timings.ttftMs >= choice!.finished.timings.queuedMs)
    t.equal(choice!.text, await engine.detokenize(choice!.tokenIds))
    t.ok(await isEmpty(engine))
  })

  t.test('the same request gives the same tokens alone, among 16 others, after a prefix hit and after a preemption', async (t) => {
    const request = { prompt: { tokenIds: ids(40) }, maxTokens: 30, sampling: { temperature: 1, seed: 5 } }
    const alone = await ask(await withEngine(t), request)
    const roomy = await withEngine(t, { maxNumSeqs: 17, nGlobalBlocks: 600, nSlidingBlocks: 300 })
    const others = Array.from({ length: 16 }, (_, i) => ask(roomy, { prompt: { tokenIds: ids(3 + 5 * i, i + 1) }, maxTokens: 25 }))
    const among = await ask(roomy, request)
    await Promise.all(others)
    const again = await ask(roomy, request)
    t.ok(again.started.cachedTokens > 0)
    const tight = await withEngine(t, { nGlobalBlocks: 34 })
    const pressure = [1, 2].map((i) => ask(tight, { prompt: { tokenIds: ids(20, i) }, maxTokens: 60 }))
    const preempted = await ask(tight, request)
    await Promise.all(pressure)
    t.ok((await tight.stats()).preemptions > 0)
    t.ok(preempted.choices[0]!.finished.timings.preemptions > 0)
    for (const answer of [among, again, preempted]) {
      t.same(answer.choices[0]!.tokenIds, alone.choices[0]!.tokenIds)
      t.equal(answer.choices[0]!.text, alone.choices[0]!.text)
    }
  })

  t.test('n choices share one prompt and are those of n requests with seed + i', async (t) => {
    for (const prefixCache of [true, false]) {
      const engine = await withEngine(t, { prefixCache })
      const request = { prompt: { tokenIds: ids(20) }, sampling: { temperature: 1, seed: 40 } }
      const { choices } = await ask(engine, { ...request, n: 3 })
      for (let i = 0; i < 3; i++) {
        const single = await ask(engine, { ...request, sampling: { temperature: 1, seed: 40 + i } })
        t.same(choices[i]!.tokenIds, single.choices[0]!.tokenIds)
        t.equal(single.started.cachedTokens, prefixCache ? 16 : 0)
      }
    }
  })

  t.test('requests without a seed differ', async (t) => {
    const engine = await withEngine(t)
    const answers = await Promise.all([1, 2].map(() => ask(engine, { sampling: { temperature: 1 } })))
    t.not(answers[0]!.choices[0]!.tokenIds.join(), answers[1]!.choices[0]!.tokenIds.join())
  })

  t.test('messages become turns with one <bos>, and control tokens typed by a user stay text', async (t) => {
    const engine = await withEngine(t)
    const tokens = await engine.tokenize({ messages: [{ role: 'user', content: 'a<end_of_turn>' }] })
    t.equal(tokens.filter((id) => id === 2).length, 1)
    t.equal(tokens.filter((id) => id === 6).length, 1)
    t.equal(await engine.detokenize(tokens), '<bos><start_of_turn>user\na<end_of_turn><end_of_turn>\n<start_of_turn>model\n')
    const { started } = await ask(engine, { prompt: { messages: [{ role: 'user', content: 'a<end_of_turn>' }] } })
    t.same(started.promptTokenIds, tokens)
    t.same(await engine.tokenize({ text: 'a' }), [2, 197])
  })

  t.test('a stop id ends a choice; its token counts and its text does not show', async (t) => {
    const engine = await withEngine(t)
    const { choices: [free] } = await ask(engine, {})
    const stopId = free!.tokenIds[6]!
    const nBefore = free!.tokenIds.indexOf(stopId)
    const { choices: [stopped] } = await ask(engine, { stopTokenIds: [stopId] })
    t.same(stopped!.tokenIds, free!.tokenIds.slice(0, nBefore + 1))
    t.match(stopped!.finished, { reason: 'stop', stopReason: stopId, completionTokens: nBefore + 1 })
    t.equal(stopped!.text, await engine.detokenize(free!.tokenIds.slice(0, nBefore)))
    const { choices: [included] } = await ask(engine, { stopTokenIds: [stopId], includeStopInOutput: true })
    t.equal(included!.text, await engine.detokenize(free!.tokenIds.slice(0, nBefore + 1)))
  })

  t.test('the model\'s own stop ids end a choice unless they are ignored, and not before minTokens', async (t) => {
    const free = expectedTokens(ids(10), 12, { sampling: GREEDY })
    const eos = free[4]!
    const engine = await withEngine(t, { eosTokenIds: [eos] })
    const { choices: [stopped] } = await ask(engine, { ignoreEos: false })
    t.match(stopped!.finished, { reason: 'stop', stopReason: null, completionTokens: free.indexOf(eos) + 1 })
    const { choices: [ignoring] } = await ask(engine, { ignoreEos: true })
    t.same(ignoring!.tokenIds, free)
    const { choices: [longer] } = await ask(engine, { ignoreEos: false, minTokens: 10 })
    t.ok(longer!.tokenIds.length >= 10)
    t.notOk(longer!.tokenIds.slice(0, 10).includes(eos))
  })

  t.test('a stop string that spans tokens ends the text before it and never leaks a part', async (t) => {
    const engine = await withEngine(t)
    const { choices: [free] } = await ask(engine, { maxTokens: 30 })
    const full = free!.text
    for (let at = 1; at + 6 < full.length; at += 5) {
      const stop = full.slice(at, at + 6)
      const cut = full.indexOf(stop)
      const { choices: [stopped], events } = await ask(engine, { maxTokens: 30, stop: [stop, 'never there'] })
      t.equal(stopped!.text, full.slice(0, cut))
      t.match(stopped!.finished, { reason: 'stop', stopReason: stop })
      t.ok(events.every((event) => event.type === 'started' || full.slice(0, cut).includes(event.text)))
      const { choices: [included] } = await ask(engine, { maxTokens: 30, stop: [stop], includeStopInOutput: true })
      t.equal(included!.text, full.slice(0, cut + stop.length))
    }
  })

  t.test('log-probabilities come with each token, and with the prompt where asked', async (t) => {
    const engine = await withEngine(t)
    const { events, started, choices: [choice] } = await ask(engine, { logprobs: 3, promptLogprobs: 2, prompt: { tokenIds: ids(70) } })
    const deltas = events.filter((event) => event.type === 'delta')
    t.ok(deltas.every(({ logprobs, tokenIds }) => logprobs!.length === 1 && logprobs![0]!.tokenId === tokenIds[0]
      && logprobs![0]!.top.length === 3))
    t.ok(deltas.every(({ logprobs }) => Buffer.from(logprobs![0]!.bytes).equals(fakeTable.bytes(logprobs![0]!.tokenId))))
    const prompt = started.promptLogprobs!
    t.equal(prompt.length, 70)
    t.equal(prompt[0], null)
    t.same(prompt.slice(1).map((entry) => entry!.tokenId), ids(70).slice(1))
    t.ok(prompt.slice(1).every((entry) => entry!.top.length === 2 && Number.isFinite(entry!.logprob)))
    const { choices: [plain] } = await ask(engine, { prompt: { tokenIds: ids(70) } })
    t.same(choice!.tokenIds, plain!.tokenIds)
  })

  t.test('maxTokens 0 scores the prompt and samples nothing', async (t) => {
    const engine = await withEngine(t)
    const scored = await ask(engine, { maxTokens: 0, promptLogprobs: 1, prompt: { tokenIds: ids(50) }, n: 2 })
    t.equal(scored.started.promptLogprobs!.length, 50)
    t.same(scored.choices.map((choice) => [choice.tokenIds, choice.finished.reason, choice.finished.completionTokens]),
      [[[], 'length', 0], [[], 'length', 0]])
    const from = async (position: number) => (await ask(engine, {
      maxTokens: 0, promptLogprobs: 1, promptLogprobsFrom: position, prompt: { tokenIds: ids(50) },
    })).started.promptLogprobs!
    const part = await from(45)
    t.same(part.slice(0, 45), Array(45).fill(null))
    t.same(part.slice(45), scored.started.promptLogprobs!.slice(45), 'from a position on, the same as of the whole')
    t.same(await from(50), Array(50).fill(null))
    const one = await ask(engine, { maxTokens: 0, promptLogprobs: 1, prompt: { tokenIds: [7] } })
    t.same(one.started.promptLogprobs, [null])
    const nothing = await ask(engine, { maxTokens: 0 })
    t.equal(nothing.choices[0]!.finished.reason, 'length')
    t.ok(await isEmpty(engine))
  })

  t.test('the context bounds prompt and answer, and the error gives the numbers', async (t) => {
    const engine = await withEngine(t)
    const { choices: [full] } = await ask(engine, { prompt: { tokenIds: ids(190) }, maxTokens: undefined })
    t.equal(full!.tokenIds.length, 10)
    await t.rejects(ask(engine, { prompt: { tokenIds: ids(190) }, maxTokens: 11 }),
      { code: 'CONTEXT_LENGTH_EXCEEDED', message: /200 tokens.*190.*11/ })
    await t.rejects(ask(engine, { prompt: { tokenIds: ids(200) }, maxTokens: undefined }), { code: 'CONTEXT_LENGTH_EXCEEDED' })
    await t.rejects(ask(engine, { prompt: { text: 'x'.repeat(1_000_000) } }), { code: 'CONTEXT_LENGTH_EXCEEDED', message: /at least \d+/ })
    t.equal((await ask(engine, { prompt: { tokenIds: ids(200) }, maxTokens: 0, promptLogprobs: 0 })).started.promptLogprobs!.length, 200)
  })

  t.test('malformed requests are refused with the field\'s name', async (t) => {
    const engine = await withEngine(t)
    const bad: [string, Partial<GenerateRequest>][] = [
      ['prompt', { prompt: { tokenIds: [] } }], ['prompt', { prompt: { tokenIds: [512] } }], ['prompt', { prompt: { tokenIds: [-1] } }],
      ['prompt', { prompt: { tokenIds: [1.5] } }], ['prompt', { prompt: { tokenIds: [NaN] } }], ['prompt', { prompt: { text: '\ud800' } }],
      ['messages', { prompt: { messages: [{ role: 'user', content: 'a\udc00' }] } }],
      ['n', { n: 0 }], ['n', { n: 1.5 }], ['n', { n: 1e9 }], ['max_tokens', { maxTokens: -1 }], ['max_tokens', { maxTokens: NaN }],
      ['min_tokens', { minTokens: 13 }], ['logprobs', { logprobs: 21 }], ['prompt_logprobs', { promptLogprobs: -1 }],
      ['stop', { stop: [''] }], ['stop', { stop: ['x'.repeat(5000)] }], ['stop_token_ids', { stopTokenIds: [999] }],
      ['temperature', { sampling: { temperature: -1 } }], ['temperature', { sampling: { temperature: Infinity } }],
      ['temperature', { sampling: { temperature: NaN } }], ['top_p', { sampling: { topP: 0 } }], ['top_p', { sampling: { topP: 1.1 } }],
      ['top_k', { sampling: { topK: -2 } }], ['min_p', { sampling: { minP: 2 } }],
      ['repetition_penalty', { sampling: { repetitionPenalty: 0 } }],
      ['presence_penalty', { sampling: { presencePenalty: 3 } }], ['frequency_penalty', { sampling: { frequencyPenalty: -3 } }],
      ['seed', { sampling: { seed: 2 ** 60 } }], ['logit_bias', { sampling: { logitBias: [[600, 1]] } }],
      ['logit_bias', { sampling: { logitBias: [[1, 101]] } }], ['cache_salt', { cacheSalt: 'x'.repeat(600) }],
      ['resume', { resume: [{ tokenIds: [1] }, { tokenIds: [2] }] }],
    ]
    for (const [param, request] of bad) await t.rejects(ask(engine, request), { code: 'INVALID_REQUEST', param }, param)
    await t.rejects(ask(engine, { prompt: { messages: [{ role: 'assistant', content: 'x' }] } }), { code: 'INVALID_CONVERSATION' })
    await t.rejects(ask(engine, { adapter: { slot: 0, version: 'v' } }), { code: 'ADAPTER_NOT_FOUND' })
    t.ok(await isEmpty(engine))
  })

  t.test('a full queue refuses with a time to try again', async (t) => {
    const engine = await withEngine(t, { maxNumSeqs: 2, maxQueue: 3, stepMs: 2 })
    const answers = await Promise.allSettled(Array.from({ length: 8 }, () => ask(engine, {})))
    const refused = answers.flatMap((answer) => (answer.status === 'rejected' ? [answer.reason] : []))
    t.equal(refused.length, 3)
    for (const error of refused) t.match(error, { code: 'QUEUE_FULL', retryAfterMs: Number })
  })

  t.test('leaving the stream or aborting the signal frees everything', async (t) => {
    const engine = await withEngine(t, { stepMs: 1 })
    for await (const event of engine.generate(greedy({ maxTokens: 150 }))) if (event.type === 'delta') break
    await settles(t, engine)
    const controller = new AbortController()
    const aborted = ask(engine, { maxTokens: 150 }, controller.signal)
    setTimeout(() => controller.abort(), 20)
    await t.rejects(aborted, { code: 'ABORTED' })
    await settles(t, engine)
    await t.rejects(ask(engine, {}, AbortSignal.abort()), { code: 'ABORTED' })
  })

  t.test('500 random drops leave no block and no request behind', async (t) => {
    const engine = await withEngine(t, { nGlobalBlocks: 90, maxQueue: 1200 })
    const random = randomFrom(3)
    await Promise.all(Array.from({ length: 500 }, async (_, i) => {
      let left = random(14)
      const request = greedy({ prompt: { tokenIds: ids(1 + random(60), i % 9) }, maxTokens: 1 + random(60), n: 1 + random(2) })
      if (left === 0) {
        const controller = new AbortController()
        setTimeout(() => controller.abort(), random(30))
        await collect(engine.generate(request, controller.signal)).catch(() => {})
        return
      }
      for await (const _event of engine.generate(request)) if (--left === 0) break
    }))
    await settles(t, engine)
    const { choices: [choice] } = await ask(engine, {})
    t.same(choice!.tokenIds, expectedTokens(ids(10), 12, { sampling: GREEDY }))
  })

  t.test('a reader that stops is paused while others run, and misses nothing when it goes on', async (t) => {
    const engine = await withEngine(t, { maxModelLen: 6000, nGlobalBlocks: 1600, nSlidingBlocks: 200, window: 4, maxNumSeqs: 2 })
    const slow = engine.generate(greedy({ prompt: { tokenIds: [11] }, maxTokens: 1500 }))[Symbol.asyncIterator]()
    await slow.next()
    const before = await until(async () => {
      const a = (await engine.stats()).generationTokens
      await new Promise((resolve) => setTimeout(resolve, 30))
      return a > 100 && (await engine.stats()).generationTokens === a ? a : undefined
    })
    t.ok(before < 1100, `${before} tokens made before the reader held it up`)
    const { choices: [other] } = await ask(engine, {})
    t.equal(other!.tokenIds.length, 12)
    const rest: number[] = []
    for (let step = await slow.next(); !step.done; step = await slow.next()) {
      if (step.value.type === 'delta') rest.push(...step.value.tokenIds)
    }
    t.equal(rest.length, 1500)
    t.ok(await isEmpty(engine))
  })

  t.test('a resumed request goes on where the last engine stopped, with the same tokens and only the rest of the text', async (t) => {
    const engine = await withEngine(t)
    const request = { maxTokens: 20, sampling: { temperature: 1, seed: 9, presencePenalty: 1 } }
    const whole = (await ask(engine, request)).choices[0]!
    for (const nSeen of [1, 7, 19]) {
      const seen = whole.tokenIds.slice(0, nSeen)
      const { choices: [rest] } = await ask(engine, { ...request, resume: [{ tokenIds: seen }] })
      t.same([...seen, ...rest!.tokenIds], whole.tokenIds)
      t.ok(whole.text.endsWith(rest!.text))
      t.match(rest!.finished, { reason: 'length', completionTokens: 20 })
    }
    const { choices: [ended] } = await ask(engine, { ...request, resume: [{ tokenIds: whole.tokenIds }] })
    t.same(ended!.tokenIds, [])
    t.equal(ended!.finished.reason, 'length')
  })

  t.test('adapters mix in a batch with the base, each with its own tokens', async (t) => {
    const engine = await withEngine(t)
    const paths = ['adapter one', 'adapter two']
    for (const [slot, path] of paths.entries()) t.match(await engine.loadAdapter({ slot, version: `v-${path}`, path }), { rank: 8 })
    const asked = [null, 0, 1, null, 1, 0]
    const answers = await Promise.all(asked.map((slot) => ask(engine,
      { adapter: slot === null ? null : { slot, version: `v-${paths[slot]}` } })))
    answers.forEach((answer, i) => {
      const slot = asked[i]
      t.same(answer.choices[0]!.tokenIds, expectedTokens(ids(10), 12,
        { sampling: GREEDY, adapterPath: slot == null ? null : paths[slot]! }))
    })
    await t.rejects(engine.loadAdapter({ slot: 1, version: 'v', path: 'x' }), { code: 'ADAPTER_EXISTS' })
    await t.rejects(engine.loadAdapter({ slot: 3, version: 'v', path: 'bad one' }), { code: 'ADAPTER_INVALID' })
    await t.rejects(engine.loadAdapter({ slot: 4, version: 'v', path: 'x' }), { code: 'INVALID_REQUEST' })
    await t.rejects(engine.validateAdapter('bad'), { code: 'ADAPTER_INVALID' })
    await t.resolves(engine.prefetchAdapter('bad one'), 'what is wrong with it shows when it is loaded')
    await t.rejects(ask(engine, { adapter: { slot: 0, version: 'v-adapter two' } }), { code: 'ADAPTER_NOT_FOUND' })
  })

  t.test('a new version in the same slot never sees the states of the old one', async (t) => {
    const engine = await withEngine(t)
    const prompt = { tokenIds: ids(40) }
    for (const version of ['v1', 'v2', 'v3']) {
      await engine.loadAdapter({ slot: 0, version, path: version })
      for (const cached of [false, true]) {
        const answer = await ask(engine, { prompt, adapter: { slot: 0, version } })
        t.equal(answer.started.cachedTokens > 0, cached)
        t.same(answer.choices[0]!.tokenIds, expectedTokens(ids(40), 12, { sampling: GREEDY, adapterPath: version }))
      }
      await engine.unloadAdapter(0)
    }
  })

  t.test('tenants with different salts share no states', async (t) => {
    const engine = await withEngine(t)
    const cached = async (cacheSalt: string) => (await ask(engine, { prompt: { tokenIds: ids(40) }, cacheSalt })).started.cachedTokens
    t.same([await cached('a'), await cached('b'), await cached('a')], [0, 0, 36])
  })

  t.test('unloading refuses new requests at once and waits for the last one in flight', async (t) => {
    const engine = await withEngine(t, { stepMs: 1 })
    await engine.loadAdapter({ slot: 2, version: 'v', path: 'p' })
    const adapter = { slot: 2, version: 'v' }
    const running = ask(engine, { adapter, maxTokens: 60 })
    await until(async () => (await engine.stats()).runningSlots.includes(2) || undefined)
    let unloaded = false
    const unloading = engine.unloadAdapter(2).then(() => { unloaded = true })
    await t.rejects(ask(engine, { adapter }), { code: 'ADAPTER_NOT_FOUND' })
    t.notOk(unloaded)
    const answer = await running
    t.same(answer.choices[0]!.tokenIds, expectedTokens(ids(10), 60, { sampling: GREEDY, adapterPath: 'p' }))
    await unloading
    await t.rejects(engine.unloadAdapter(2), { code: 'ADAPTER_NOT_FOUND' })
    await engine.loadAdapter({ slot: 2, version: 'w', path: 'q' })
  })

  t.test('a row of NaN fails its request only, and poisons no cache', async (t) => {
    const engine = await withEngine(t)
    const sick = { prompt: { tokenIds: [...ids(20), 3, ...ids(20)] } }
    const [bad, good] = await Promise.allSettled([ask(engine, sick), ask(engine, { prompt: { tokenIds: ids(20) } })])
    t.match(bad, { status: 'rejected', reason: { code: 'INTERNAL', message: /NaN/ } })
    t.match(good, { status: 'fulfilled' })
    await t.rejects(ask(engine, sick), { code: 'INTERNAL' })
    t.equal((await engine.stats()).nanRows, 2)
    t.ok(await isEmpty(engine))
  })

  t.test('draining finishes what runs, refuses what comes, and ends what is left at its time limit', async (t) => {
    const engine = await withEngine(t, { stepMs: 1 })
    const running = ask(engine, { maxTokens: 20 })
    await until(async () => (await engine.stats()).running > 0 || undefined)
    const drained = engine.drain(5000)
    await t.rejects(ask(engine, {}), { code: 'ENGINE_UNAVAILABLE' })
    t.equal((await running).choices[0]!.finished.reason, 'length')
    await drained
    const late = await withEngine(t, { stepMs: 5 })
    const cut = ask(late, { maxTokens: 150 })
    await until(async () => (await late.stats()).running > 0 || undefined)
    await late.drain(30)
    t.equal((await cut).choices[0]!.finished.reason, 'abort')
  })

  t.test('statistics count steps and tokens, and step sizes are read once', async (t) => {
    const engine = await withEngine(t)
    await ask(engine, { prompt: { tokenIds: ids(40) } })
    const stats = await engine.stats()
    t.match(stats, { running: 0, waiting: 0, promptTokens: 40, generationTokens: 12, prefixQueries: 40, prefixHits: 0 })
    t.equal(stats.stepTokens.reduce((a, b) => a + b, 0), 40 + 11)
    t.equal(stats.stepTokens.length, stats.steps)
    t.same((await engine.stats()).stepTokens, [])
  })

  t.test('closing ends requests in flight with an error and refuses new ones', async (t) => {
    const engine = await withEngine(t, { stepMs: 1 })
    const running = ask(engine, { maxTokens: 150 })
    await until(async () => (await engine.stats()).running > 0 || undefined)
    await Promise.all([t.rejects(running, { code: 'ENGINE_UNAVAILABLE' }), engine.close()])
    t.equal(engine.state, 'closed')
    await t.rejects(ask(engine, {}), { code: 'ENGINE_UNAVAILABLE' })
  })
}

async function settles(t: Test, engine: Engine): Promise<void> {
  t.ok(await until(async () => (await isEmpty(engine)) || undefined))
}

export async function until<T>(probe: () => Promise<T | undefined>, timeoutMs = 20_000): Promise<T> {
  for (const end = performance.now() + timeoutMs; ;) {
    const value = await probe()
    if (value !== undefined) return value
    if (performance.now() > end) throw new Error('waited in vain')
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}
