import { existsSync, readFileSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { NativeMicroBatch } from '../../engine/native.js'
import { demandSameRun } from '../../engine/train/checkpoint.js'
import { resolveTrainConfig } from '../../engine/train/config.js'
import { SampleEncoder } from '../../engine/train/sample-encoder.js'
import { runTraining } from '../../engine/train/trainer.js'
import type { TrainEvent } from '../../engine/train/types.js'
import type { Tokenizer } from '../../engine/tokenizer.js'
import { gemmaTemplate } from '../../engine/chat-template.js'
import type { FakeTrainer } from './fake-trainer.js'
import { byteEncoder, byteTokenizer, jsonl, temporaryFolder } from './train-fixtures.js'
import { readRow } from '../../engine/train/row-format.js'
import { type RunOptions, ofType, requestOf, rowsOfChats, run, weightsOf } from './train-run.js'

const folder = temporaryFolder()
t.teardown(() => folder.remove())
let nRuns = 0
const outputDir = () => join(folder.path, `run-${nRuns++}`)
const files = [folder.write('train.jsonl', jsonl(rowsOfChats(23)))]
const fewFiles = [folder.write('few.jsonl', jsonl(rowsOfChats(5)))]

const batchesOf = (trainer: FakeTrainer | undefined) => trainer!.calls.filter(({ kind }) => kind === 'accumulate')
const documentsOf = ({ tokenIds, documentStarts }: NativeMicroBatch) =>
  Array.from({ length: documentStarts.length - 1 }, (_, d) => tokenIds.slice(documentStarts[d], documentStarts[d + 1]).join())

t.test('every sample is seen exactly once an epoch, in another order each', async (t) => {
  const expected = await Promise.all(rowsOfChats(23).map(async (row) => (await byteEncoder.encode(readRow(row))).tokenIds.join()))
  for (const packing of [true, false]) {
    const { events, trainer } = await run({ files, outputDir: outputDir(), values: { packing, num_train_epochs: 3 } })
    const [{ totalSteps, report }] = ofType(events, 'data') as [Extract<TrainEvent, { type: 'data' }>]
    const epochs: string[][] = [[], [], []]
    let step = 0
    for (const { kind, batch } of trainer!.calls) {
      if (kind === 'step') step++
      else epochs[Math.floor(step / (totalSteps / 3))]!.push(...documentsOf(batch!))
    }
    for (const seen of epochs) t.same([...seen].sort(), [...expected].sort())
    t.not(epochs[0]!.join('|'), epochs[1]!.join('|'))
    t.equal(report.rows, packing ? batchesOf(trainer).length / 3 : 23)
  }
})

t.test('a window\'s gradient is of the mean over its targets; the last window of an epoch may be short', async (t) => {
  const values = { packing: false, per_device_train_batch_size: 2, gradient_accumulation_steps: 3, num_train_epochs: 1 }
  const { events, trainer } = await run({ files, outputDir: outputDir(), values })
  const windows: { scale: number; targets: number }[][] = [[]]
  for (const { kind, batch, gradientScale } of trainer!.calls) {
    if (kind === 'step') windows.push([])
    else windows.at(-1)!.push({ scale: gradientScale!, targets: batch!.targets.filter((id) => id >= 0).length })
  }
  t.same(windows.map((window) => window.length), [3, 3, 3, 3, 0], '23 rows are 12 micro-batches of at most 2')
  t.equal(batchesOf(trainer).at(-1)!.batch!.documentStarts.length, 2, 'the last has one row')
  const nTargets = windows.slice(0, -1).map((window) => window.reduce((n, { targets }) => n + targets, 0))
  t.same(ofType(events, 'step').map(({ targets }) => targets), nTargets)
  windows.slice(0, -1).forEach((window, i) => { for (const { scale } of window) t.equal(scale, 1 / nTargets[i]!) })
  const means = await run({ files, outputDir: outputDir(), values: { ...values, loss_normalization: 'mean-of-means' } })
  for (const { batch, gradientScale } of batchesOf(means.trainer)) {
    t.equal(gradientScale, 1 / (3 * batch!.targets.filter((id) => id >= 0).length))
  }
  const few = { packing: false, gradient_accumulation_steps: 4, max_steps: 3 }
  const short = await run({ files: fewFiles, outputDir: outputDir(), values: few })
  const kinds = short.trainer!.calls.map(({ kind }) => kind[0]).join('')
  t.equal(kinds, 'aaaasasaaaas', 'the second window has one row, the third is of the next epoch')
  const shortMeans = await run({ files: fewFiles, outputDir: outputDir(), values: { ...few, loss_normalization: 'mean-of-means' } })
  const { batch, gradientScale } = batchesOf(shortMeans.trainer)[4]!
  t.equal(gradientScale, 1 / batch!.targets.filter((id) => id >= 0).length, 'a window of one is its own mean')
})

t.test('the counter of tokens grows by each micro-batch, over the whole run', async (t) => {
  const { trainer, events } = await run({ files, outputDir: outputDir() })
  let tokens = 0n
  for (const { batch } of batchesOf(trainer)) {
    t.equal(batch!.tokenCounter, tokens)
    tokens += BigInt(batch!.tokenIds.length)
  }
  t.equal(BigInt(ofType(events, 'finished')[0]!.tokens), tokens)
})

const VARIED: RunOptions['values'] = {
  packing: false, gradient_accumulation_steps: 2, per_device_train_batch_size: 3, validation_split: 0.2, eval_steps: 2, save_steps: 2,
  logging_steps: 3, lr_scheduler_type: 'cosine', warmup_steps: 2, load_best_model_at_end: true, num_train_epochs: 4,
}

/** Lines of metrics.jsonl without what depends on the clock. */
function metricsOf(directory: string): unknown[] {
  return readFileSync(join(directory, 'metrics.jsonl'), 'utf8').trim().split('\n').map((line) => {
    const { tokensPerSecond: _speed, remainingMs: _left, ...rest } = JSON.parse(line) as Record<string, unknown>
    return rest
  })
}

t.test('a run that breaks off after any event goes on to the same adapter and the same metrics', async (t) => {
  const whole = outputDir()
  const { events, adapter } = await run({ files, outputDir: whole, values: VARIED })
  t.ok(adapter)
  t.ok(ofType(events, 'evaluation').length >= 4)
  for (let n = 1; n < events.length; n++) {
    const broken = outputDir()
    let seen = 0
    const crash = run({ files, outputDir: broken, values: VARIED, onEvent: () => { if (++seen === n) throw new Error('crash') } })
    await t.rejects(crash, { message: 'crash' })
    const resumed = await run({ files, outputDir: broken, values: VARIED })
    t.equal(resumed.adapter, adapter, `after event ${n}, ${events[n - 1]!.type}`)
    t.same(metricsOf(broken), metricsOf(whole))
    t.match(resumed.events.at(-1), { tokens: ofType(events, 'finished')[0]!.tokens })
  }
})

t.test('a run that is stopped at any call ends within two steps, with a checkpoint, and goes on to the same adapter', async (t) => {
  const values = { ...VARIED, num_train_epochs: 2 }
  const whole = await run({ files, outputDir: outputDir(), values })
  const nCalls = whole.trainer!.calls.length
  for (let n = 0; n < nCalls; n++) {
    const stopped = outputDir()
    let stepsAfter = 0
    const first = await run({
      files, outputDir: stopped, values,
      prepare: (trainer, controller) => {
        let seen = 0
        trainer.onCall = ({ kind }) => {
          if (seen++ === n) controller.abort()
          if (controller.signal.aborted && kind === 'step') stepsAfter++
        }
      },
    })
    const last = first.events.at(-1)!
    t.equal(last.type, 'stopped')
    t.ok(stepsAfter <= 2)
    if (last.type === 'stopped' && last.step > 0) t.ok(existsSync(join(stopped, `checkpoint-${last.step}`, 'trainer_state.json')))
    const second = await run({ files, outputDir: stopped, values })
    t.equal(second.adapter, whole.adapter, `stopped at call ${n} of ${nCalls}`)
  }
})

t.test('stopped again and again after each step, the run still ends as if it had not been', async (t) => {
  const whole = await run({ files, outputDir: outputDir(), values: VARIED })
  const broken = outputDir()
  for (let i = 0; i < 100; i++) {
    const { events, adapter } = await run({
      files, outputDir: broken, values: VARIED,
      prepare: (trainer, controller) => { trainer.onCall = ({ kind }) => { if (kind === 'step') controller.abort() } },
    })
    if (events.at(-1)!.type !== 'finished') continue
    t.equal(adapter, whole.adapter)
    return t.ok(i > 4, `after ${i} stops`)
  }
  t.fail('it never ended')
})

t.test('a signal that is aborted before the data has been read stops at once', async (t) => {
  const directory = outputDir()
  const controller = new AbortController()
  controller.abort()
  const events: TrainEvent[] = []
  const base = {
    info: { source: 'x', hash: 'x', vocabSize: 300 }, encoder: byteEncoder, tokenizerFiles: [], createTrainer: () => t.fail() as never,
  }
  for await (const event of runTraining(requestOf({ files, outputDir: directory }), base, controller.signal)) events.push(event)
  t.same(events, [{ type: 'stopped', step: 0 }])
  t.same(readdirSync(directory), [])
})

t.test('while data is read a word comes now and then; stopped or left there, nothing stays behind', async (t) => {
  const many = [folder.write('many.jsonl', jsonl(rowsOfChats(2000)))]
  const slow: Tokenizer = { ...byteTokenizer, encode: async (text) => (await sleep(50), byteTokenizer.encode(text)) }
  const base = {
    info: { source: 'x', hash: 'x', vocabSize: 300 }, encoder: new SampleEncoder(slow, gemmaTemplate), tokenizerFiles: [],
    createTrainer: () => t.fail() as never,
  }
  const directory = outputDir()
  const request = requestOf({ files: many, outputDir: directory })
  const controller = new AbortController()
  const events: TrainEvent[] = []
  for await (const event of runTraining(request, base, controller.signal)) {
    events.push(event)
    controller.abort()
  }
  t.match(events, [{ type: 'preparing', rows: Number }, { type: 'stopped', step: 0 }])
  for await (const event of runTraining(request, base, new AbortController().signal)) if (event.type === 'preparing') break
  t.same(readdirSync(directory), [])
})

t.test('early stopping without validation data is refused', async (t) => {
  const values = { early_stopping_patience: 2 }
  await t.rejects(run({ files, outputDir: outputDir(), values }), { code: 'INVALID_REQUEST', message: /no validation data/ })
})

t.test('a finished run says so again, and nothing is trained twice', async (t) => {
  const directory = outputDir()
  const first = await run({ files, outputDir: directory, values: VARIED })
  const second = await run({ files, outputDir: directory, values: VARIED })
  t.equal(second.adapter, first.adapter)
  t.equal(second.trainer!.calls.length, 0)
  t.match(second.events, [{ type: 'data', resumedFrom: 12 }, { type: 'finished', final: ofType(first.events, 'finished')[0]!.final }])
})

t.test('the best evaluation is kept, whatever comes after it, and old checkpoints go', async (t) => {
  const directory = outputDir()
  const values = { ...VARIED, save_total_limit: 1 }
  const prepare = (trainer: FakeTrainer) => { trainer.evaluations = [5, 5, 3, 3, 4, 4, 6, 6, 7, 7, 8, 8] }
  const { events } = await run({ files, outputDir: directory, values, prepare })
  const evaluations = ofType(events, 'evaluation')
  t.same(evaluations.map(({ best }) => best), [true, true, false, false, false, false])
  const best = evaluations[1]!
  const names = readdirSync(directory).filter((name) => name.startsWith('checkpoint-'))
  t.same(names.sort(), ['checkpoint-12', `checkpoint-${best.step}`].sort())
  t.equal(weightsOf(directory), readFileSync(join(directory, `checkpoint-${best.step}`, 'adapter_model.safetensors'), 'utf8'))
  t.match(events.at(-1), { type: 'finished', step: 12, final: { loss: 3 } })
})

t.test('a checkpoint whose best one is gone is passed over: the result would not be there', async (t) => {
  const prepare = (trainer: FakeTrainer) => { trainer.evaluations = [3, 3, 5, 5, 6, 6] }
  const values = { ...VARIED, num_train_epochs: 2 }
  const whole = await run({ files, outputDir: outputDir(), values, prepare })
  const directory = outputDir()
  const onEvent = (event: TrainEvent) => { if (event.type === 'checkpoint' && event.step === 4) throw new Error('crash') }
  await t.rejects(run({ files, outputDir: directory, values, prepare, onEvent }), { message: 'crash' })
  rmSync(join(directory, 'checkpoint-2'), { recursive: true })
  const { events, adapter } = await run({ files, outputDir: directory, values, prepare })
  t.equal(ofType(events, 'data')[0]!.resumedFrom, 0)
  t.equal(adapter, whole.adapter)
})

t.test('evaluations without gain end a run early', async (t) => {
  const values = { ...VARIED, early_stopping_patience: 2 }
  const prepare = (trainer: FakeTrainer) => { trainer.evaluations = [5, 5, 4, 4, 4, 4, 4.5, 4.5, 1, 1] }
  const { events } = await run({ files, outputDir: outputDir(), values, prepare })
  t.same(ofType(events, 'evaluation').map(({ loss }) => loss), [5, 4, 4, 4.5])
  t.match(events.at(-1), { type: 'finished', step: 8, final: { loss: 4 } })
})

t.test('a torn checkpoint is passed over', async (t) => {
  const whole = await run({ files, outputDir: outputDir(), values: { save_total_limit: 0 } })
  const tears: [string, (path: string) => void][] = [
    ['state cut short', (path) => truncateSync(join(path, 'state.safetensors'), 20)],
    ['state of the same size, but other bytes', (path) => {
      const state = readFileSync(join(path, 'state.safetensors'))
      state[10]! ^= 1
      writeFileSync(join(path, 'state.safetensors'), state)
    }],
    ['no manifest', (path) => rmSync(join(path, 'trainer_state.json'))],
    ['manifest cut short', (path) => truncateSync(join(path, 'trainer_state.json'), 100)],
    ['no adapter', (path) => rmSync(join(path, 'adapter_model.safetensors'))],
  ]
  for (const [name, tear] of tears) {
    const directory = outputDir()
    await t.rejects(run({ files, outputDir: directory, values: { save_total_limit: 0 },
      onEvent: (event) => { if (event.type === 'checkpoint' && event.step === 6) throw new Error('crash') } }))
    tear(join(directory, 'checkpoint-6'))
    folder.write('unused', '')
    const { events, adapter } = await run({ files, outputDir: directory, values: { save_total_limit: 0 } })
    t.equal(ofType(events, 'data')[0]!.resumedFrom, 3, name)
    t.equal(adapter, whole.adapter, name)
  }
})

t.test('another configuration or other data does not go on from a checkpoint, and what differs is said', async (t) => {
  const directory = outputDir()
  await t.rejects(run({ files, outputDir: directory, onEvent: (event) => { if (event.type === 'checkpoint') throw new Error('crash') } }))
  const cases: [Partial<RunOptions>, RegExp][] = [
    [{ values: { learning_rate: 1e-3 } }, /learning_rate was 0\.0002, is 0\.001/],
    [{ values: { target_modules: ['q_proj'], seed: 7 } }, /target_modules was \["all-linear"\], is \["q_proj"\]; .*seed/],
    [{ files: fewFiles }, /other training data/],
    [{ validationFiles: fewFiles }, /other training data/],
  ]
  for (const [other, message] of cases) {
    await t.rejects(run({ files, outputDir: directory, ...other }), { code: 'INVALID_REQUEST', message })
  }
  const values = { train_share: 0.9, save_total_limit: 5, gradient_checkpointing: 'layer' }
  const { adapter } = await run({ files, outputDir: directory, values })
  t.equal(adapter, (await run({ files, outputDir: outputDir() })).adapter, 'what does not change the result may differ')
})

t.test('a checkpoint over another base is not gone on from', async (t) => {
  const identity = { config: resolveTrainConfig({}), dataHash: 'data', baseHash: 'one', totalSteps: 1 }
  demandSameRun('there', identity, identity)
  const other = { ...identity, baseHash: 'two' }
  t.throws(() => demandSameRun('there', identity, other), { code: 'INVALID_REQUEST', message: /another base model/ })
})

t.test('a full disk ends the run with its own code, nothing half-written, and the run can go on', async (t) => {
  const directory = outputDir()
  const prepare = (trainer: FakeTrainer) => {
    const { saveState } = trainer
    trainer.saveState = async (path) => {
      if (path.includes('checkpoint-6')) throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' })
      await saveState.call(trainer, path)
    }
  }
  await t.rejects(run({ files, outputDir: directory, prepare }), { code: 'DISK_FULL' })
  t.same(readdirSync(directory).filter((name) => /checkpoint|adapter|tmp/.test(name)), ['checkpoint-3'])
  t.equal((await run({ files, outputDir: directory })).adapter, (await run({ files, outputDir: outputDir() })).adapter)
})

t.test('a loss that is no number ends the run before it reaches the parameters', async (t) => {
  const directory = outputDir()
  const prepare = (trainer: FakeTrainer) => {
    let n = 0
    const { accumulate } = trainer
    trainer.accumulate = async (...args) => ({ ...await accumulate.apply(trainer, args), ...(++n > 13 && { lossSum: NaN }) })
  }
  const message = /the loss is NaN; the last checkpoint is of step 3/
  await t.rejects(run({ files, outputDir: directory, prepare }), { code: 'TRAINING_DIVERGED', message })
})

t.test('gradients are recomputed as far as memory demands, and no further', async (t) => {
  const tried: string[] = []
  const refuse = (limit: number) => (trainer: FakeTrainer) => {
    tried.push(trainer.options.checkpointing)
    if (tried.length <= limit) throw Object.assign(new Error('too large'), { code: 'OUT_OF_MEMORY' })
  }
  await run({ files, outputDir: outputDir(), prepare: refuse(1) })
  t.same(tried.splice(0), ['none', 'mlp'])
  await t.rejects(run({ files, outputDir: outputDir(), prepare: refuse(3) }), { code: 'OUT_OF_MEMORY' })
  t.same(tried.splice(0), ['none', 'mlp', 'layer'])
  const fixed = { gradient_checkpointing: 'mlp' }
  await t.rejects(run({ files, outputDir: outputDir(), prepare: refuse(1), values: fixed }), { code: 'OUT_OF_MEMORY' })
})

t.test('the trainer is asked for what the configuration says', async (t) => {
  const values = {
    r: 8, lora_alpha: 32, use_rslora: true, target_modules: ['q_proj', 'v_proj'], layers_to_transform: [1], seed: 9,
    modules_to_save: ['lm_head'],
  }
  const { trainer } = await run({ files, outputDir: outputDir(), values })
  t.match(trainer!.options, {
    rank: 8, alpha: 32, useRslora: true, useDora: false, dropout: 0.05, targetModules: ['q_proj', 'v_proj'],
    modulesToSave: ['lm_head'], seed: 9n, optimizer: 'adamw', checkpointing: 'none', trainShare: 0.5,
  })
  t.same([...trainer!.options.layers], [1])
  t.same([...trainer!.options.trainableTokenIds], [4, 5], 'the turn tokens of this vocabulary')
  t.equal(trainer!.options.maxTokens, Math.max(...batchesOf(trainer).map(({ batch }) => batch!.tokenIds.length)))
  await t.rejects(run({ files, outputDir: outputDir(), values: { trainable_token_indices: [262] } }), { message: /there is no 262/ })
  await t.rejects(run({ files, outputDir: outputDir(), values: { init_from: folder.path } }), { code: 'ADAPTER_NOT_FOUND' })
})

t.test('a run may start from an adapter, if it is of the same form', async (t) => {
  const first = outputDir()
  await run({ files, outputDir: first })
  const initFrom = join(first, 'adapter')
  const fresh = await run({ files, outputDir: outputDir() })
  const next = await run({ files, outputDir: outputDir(), values: { init_from: initFrom } })
  t.not(next.adapter, fresh.adapter)
  const other = run({ files, outputDir: outputDir(), values: { init_from: initFrom, lora_alpha: 32, use_rslora: true } })
  await t.rejects(other, { code: 'ADAPTER_INVALID', message: /lora_alpha 16 there, 32 here; use_rslora false there, true here/ })
})

t.test('the final folder is a PEFT adapter with a model card', async (t) => {
  const directory = outputDir()
  const { events } = await run({ files, outputDir: directory, values: { r: 4, target_modules: ['v_proj', 'q_proj'] } })
  t.same(readdirSync(join(directory, 'adapter')).sort(), ['README.md', 'adapter_config.json', 'adapter_model.safetensors'])
  const config = JSON.parse(readFileSync(join(directory, 'adapter', 'adapter_config.json'), 'utf8')) as object
  t.match(config, {
    r: 4, lora_alpha: 16, lora_dropout: 0.05, target_modules: ['q_proj', 'v_proj'], trainable_token_indices: [4, 5], modules_to_save: null,
    layers_to_transform: null, peft_type: 'LORA', task_type: 'CAUSAL_LM', base_model_name_or_path: 'fake-base', inference_mode: true,
  })
  t.match(readFileSync(join(directory, 'adapter', 'README.md'), 'utf8'), /base_model: "fake-base"\nlibrary_name: peft[^]*samples \| 23/)
  t.equal(ofType(events, 'finished')[0]!.adapterPath, join(directory, 'adapter'))
})
