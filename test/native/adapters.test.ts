// Adapters made by PEFT over gemma3-tiny, through registry, engine and native code. Needs the reference data beside the repository.

import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { AdapterRegistry } from '../../adapters/registry.js'
import { writePeftAdapter, type PeftTensor } from '../../adapters/peft.js'
import { AdapterStore } from '../../adapters/store.js'
import type { EngineOptions, GenerateEvent } from '../../engine/api.js'
import { createLocalEngine } from '../../engine/create-engine.js'
import type { LocalEngine } from '../../engine/engine.js'
import type { EngineError } from '../../engine/errors.js'
import { native } from '../../engine/native.js'
import { BF16_CLEAR_MARGIN, saidIn, type SaidToken } from '../../scripts/same-answer.js'
import { device, isCuda, sameAnswers } from '../device.js'

const GOLDENS = '../shared/goldens'
const skip = existsSync(join(GOLDENS, 'adapters')) ? false : `${GOLDENS} is not here`
const N_GREEDY = 24
/** Where the two best logits are closer than this, either may win. */
const CLEAR_MARGIN = isCuda ? BF16_CLEAR_MARGIN : 1e-3
/** Alternatives beside every token. */
const N_TOP = isCuda ? 20 : 5

const hasExpected = (name: string) => existsSync(join(GOLDENS, 'adapters', name, 'expected.safetensors'))
const names = skip ? [] : readdirSync(join(GOLDENS, 'adapters')).filter(hasExpected)

async function open(t: Test, options: Partial<EngineOptions> = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'lorikeet-native-'))
  const engine = await createLocalEngine({
    model: join(GOLDENS, 'gemma3-tiny'), dataDir: folder, device, compute: isCuda ? 'bf16' : 'fp32', weights: 'bf16', head: 'bf16',
    isa: 'auto', nThreads: 2,
    maxModelLen: 512, kvCacheBytes: 0, maxNumSeqs: 32, maxBatchTokens: 256, maxQueue: 64, maxLoras: 16, maxLoraRank: 64, prefixCache: false,
      ...options,
  })
  const store = await AdapterStore.open(join(folder, 'adapters'))
  const registry = new AdapterRegistry({ engine, store, baseNames: ['base'], hostBytes: 2 ** 30, waitMs: 10_000, allowedRoots: [] })
  t.teardown(async () => {
    await engine.close()
    rmSync(folder, { recursive: true, force: true })
  })
  return { engine, registry }
}

const publish = (registry: AdapterRegistry, name: string, folder = name) => registry.publishFolder(name, join(GOLDENS, 'adapters', folder),
  true)

function golden(name: string, key: string): number[] {
  const path = join(GOLDENS, 'adapters', name, 'expected.safetensors')
  const bytes = native().readSafetensor(path, key)
  const copy = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)
  return [...(key.endsWith('margin') ? new Float32Array(copy) : new Int32Array(copy))]
}

let nRequests = 0

/** Greedy tokens with the log-probabilities of the best: every bit of them. */
async function answer(engine: LocalEngine, registry: AdapterRegistry, model: string, tokenIds: readonly number[]): Promise<SaidToken[]> {
  const lease = await registry.resolve(model)
  try {
    const events: GenerateEvent[] = []
    const request = {
      id: `request-${nRequests++}`, prompt: { tokenIds }, adapter: lease.adapter, maxTokens: N_GREEDY, ignoreEos: true,
        sampling: { temperature: 0 }, logprobs: N_TOP,
    }
    for await (const event of engine.generate(request)) events.push(event)
    return saidIn(events)
  } finally {
    lease.release()
  }
}

for (const [weights, base] of [['bf16', 'bf16'], ['nf4', 'nf4']] as const) {
  t.test(`every adapter continues as PEFT does, over the ${base} base`, { skip }, async (t) => {
    const { engine, registry } = await open(t, { weights })
    for (const name of names) {
      await publish(registry, name)
      for (const prompt of ['p9', 'p40']) {
        const ids = (await answer(engine, registry, name, golden(name, `${prompt}.input_ids`))).map(({ token }) => token)
        const margins = golden(name, `${base}.${prompt}.greedy.margin`)
        const unclear = margins.findIndex((margin) => margin <= CLEAR_MARGIN)
        const n = unclear === -1 ? N_GREEDY : unclear
        t.same(ids.slice(0, n), golden(name, `${base}.${prompt}.greedy.ids`).slice(0, n), `${name} ${prompt}, ${n} tokens`)
      }
    }
  })
}

