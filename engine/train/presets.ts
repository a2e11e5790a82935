// Starting points of a configuration: `guide` is the published QLoRA recipe, `default` what we would choose.

import type { TrainConfig } from './types.js'

export type PresetName = 'guide' | 'default'
export const PRESET_NAMES: readonly PresetName[] = ['default', 'guide']

const GUIDE: TrainConfig = {
  r: 16, loraAlpha: 16, loraDropout: 0.05, useRslora: false, useDora: false,
  targetModules: ['all-linear'], layersToTransform: [], trainableTokenIndices: [], trainTurnTokens: true, modulesToSave: [],
  maxLength: 512, packing: 'bfd', truncation: 'truncate', lossOn: 'all', validationSplit: 0, shuffle: true, badRows: 'refuse',
  numTrainEpochs: 3, maxSteps: 0, perDeviceTrainBatchSize: 1, gradientAccumulationSteps: 4, lossNormalization: 'token-mean',
  learningRate: 2e-4, lrSchedulerType: 'constant', warmupRatio: 0.03, warmupSteps: 0, minLrRatio: 0,
  optim: 'adamw', weightDecay: 0, adamBeta1: 0.9, adamBeta2: 0.999, adamEpsilon: 1e-8, maxGradNorm: 0.3,
  seed: 42, gradientCheckpointing: 'auto', compat: 'none',
  loggingSteps: 10, evalSteps: 0, earlyStoppingPatience: 0, loadBestModelAtEnd: false, saveSteps: 0, saveTotalLimit: 2, trainShare: 0.5,
}

/** Answers alone are learnt, nothing is cut in its middle, the rate falls to its end, and the best evaluation is kept. */
const DEFAULT: TrainConfig = {
  ...GUIDE,
  loraDropout: 0, truncation: 'drop', lossOn: 'assistant', lrSchedulerType: 'cosine_with_min_lr', minLrRatio: 0.1, maxLength: 1024,
  maxGradNorm: 1, loggingSteps: 1, loadBestModelAtEnd: true, saveSteps: 50,
}

/** With `trl-0.21-eager` the guide trains whole embedding and head, as its stack does. */
export function presetConfig(name: PresetName, compat: TrainConfig['compat'] = 'none'): TrainConfig {
  const preset = name === 'guide' ? GUIDE : DEFAULT
  if (compat === 'none') return preset
  const modules = name === 'guide' ? { trainTurnTokens: false, modulesToSave: ['lm_head', 'embed_tokens'] } : {}
  return { ...preset, ...modules, compat }
}
