import { existsSync } from 'node:fs'
import { cp, mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openJobs } from '../../adapters/open-jobs.js'
import type { Jobs } from '../../adapters/jobs.js'
import type { Job, JobStatus, NewJob } from '../../adapters/jobs/job-types.js'
import { AdapterRegistry } from '../../adapters/registry.js'
import { AdapterStore } from '../../adapters/store.js'
import { EngineError } from '../../engine/errors.js'
import { resolveTrainConfig } from '../../engine/train/config.js'
import { FakeTrainingEngine, type TrainScript } from '../server/fake-training.js'
import type { FakeScript } from '../server/fake-engine.js'
import { temporaryFolder } from './adapters-fixtures.js'

const ROW = JSON.stringify({ messages: [{ role: 'user', content: 'q' }, { role: 'assistant', content: 'a' }] })

interface Options {
  readonly training?: TrainScript
  readonly script?: FakeScript
  readonly root?: string
  readonly maxActive?: number
  readonly engine?: FakeTrainingEngine
}

async function start(t: Test, options: Options = {}) {
  const root = options.root ?? temporaryFolder(t)
  const engine = options.engine ?? new FakeTrainingEngine(options.training, options.script)
  const registry = new AdapterRegistry({
    engine, store: await AdapterStore.open(join(root, 'adapters')), baseNames: ['base'], hostBytes: 2 ** 20, waitMs: 1_000,
    allowedRoots: [],
  })
  const jobs = await openJobs({
    engine, registry, dataDir: root, baseName: 'base', maxActive: options.maxActive ?? 16, onError: (error) => t.fail(String(error)),
  })
  t.teardown(() => jobs.close())
  await writeFile(join(root, 'data.jsonl'), `${ROW}\n${ROW}\n`)
  const add = (fields: Partial<NewJob> = {}, idempotency?: { key: string; digest: string }) =>
    jobs.create(wanted(root, fields), idempotency).job
  return { root, engine, registry, jobs, add }
}

function wanted(root: string, fields: Partial<NewJob> = {}): NewJob {
  const path = join(root, 'data.jsonl')
  return {
    name: 'sql', model: 'base', owner: null, config: resolveTrainConfig({}), hyperparameters: {}, train: { path, shown: 'file-1' },
    ...fields,
  }
}