t.test('base and all adapters in one batch give each row the bytes that it has alone', { skip }, async (t) => {
  const { engine, registry } = await open(t)
  for (const name of names) await publish(registry, name)
  const models = ['base', ...names, 'base', ...names.slice(0, 3)]
  const prompts = models.map((_, i) => golden(names[0]!, i % 2 === 0 ? 'p40.input_ids' : 'p9.input_ids'))
  const alone: SaidToken[][] = []
  for (const [i, model] of models.entries()) alone.push(await answer(engine, registry, model, prompts[i]!))
  const together = await Promise.all(models.map((model, i) => answer(engine, registry, model, prompts[i]!)))
  sameAnswers(t, models.map((model, i) => ({ what: model, found: together[i]!, expected: alone[i]!, isGreedy: true })))
  t.ok(new Set(alone.map((answer) => JSON.stringify(answer))).size >= names.length, 'the adapters do differ')
})

t.test('every bad adapter is refused by its kind, and nothing is evicted or changed', { skip }, async (t) => {
  const { engine, registry } = await open(t, { maxLoras: 1 })
  await publish(registry, 'good', 'plain-r16')
  const prompt = golden('plain-r16', 'p9.input_ids')
  const before = await answer(engine, registry, 'good', prompt)
  const text = readFileSync(join(GOLDENS, 'adapters/bad/cases.json'), 'utf8')
  const cases = JSON.parse(text) as Array<{ directory: string; error: string | null }>
  for (const { directory, error } of cases) {
    const startedAt = performance.now()
    const refusal = await publish(registry, 'bad', join('bad', directory)).then(() => undefined, (reason: EngineError) => reason)
    if (error === null) t.equal(refusal, undefined, `${directory}: ${refusal?.message}`)
    else {
      t.match(refusal?.code, /^(ADAPTER_INVALID|ADAPTER_RANK_TOO_LARGE)$/, directory)
      if (refusal?.code === 'ADAPTER_INVALID') t.ok(refusal.message.startsWith(error),
        `${directory}: "${refusal.message}" begins with "${error}"`)
    }
    t.ok(performance.now() - startedAt < 2_000, `${directory} is answered at once`)
  }
  t.equal(registry.stats().evictions, 0)
  t.same(await answer(engine, registry, 'good', prompt), before)
})

t.test('a replaced adapter never sees states that the old version cached', { skip }, async (t) => {
  const prompt = golden('plain-r16', 'p40.input_ids')
  const other = await open(t)
  await publish(other.registry, 'sql', 'dora-r4')
  const cold = await answer(other.engine, other.registry, 'sql', prompt)
  const { engine, registry } = await open(t, { prefixCache: true })
  await publish(registry, 'sql', 'plain-r16')
  const old = await answer(engine, registry, 'sql', prompt)
  const again = await answer(engine, registry, 'sql', prompt)
  sameAnswers(t, [{ what: 'after a prefix hit', found: again, expected: old, isGreedy: true }])
  t.ok((await engine.stats()).prefixHits > 0, 'the prompt is cached')
  await publish(registry, 'sql', 'dora-r4')
  const replaced = await answer(engine, registry, 'sql', [...prompt])
  t.not(JSON.stringify(replaced), JSON.stringify(old))
  t.same(replaced, cold)
  await registry.rollback('sql')
  sameAnswers(t, [{ what: 'rolled back', found: await answer(engine, registry, 'sql', prompt), expected: old, isGreedy: true }])
})

