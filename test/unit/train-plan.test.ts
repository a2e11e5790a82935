// What decides which samples a step sees and at what rate: truncation, the order of rows, the schedule of the learning rate.

import t from 'tap'
import { fitSample } from '../../engine/train/dataset.js'
import { StepPlan } from '../../engine/train/plan.js'
import { type Schedule, learningRateAt, scheduleOf } from '../../engine/train/schedule.js'
import { resolveTrainConfig } from '../../engine/train/config.js'

/** Ten tokens; answers at 3 and 4, and from 8 on. */
const SAMPLE = {
  tokenIds: Array.from({ length: 10 }, (_, i) => i + 2),
  targets: { all: [[1, 10] as const], completion: [[8, 10] as const], assistant: [[3, 5] as const, [8, 10] as const] },
}
const fit = (maxLength: number, truncation: 'drop' | 'truncate' | 'error', lossOn: 'all' | 'completion' | 'assistant' = 'assistant') =>
  fitSample(SAMPLE, { maxLength, truncation, lossOn })

t.test('a sample that fits to the last token is taken whole, by every policy', async (t) => {
  for (const truncation of ['drop', 'truncate', 'error'] as const) {
    t.same(fit(10, truncation), { kept: 10, targets: SAMPLE.targets.assistant, truncated: false }, truncation)
  }
})

t.test('one token too long: dropped, cut with its targets, or an error with both lengths', async (t) => {
  t.equal(fit(9, 'drop'), 'dropped')
  t.same(fit(9, 'truncate'), { kept: 9, targets: [[3, 5], [8, 9]], truncated: true })
  t.throws(() => fit(9, 'error'), { kind: 'too_long', message: /10 tokens, max_length 9/ })
})

t.test('a cut before an answer leaves no target of it, and a sample without targets is dropped', async (t) => {
  t.same(fit(8, 'truncate'), { kept: 8, targets: [[3, 5]], truncated: true })
  t.equal(fit(8, 'truncate', 'completion'), 'dropped')
  t.equal(fit(3, 'truncate'), 'dropped')
  t.same(fit(3, 'truncate', 'all'), { kept: 3, targets: [[1, 3]], truncated: true })
})

t.test('a loss that the format does not have is a fault of the row', async (t) => {
  const plain = { ...SAMPLE, targets: { ...SAMPLE.targets, assistant: null } }
  t.throws(() => fitSample(plain, { maxLength: 10, truncation: 'drop', lossOn: 'assistant' }), { message: /no such turns/ })
})

const PLAN = {
  shuffle: true, seed: 42, perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 3, numTrainEpochs: 2, maxSteps: 0,
}
const ordersOf = (plan: StepPlan) => Array.from({ length: plan.totalSteps }, (_, i) => plan.windowOf(i + 1).map((rows) => [...rows]))

t.test('rows come in another order for another seed and another epoch, and in the same for the same', async (t) => {
  const order = (seed: number) => ordersOf(new StepPlan(20, { ...PLAN, seed })).flat(2)
  t.same(order(42), order(42))
  t.notSame(order(42), order(43))
  t.notSame(order(42).slice(0, 20), order(42).slice(20), 'epochs differ')
  t.same(order(43).slice(0, 20), order(42).slice(20), 'as accelerate seeds its sampler: by seed + epoch')
})

t.test('windows: batches of two, three to a step, and the rest of an epoch in a short one', async (t) => {
  const plan = new StepPlan(15, { ...PLAN, shuffle: false })
  t.same([plan.stepsPerEpoch, plan.totalSteps], [3, 6])
  const epoch = [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]], [[12, 13], [14]]]
  t.same(ordersOf(plan), [...epoch, ...epoch])
  t.same([2, 3, 6].map((step) => plan.endsEpoch(step)), [false, true, true])
})

const rates = (schedule: Partial<Schedule>) => {
  const whole: Schedule = { type: 'constant', learningRate: 1, totalSteps: 10, warmupSteps: 0, minLrRatio: 0.1, ...schedule }
  return Array.from({ length: 10 }, (_, i) => Number(learningRateAt(whole, i + 1).toFixed(6)))
}

t.test('schedules are transformers\' get_scheduler', async (t) => {
  t.same(rates({ type: 'constant', warmupSteps: 4 }), Array(10).fill(1))
  t.same(rates({ type: 'constant_with_warmup', warmupSteps: 4 }), [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1])
  t.same(rates({ type: 'linear', warmupSteps: 2 }), [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
  t.same(rates({ type: 'cosine' }), [1, 0.975528, 0.904508, 0.793893, 0.654508, 0.5, 0.345492, 0.206107, 0.095492, 0.024472])
  t.same(rates({ type: 'cosine_with_min_lr' }), [1, 0.977975, 0.914058, 0.814503, 0.689058, 0.55, 0.410942, 0.285497, 0.185942, 0.122025])
})

t.test('a share of warm-up is rounded up to steps, and steps given win', async (t) => {
  const of = (values: object, totalSteps: number) =>
    scheduleOf(resolveTrainConfig({ lr_scheduler_type: 'linear', ...values }), totalSteps).warmupSteps
  t.equal(of({ warmup_ratio: 0.03 }, 34), 2)
  t.equal(of({ warmup_ratio: 0.03 }, 100), 3)
  t.equal(of({ warmup_ratio: 0.5, warmup_steps: 7 }, 100), 7)
})