async function reached(jobs: Jobs, id: string, ...states: JobStatus[]): Promise<Job> {
  const deadline = Date.now() + 10_000
  for (;;) {
    const job = jobs.get(id)!
    if (states.includes(job.status)) return job
    if (Date.now() > deadline) throw new Error(`job is ${job.status} (${job.error?.message}), not ${states.join(' or ')}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

const over = (jobs: Jobs, id: string) => reached(jobs, id, 'succeeded', 'failed', 'cancelled')
const messages = (jobs: Jobs, id: string) => jobs.events(id, { limit: 1_000, order: 'asc' }).data.map(({ message }) => message)
const running = (jobs: Jobs, id: string, step: number) => new Promise<void>((resolve) => {
  const timer = setInterval(() => {
    if ((jobs.get(id)?.progress?.step ?? 0) < step) return
    clearInterval(timer)
    resolve()
  }, 2)
})

t.test('a job becomes a version of its adapter, servable at once, with events, checkpoints and a result file', async (t) => {
  const { jobs, registry, add } = await start(t)
  const { id } = add()
  const job = await over(jobs, id)
  t.match(job, { status: 'succeeded', trainedTokens: 500, error: null, fineTunedModel: /^ft:base:lorikeet:sql:[0-9a-f]{8}$/ })
  t.equal(registry.store.current('sql'), job.version)
  t.match(await registry.resolve('sql'), { version: job.version })
  t.match(await registry.resolve(job.fineTunedModel!), { version: job.version })
  t.same(messages(jobs, id).slice(0, 5), [
    `Created fine-tuning job: ${id}`, 'Validating training file: file-1', 'Files validated, moving job to queued state',
    'Fine-tuning job started', 'The data holds 2 samples, 40 tokens, 2 rows, 10 steps, 1000 parameters',
  ])
  t.same(messages(jobs, id).slice(-2), [`New fine-tuned model created: ${job.fineTunedModel}`, 'The job has successfully completed'])
  t.match(jobs.checkpoints(id, { limit: 10 }).data, [{ step: 10, validation: { loss: 0.3 } }, { step: 5, train: { loss: 0.4 } }])
  const file = jobs.files.get(job.resultFiles[0]!)!
  t.match(file, { purpose: 'fine-tune-results', filename: /\.csv$/ })
  const csv = (await jobs.files.read(file).toArray()).join('')
  t.match(csv, /^step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,2,0\.1,,\n/)
  t.match(csv, /\n5,0\.4,0\.5,0\.6,0\.5\n/)
  t.notOk(existsSync(join(jobs.folderOf(id), 'checkpoint-10')), 'checkpoints of a finished job take no space')
})

t.test('two jobs at once run one after the other, in order', async (t) => {
  const { jobs, engine, add } = await start(t, { training: { stepMs: 5 } })
  const [a, b] = [add({ name: 'a' }), add({ name: 'b' })]
  await running(jobs, a.id, 1)
  await reached(jobs, b.id, 'queued')
  t.match(await over(jobs, b.id), { status: 'succeeded' })
  t.match(jobs.get(a.id), { status: 'succeeded' })
  t.same(engine.runs.map(({ id }) => id), [a.id, b.id])
})

t.test('cancelling ends a job in every state that is not final, and nothing of it is published', async (t) => {
  const { jobs, registry, root, engine, add } = await start(t, { training: { stepMs: 10, steps: 1_000 } })
  const first = add()
  await running(jobs, first.id, 3)
  const validating = add({ name: 'validating' })
  t.equal((await jobs.cancel(validating.id)).status, 'cancelled')
  const queued = add({ name: 'queued' })
  await reached(jobs, queued.id, 'queued')
  t.equal((await jobs.cancel(queued.id)).status, 'cancelled')
  const paused = add({ name: 'paused' })
  await jobs.pause(paused.id)
  t.equal((await jobs.cancel(paused.id)).status, 'cancelled')
  t.equal((await jobs.cancel(first.id)).status, 'cancelled', 'at once, also while it runs')
  const done = engine.stepsDone.length
  await new Promise((resolve) => setTimeout(resolve, 100))
  t.ok(engine.stepsDone.length <= done + 2, 'within two steps')
  t.same(registry.store.names(), [])
  const isGone = async () => (await readdir(join(root, 'jobs'))).length === 0
  for (const end = Date.now() + 10_000; !(await isGone()) && Date.now() < end;) await new Promise((resolve) => setTimeout(resolve, 10))
  t.ok(await isGone(), 'its folder is gone')
  t.equal((await jobs.cancel(first.id)).status, 'cancelled', 'again is no mistake')
  t.match(jobs.get(first.id), { finishedAt: Number, fineTunedModel: null })
})

t.test('pause keeps a job for its resumption, in every state that is not final', async (t) => {
  const { jobs, engine, add } = await start(t, { training: { stepMs: 5, steps: 40 } })
  const { id } = add()
  await running(jobs, id, 3)
  t.equal((await jobs.pause(id)).status, 'paused')
  t.equal((await jobs.pause(id)).status, 'paused')
  await new Promise((resolve) => setTimeout(resolve, 50))
  const done = engine.stepsDone.length
  await new Promise((resolve) => setTimeout(resolve, 50))
  t.equal(engine.stepsDone.length, done, 'nothing runs while it is paused')
  t.equal(jobs.resume(id).status, 'queued')
  t.match(await over(jobs, id), { status: 'succeeded' })
  t.same(engine.stepsDone, Array.from({ length: 40 }, (_, i) => i + 1), 'no step is done twice')
  t.ok(messages(jobs, id).some((message) => /goes on from step \d+ of 40/.test(message)))
})

t.test('a job that is paused before it runs waits, and one resumed while it stops goes on', async (t) => {
  const { jobs, engine, add } = await start(t, { training: { stepMs: 5, steps: 30 } })
  const { id } = add()
  await jobs.pause(id)
  await new Promise((resolve) => setTimeout(resolve, 60))
  t.match(jobs.get(id), { status: 'paused' })
  t.equal(engine.runs.length, 0)
  jobs.resume(id)
  await running(jobs, id, 2)
  await jobs.pause(id)
  t.equal(jobs.resume(id).status, 'queued')
  t.match(await over(jobs, id), { status: 'succeeded' })
})

t.test('a job that has ended cannot be cancelled, paused or resumed, and says so', async (t) => {
  const { jobs, add } = await start(t)
  const { id } = add()
  await over(jobs, id)
  await t.rejects(jobs.cancel(id), { code: 'INVALID_REQUEST', message: /has succeeded: it cannot be cancelled/ })
  await t.rejects(jobs.pause(id), { message: /cannot be paused/ })
  t.throws(() => jobs.resume(id), { message: /cannot be resumed/ })
  const other = add()
  await jobs.cancel(other.id)
  t.throws(() => jobs.resume(other.id), { message: /has been cancelled/ })
  await t.rejects(jobs.pause(other.id), { message: /has been cancelled/ })
})

t.test('the same idempotency key gives the same job, and another request is refused', async (t) => {
  const { jobs, root } = await start(t)
  const request = { key: 'k', digest: 'd' }
  const first = jobs.create(wanted(root), request)
  const again = jobs.create(wanted(root), request)
  t.same([first.isNew, again.isNew, again.job.id], [true, false, first.job.id])
  t.throws(() => jobs.create(wanted(root), { key: 'k', digest: 'other' }), { code: 'INVALID_REQUEST', param: 'Idempotency-Key' })
  t.equal(jobs.create(wanted(root, { owner: 'someone' }), request).isNew, true, 'keys of different owners do not meet')
  t.equal(jobs.list({ limit: 10 }).data.length, 2)
})

t.test('an owner has a limited number of jobs that wait or run', async (t) => {
  const { jobs, root, add } = await start(t, { maxActive: 2, training: { stepMs: 20 } })
  add()
  add()
  t.throws(() => add(), { code: 'QUEUE_FULL' })
  t.doesNotThrow(() => jobs.create(wanted(root, { owner: 'someone' })))
})

t.test('a server that stops leaves its jobs, and the next one takes them up where they were', async (t) => {
  const root = temporaryFolder(t)
  const before = await start(t, { root, training: { stepMs: 5, steps: 60 } })
  const [first, second] = [before.add({ name: 'one' }), before.add({ name: 'two' })]
  await running(before.jobs, first.id, 5)
  await before.jobs.close()
  const after = await start(t, { root, training: { steps: 60 } })
  t.match(await over(after.jobs, second.id), { status: 'succeeded' })
  t.match(after.jobs.get(first.id), { status: 'succeeded' })
  const done = [...before.engine.stepsDone, ...after.engine.stepsDone.slice(0, 60 - before.engine.stepsDone.length)]
  t.same(done, Array.from({ length: 60 }, (_, i) => i + 1), 'no step is lost or done twice')
  t.equal(after.jobs.store.metrics(first.id).length, 60)
})

t.test('a server that was killed: a job that ran is queued again', async (t) => {
  const root = temporaryFolder(t)
  const before = await start(t, { training: { stepMs: 5, steps: 100 } })
  const { id } = before.add()
  await running(before.jobs, id, 7)
  await t.rejects(start(t, { root: before.root }), { code: 'ENGINE_UNAVAILABLE', message: /held by another server/ })
  // What SIGKILL leaves: the files as they are while it runs.
  for (const name of await readdir(before.root)) await cp(join(before.root, name), join(root, name), { recursive: true })
  const after = await start(t, { root, training: { steps: 100 } })
  t.match(await over(after.jobs, id), { status: 'succeeded' })
  t.ok(messages(after.jobs, id).includes('The server was restarted; the job goes on from its last checkpoint'))
})

t.test('a server that was killed while it looked at data: the next one looks again', async (t) => {
  const root = temporaryFolder(t)
  const before = await start(t, { training: { stepMs: 5, steps: 1_000 } })
  const [first, second] = [before.add(), before.add()]
  await running(before.jobs, first.id, 2)
  before.jobs.store.update(second.id, { status: 'validating_files' })
  for (const name of await readdir(before.root)) await cp(join(before.root, name), join(root, name), { recursive: true })
  const after = await start(t, { root })
  t.match(await over(after.jobs, second.id), { status: 'succeeded' })
})

t.test('an engine that dies does not end a job: it goes on from the checkpoint, and steps are told once', async (t) => {
  const died = () => new EngineError('ENGINE_RESTARTED', 'The engine process died')
  const { jobs, add } = await start(t, { training: { failAt: [{ step: 8, error: died() }, { step: 9, error: died() }] } })
  const { id } = add()
  t.match(await over(jobs, id), { status: 'succeeded' })
  const steps = jobs.events(id, { limit: 1_000, order: 'asc' }).data
    .flatMap(({ data }) => (data?.['train_loss'] === undefined ? [] : data['step']))
  t.same(steps, Array.from({ length: 10 }, (_, i) => i + 1))
})

t.test('an engine that dies more often, with a new step between each time, does not fail the job', async (t) => {
  const failAt = [3, 5, 7, 9].map((step) => ({ step, error: new EngineError('ENGINE_RESTARTED', 'The engine process died') }))
  const { jobs, add } = await start(t, { training: { failAt } })
  t.match(await over(jobs, add().id), { status: 'succeeded' })
})

t.test('a job whose version is being made current cannot be cancelled any more, and who tries is told how it ended', async (t) => {
  const { jobs, registry, add } = await start(t)
  const promote = registry.promote.bind(registry)
  let cancelled: Promise<unknown> | undefined
  registry.promote = async (...args) => {
    cancelled = t.rejects(jobs.cancel(id), { code: 'INVALID_REQUEST', message: /has succeeded: it cannot be cancelled/ })
    await new Promise((resolve) => setTimeout(resolve, 50))
    return promote(...args)
  }
  const { id } = add()
  t.match(await over(jobs, id), { status: 'succeeded' })
  await cancelled
  t.equal(registry.store.current('sql'), jobs.get(id)!.version)
})

t.test('a job that ends the engine again and again without a new step fails', async (t) => {
  const failAt = Array.from({ length: 5 }, () => ({ step: 3, error: new EngineError('ENGINE_RESTARTED', 'The engine process died') }))
  const { jobs, add } = await start(t, { training: { failAt } })
  t.match(await over(jobs, add().id), { status: 'failed', error: { code: 'engine_crashed', message: /ended 3 times/ } })
})

t.test('a job waits, and says so once, while another run has the engine or its directory', async (t) => {
  const busy = () => new EngineError('TRAINING_BUSY', 'another run is going on in /there')
  const failAt = Array.from({ length: 4 }, () => ({ step: 1, error: busy() }))
  const { jobs, add } = await start(t, { training: { failAt } })
  const { id } = add()
  t.match(await over(jobs, id), { status: 'succeeded', crashes: 0 })
  t.same(messages(jobs, id).filter((message) => message.includes('wait')), ['The job waits for another training run to end'])
})

t.test('out of memory, bad data and a diverged run fail the job, and the next one runs', async (t) => {
  const failAt = [{ step: 1, error: new EngineError('OUT_OF_MEMORY', 'needs 9 GiB, 2 are free') }]
  const { jobs, root, registry, add } = await start(t, { training: { failAt } })
  t.match(await over(jobs, add().id), { status: 'failed', error: { code: 'out_of_memory', message: /9 GiB/ } })
  const bad = join(root, 'bad.jsonl')
  await writeFile(bad, `${ROW}\n{"bad": 1}\n`)
  const failed = await over(jobs, add({ train: { path: bad, shown: 'file-bad' } }).id)
  const error = { code: 'invalid_training_file', param: 'training_file', message: /file-bad:2: a message has no role/ }
  t.match(failed, { status: 'failed', error })
  t.notMatch(failed.error!.message, root, 'paths of the machine are not told')
  t.same(registry.store.names(), [])
  t.match(await over(jobs, add().id), { status: 'succeeded' })
})

t.test('a full disk pauses the job, and it goes on when it is resumed', async (t) => {
  const failAt = [{ step: 7, error: new EngineError('DISK_FULL', 'no space left for a checkpoint') }]
  const { jobs, add } = await start(t, { training: { failAt } })
  const { id } = add()
  await reached(jobs, id, 'paused')
  t.match(jobs.events(id, { limit: 1 }).data, [{ level: 'error', message: /no space left .* Resume it when there is space/ }])
  jobs.resume(id)
  t.match(await over(jobs, id), { status: 'succeeded' })
})

t.test('a disk too full for the database itself pauses the job, once that can be written, and the queue goes on', async (t) => {
  const { jobs, add } = await start(t, { training: { stepMs: 2 } })
  const full = () => { throw new Error('database or disk is full') }
  const { id } = add()
  await running(jobs, id, 2)
  const put = t.capture(jobs.store, 'putMetrics', full)
  const change = t.capture(jobs.store, 'update', full)
  await new Promise((resolve) => setTimeout(resolve, 300))
  change.restore()
  await reached(jobs, id, 'paused')
  put.restore()
  jobs.resume(id)
  t.match(await over(jobs, id), { status: 'succeeded' })
  t.match(await over(jobs, add({ name: 'next' }).id), { status: 'succeeded' })
})

t.test('a disk too full for the adapter pauses the job, and nothing is published', async (t) => {
  const { jobs, registry, add } = await start(t)
  const stage = t.capture(registry.store, 'stage', () => Promise.reject(Object.assign(new Error('no space'), { code: 'ENOSPC' })))
  const { id } = add()
  await reached(jobs, id, 'paused')
  t.same(registry.store.names(), [])
  stage.restore()
  jobs.resume(id)
  t.match(await over(jobs, id), { status: 'succeeded' })
})

t.test('a job made for another base fails with the reason', async (t) => {
  const root = temporaryFolder(t)
  const before = await start(t, { root, training: { stepMs: 20 } })
  const { id } = before.add()
  await before.jobs.close()
  const engine = new FakeTrainingEngine({}, {}, { hash: 'another-base' })
  const after = await start(t, { root, engine })
  t.match(await over(after.jobs, id), { status: 'failed', error: { code: 'base_model_changed', param: 'model' } })
})

t.test('data that is not there, empty or of an unknown kind fails before it is queued', async (t) => {
  const { jobs, root, add, engine } = await start(t)
  await writeFile(join(root, 'empty.jsonl'), '')
  await writeFile(join(root, 'white.jsonl'), ' \n\n')
  await writeFile(join(root, 'a.pickle'), 'x')
  await writeFile(join(root, 'broken.jsonl'), '{"messages": [')
  await mkdir(join(root, 'folder'))
  for (const name of ['none.jsonl', 'empty.jsonl', 'white.jsonl', 'a.pickle', 'broken.jsonl', 'folder']) {
    const job = await over(jobs, add({ train: { path: join(root, name), shown: name } }).id)
    t.match(job, { status: 'failed', startedAt: null, error: { code: 'invalid_training_file', param: 'training_file' } }, name)
    t.notMatch(job.error!.message, root, job.error!.message)
  }
  const path = join(root, 'empty.jsonl')
  t.match(await over(jobs, add({ validation: { path, shown: 'v' } }).id),
    { error: { code: 'invalid_validation_file', param: 'validation_file' } })
  t.equal(engine.runs.length, 0)
})

const gate = (root: string, fields: object) => ({
  data: { path: join(root, 'data.jsonl'), shown: 'file-1' }, metric: 'exact_match' as const, notWorseThanCurrent: false, ...fields,
})

t.test('the gate: a result that is good enough is published, another is not and leaves nothing', async (t) => {
  const script: FakeScript = { reply: ({ adapter }) => [adapter === null || adapter === undefined ? 'b' : 'a'] }
  const { jobs, root, registry, add, engine } = await start(t, { script })
  const passed = await over(jobs, add({ gate: gate(root, { threshold: 1 }) }).id)
  t.match(passed, { status: 'succeeded', evaluation: { exact_match: 1, samples: 2 } })
  engine.script = { reply: () => ['wrong'] }
  engine.training.content = 'worse'
  const failed = await over(jobs, add({ gate: gate(root, { threshold: 0.5 }) }).id)
  t.match(failed, { status: 'failed', fineTunedModel: null })
  t.match(failed.error, { code: 'evaluation_gate', message: /exact_match is 0, at least 0.5 is asked for/ })
  t.equal(registry.store.current('sql'), passed.version)
  t.equal(registry.store.versions('sql').length, 1, 'the version that failed is gone')
  const fresh = await over(jobs, add({ name: 'fresh', gate: gate(root, { threshold: 0.5 }) }).id)
  t.equal(fresh.status, 'failed')
  t.same(registry.store.names(), ['sql'], 'and so is a name that has no other')
})

t.test('the gate: not worse than the current version, or than the base where there is none', async (t) => {
  let version = 0
  const script: FakeScript = { reply: ({ adapter }) => [adapter && version === 1 ? 'a' : 'b'] }
  const { jobs, root, add, registry, engine } = await start(t, { script, training: { content: 'one' } })
  t.match(await over(jobs, add({ gate: gate(root, { notWorseThanCurrent: true }) }).id), { status: 'succeeded' }, 'as good as the base')
  version = 1
  engine.training.content = 'two'
  t.match(await over(jobs, add({ gate: gate(root, { notWorseThanCurrent: true }) }).id), { status: 'succeeded' })
  const good = registry.store.current('sql')!
  const handles = new Set<string>()
  engine.script = { reply: ({ adapter }) => [adapter?.version === good ? 'a' : (handles.add(adapter?.version ?? ''), 'b')] }
  engine.training.content = 'three'
  t.match(await over(jobs, add({ gate: gate(root, { notWorseThanCurrent: true }) }).id),
    { status: 'failed', error: { message: /exact_match is 0, worse than 1 of sql@/ } })
  t.equal(registry.store.current('sql'), good)
  engine.script = { reply: ({ adapter }) => [adapter ? 'b' : 'a'] }
  t.match(await over(jobs, add({ name: 'fresh', gate: gate(root, { notWorseThanCurrent: true }) }).id),
    { status: 'failed', error: { message: /exact_match is 0, worse than 1 of base/ } })
})

t.test('a job cancelled while its result is measured publishes nothing', async (t) => {
  const script: FakeScript = { delayMs: 30, reply: () => Array(100).fill('x') }
  const { jobs, root, registry, add } = await start(t, { script })
  const { id } = add({ gate: gate(root, { threshold: 0 }) })
  const deadline = Date.now() + 5_000
  const isMeasured = () => messages(jobs, id).some((message) => message.startsWith('Evaluating'))
  while (!isMeasured() && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5))
  t.equal((await jobs.cancel(id)).status, 'cancelled')
  await new Promise((resolve) => setTimeout(resolve, 200))
  t.same(registry.store.names(), [])
  t.match(jobs.get(id), { status: 'cancelled', fineTunedModel: null })
})

t.test('an engine that dies while the result is measured: it is measured again', async (t) => {
  const { jobs, root, registry, add, engine } = await start(t)
  engine.script = { refuse: new EngineError('ENGINE_RESTARTED', 'The engine process died') }
  const { id } = add({ gate: gate(root, { threshold: 0 }) })
  const isInterrupted = () => messages(jobs, id).some((message) => /goes on from its last checkpoint/.test(message))
  for (const end = Date.now() + 10_000; !isInterrupted() && Date.now() < end;) await new Promise((resolve) => setTimeout(resolve, 5))
  t.same(registry.store.names(), [], 'nothing is published meanwhile')
  engine.script = {}
  t.match(await over(jobs, id), { status: 'succeeded', evaluation: { samples: 2 } })
})

t.test('pages of jobs, events and checkpoints follow each other without gap', async (t) => {
  const { jobs, add } = await start(t, { training: { saveEvery: 2 } })
  const [a, b, c] = [add({ name: 'a', metadata: { team: 'x' } }), add({ name: 'b' }), add({ name: 'c', metadata: { team: 'x', n: '1' } })]
  const ids = [a, b, c].map(({ id }) => id)
  await over(jobs, ids[2]!)
  t.same(jobs.list({ limit: 2 }).data.map(({ name }) => name), ['c', 'b'])
  t.match(jobs.list({ limit: 2, after: ids[1]! }), { data: [{ name: 'a' }], hasMore: false })
  t.same(jobs.list({ limit: 9, metadata: { team: 'x' } }).data.map(({ name }) => name), ['c', 'a'])
  t.same(jobs.list({ limit: 9, metadata: null }).data.map(({ name }) => name), ['b'])
  const all = jobs.events(ids[0]!, { limit: 1_000 }).data.map(({ id }) => id)
  const paged: string[] = []
  for (let after: string | undefined; ;) {
    const page = jobs.events(ids[0]!, { limit: 3, ...(after !== undefined && { after }) })
    paged.push(...page.data.map(({ id }) => id))
    after = page.data.at(-1)!.id
    if (!page.hasMore) break
  }
  t.same(paged, all)
  const [first, rest] = [jobs.checkpoints(ids[0]!, { limit: 2 }), jobs.checkpoints(ids[0]!, { limit: 9 })]
  t.same(rest.data.map(({ step }) => step), [10, 8, 6, 4, 2])
  t.match(first, { hasMore: true, data: [{ step: 10 }, { step: 8 }] })
  await jobs.remove(ids[0]!)
  t.equal(jobs.get(ids[0]!), undefined)
  t.equal(jobs.events(ids[0]!, { limit: 9 }).data.length, 0)
})