/** LoRA on the embedding as PEFT saves it: with the whole embedding of the base beside it, or with one that was changed. */
async function writeEmbeddingLora(folder: string, copy: 'none' | 'base' | 'changed'): Promise<string> {
  const embedding = Buffer.from(native().readSafetensor(join(GOLDENS, 'gemma3-tiny/model.safetensors'), 'model.embed_tokens.weight'))
  const [rank, hiddenSize] = [4, 128]
  const vocabSize = embedding.length / 2 / hiddenSize
  if (copy === 'changed') embedding.copy(embedding, 0, embedding.length - 2 * hiddenSize)       // the first token as the last
  const waves = (n: number, amplitude: number) => new Uint8Array(Float32Array.from({ length: n }, (_, i) => amplitude * Math.sin(i)).buffer)
  const module = 'base_model.model.model.embed_tokens'
  const tensors = new Map<string, PeftTensor>([
    [`${module}.lora_embedding_A`, { dtype: 'F32', shape: [rank, vocabSize], data: waves(rank * vocabSize, 0.1) }],
    [`${module}.lora_embedding_B`, { dtype: 'F32', shape: [hiddenSize, rank], data: waves(hiddenSize * rank, 0.1) }],
  ])
  if (copy !== 'none') tensors.set(`${module}.base_layer.weight`, { dtype: 'BF16', shape: [vocabSize, hiddenSize], data: embedding })
  await mkdir(join(folder, copy))
  await writePeftAdapter(join(folder, copy), { r: rank, lora_alpha: 4, target_modules: ['embed_tokens'] }, tensors)
  return join(folder, copy)
}

t.test('the base\'s embedding that PEFT saves beside LoRA on it takes no memory, a changed one counts', { skip }, async (t) => {
  const folder = t.testdir({})
  const prompt = golden('plain-r16', 'p40.input_ids')
  for (const compute of isCuda ? ['bf16'] as const : ['fp32', 'bf16'] as const) {
    const { engine, registry } = await open(t, { compute })
    const of = async (copy: Parameters<typeof writeEmbeddingLora>[1]) => {
      const path = existsSync(join(folder, copy)) ? join(folder, copy) : await writeEmbeddingLora(folder, copy)
      const { version } = await registry.publishFolder('x', path, true)
      return { answer: await answer(engine, registry, `x@${version}`, prompt), bytes: (await engine.stats()).memory['adapters']! }
    }
    const none = await of('none')
    const base = await of('base')
    const changed = await of('changed')
    t.same(base.answer, none.answer, compute)
    t.equal(base.bytes, 2 * none.bytes, 'two adapters of the same size')
    t.not(JSON.stringify(changed.answer), JSON.stringify(none.answer))
    t.ok(changed.bytes > 10 * base.bytes, `${changed.bytes} bytes with the whole matrix`)
  }
})

t.test('an adapter that was prefetched, or evicted before, answers as one read from its files', { skip }, async (t) => {
  const { engine, registry } = await open(t, { maxLoras: 1 })
  const [{ path }, other] = [await publish(registry, 'plain-r16'), await publish(registry, 'dora-r4')]
  const prompt = golden('plain-r16', 'p9.input_ids')
  const first = await engine.loadAdapter({ slot: 0, version: 'first', path })
  t.equal(first.fromImage, false)
  const ask = async () => {
    const events: GenerateEvent[] = []
    const request = { id: `request-${nRequests++}`, prompt: { tokenIds: prompt }, adapter: { slot: 0, version: 'first' }, maxTokens: N_GREEDY,
      ignoreEos: true, sampling: { temperature: 0 }, logprobs: N_TOP }
    for await (const event of engine.generate(request)) events.push(event)
    return saidIn(events)
  }
  const said = await ask()
  await engine.unloadAdapter(0)
  await engine.prefetchAdapter(other.path)
  await engine.prefetchAdapter(join(path, 'nowhere'))
  t.match(await engine.loadAdapter({ slot: 0, version: 'other', path: other.path }), { fromImage: isCuda })
  await engine.unloadAdapter(0)
  t.same(await engine.loadAdapter({ slot: 0, version: 'first', path }), { ...first, fromImage: isCuda })
  t.same(await ask(), said)
  const { memory } = await engine.stats()
  t.equal('adapter_images' in memory, isCuda)
})

t.test('a slot can be filled and emptied hundreds of times without growing memory', { skip }, async (t) => {
  const { engine, registry } = await open(t, { maxLoras: 1 })
  for (const name of ['plain-r16', 'rslora-qv-r8']) await publish(registry, name)
  const prompt = golden('plain-r16', 'p9.input_ids')
  const first = await answer(engine, registry, 'plain-r16', prompt)
  const cycle = async (n: number) => {
    for (let i = 0; i < n; i++) await registry.warm(i % 2 === 0 ? 'rslora-qv-r8' : 'plain-r16')
    return process.memoryUsage().rss
  }
  const warm = await cycle(100)
  const end = await cycle(300)
  t.ok(end - warm < 40e6, `${((end - warm) / 1e6).toFixed(0)} MB more`)
  t.same(await answer(engine, registry, 'plain-r16', prompt), first)
})
