import t from 'tap'
import { HYPER_PARAMETERS, isHyperParameter, resolveTrainConfig } from '../../engine/train/config.js'
import { presetConfig } from '../../engine/train/presets.js'
import { learningRateAt, scheduleOf } from '../../engine/train/schedule.js'

t.test('every field of a preset has a public name and comes back by it', async (t) => {
  const guide = presetConfig('guide')
  t.same(HYPER_PARAMETERS.filter((name) => !isHyperParameter(name)), [])
  const byName = Object.fromEntries(Object.entries(guide).map(([field, value]) =>
    [field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), value]))
  t.same(resolveTrainConfig({ preset: 'guide', ...byName }), guide)
})

t.test('names of PEFT and TRL are understood, null counts as absent', async (t) => {
  const config = resolveTrainConfig({
    preset: 'guide', lora_alpha: 32, max_seq_length: 256, packing: false, max_steps: -1, optim: 'paged_adamw_8bit',
    assistant_only_loss: true, gradient_checkpointing: true, modules_to_save: ['lm_head'], target_modules: 'q_proj', seed: null,
  })
  t.match(config, {
    r: 16, loraAlpha: 32, maxLength: 256, packing: 'none', maxSteps: 0, optim: 'adamw_8bit', lossOn: 'assistant',
    gradientCheckpointing: 'layer', modulesToSave: ['lm_head'], targetModules: ['q_proj'], seed: 42, learningRate: 2e-4,
  })
})

t.test('a wrong value is refused by its name', async (t) => {
  const wrong: [Record<string, unknown>, string][] = [
    [{ r: 0 }, 'r'], [{ r: '16' }, 'r'], [{ lora_dropout: 1 }, 'lora_dropout'], [{ learning_rate: NaN }, 'learning_rate'],
    [{ target_modules: [] }, 'target_modules'], [{ target_modules: ['fc1'] }, 'target_modules'], [{ preset: 'fast' }, 'preset'],
    [{ lr_scheduler_type: 'polynomial' }, 'lr_scheduler_type'], [{ train_share: 0 }, 'train_share'],
    [{ learningRate: 1 }, 'learningRate'],
    [{ beta: 1 }, 'beta'], [{ shuffle: 1 }, 'shuffle'], [{ init_from: '' }, 'init_from'], [{ seed: 1.5 }, 'seed'],
    [{ compat: 'trl' }, 'compat'], [{ num_train_epochs: Infinity }, 'num_train_epochs'],
    [{ __proto__: null, constructor: 1 }, 'constructor'],
  ]
  for (const [values, param] of wrong) {
    t.throws(() => resolveTrainConfig(values), { code: 'INVALID_REQUEST', param }, param)
  }
})

t.test('the guide trains turn tokens, and with compat the whole embedding and head, as its stack does', async (t) => {
  t.match(presetConfig('guide'), { trainTurnTokens: true, modulesToSave: [] })
  const compat = resolveTrainConfig({ preset: 'guide', compat: 'trl-0.21-eager' })
  t.match(compat, { trainTurnTokens: false, modulesToSave: ['lm_head', 'embed_tokens'] })
})

t.test('a warm-up is honoured with `constant`, and ignored as the guide\'s stack ignores it with compat', async (t) => {
  const rates = (values: Record<string, unknown>) => {
    const schedule = scheduleOf(resolveTrainConfig({ preset: 'guide', warmup_ratio: 0.2, learning_rate: 1, ...values }), 10)
    return Array.from({ length: 10 }, (_, i) => learningRateAt(schedule, i + 1))
  }
  t.same(rates({}), [0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1])
  t.same(rates({ warmup_steps: 1 }), [0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
  t.same(rates({ compat: 'trl-0.21-eager' }), Array(10).fill(1))
  t.same(rates({ lr_scheduler_type: 'linear', warmup_ratio: 0 }), Array.from({ length: 10 }, (_, i) => (10 - i) / 10))
})
