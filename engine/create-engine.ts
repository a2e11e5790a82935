// Options -> a LocalEngine: model, tokenizer and template loaded and fitted together.

import { join } from 'node:path'
import type { EngineOptions, ModelInfo, Progress, SamplingParams } from './api.js'
import { chooseTemplate } from './chat-template.js'
import { LocalEngine } from './engine.js'
import { EngineError } from './errors.js'
import { GEMMA_SAMPLING, GEMMA_STOP_IDS, type ModelSource, resolveModel } from './model-source.js'
import { type NativeModel, native, toEngineError } from './native.js'
import { PromptEncoder } from './prompt-encoder.js'
import { SampleEncoder } from './train/sample-encoder.js'
import { GEMMA_VOCAB_SIZE } from './token-table.js'
import type { Tokenizer } from './tokenizer.js'
import { warmUp } from './warm-up.js'

/**
 * An engine in this process.
 * @throws EngineError MODEL_NOT_FOUND, MODEL_INVALID, FILE_INVALID, UNSUPPORTED, OUT_OF_MEMORY, CUDA_NOT_BUILT
 */
export async function createLocalEngine(options: EngineOptions, onProgress: (progress: Progress) => void = () => {}): Promise<LocalEngine> {
  const source = resolveModel(options)
  const [model, tokenizer] = await settleBoth(loadModel(options, source, onProgress), source.loadTokenizer())
  const info = describe(options, source, model, tokenizer)
  const fullStepMs = await measureStep(model, options.maxBatchTokens, onProgress)
  const template = tokenizer && chooseTemplate(tokenizer.chatTemplate, tokenizer.controlSpellings)
  const encoder = tokenizer && template && new PromptEncoder(tokenizer, template)
  const training = tokenizer && template
    ? { encoder: new SampleEncoder(tokenizer, template), tokenizerFiles: source.tokenizerFiles } : undefined
  const { maxNumSeqs, maxBatchTokens, maxQueue, prefixCache } = options
  const table = tokenizer?.table ?? null
  return new LocalEngine({ model, info, encoder, table, training, maxNumSeqs, maxBatchTokens, maxQueue, prefixCache, fullStepMs })
}

async function loadModel(options: EngineOptions, source: ModelSource, onProgress: (progress: Progress) => void): Promise<NativeModel> {
  try {
    return await native().loadModel({
      path: source.path,
      device: options.device, isa: options.isa, compute: options.compute, weights: options.weights, head: options.head,
      nThreads: options.nThreads, maxModelLen: options.maxModelLen, kvCacheBytes: options.kvCacheBytes,
      maxBatchTokens: options.maxBatchTokens, maxNumSeqs: options.maxNumSeqs, maxLoras: options.maxLoras, maxLoraRank: options.maxLoraRank,
      adapterHostBytes: options.adapterHostBytes ?? 2 ** 30,
      cacheDir: options.dataDir === '' ? '' : join(options.dataDir, 'cache'),
      ...(options.gpuMemoryUtilization !== undefined && { gpuMemoryUtilization: options.gpuMemoryUtilization }),
      nvtx: options.nvtx ?? false,
    }, (phase, done, total) => onProgress({ phase, done, total }))
  } catch (error) {
    throw toEngineError(error)
  }
}

async function measureStep(model: NativeModel, maxBatchTokens: number, onProgress: (progress: Progress) => void): Promise<number> {
  onProgress({ phase: 'warming up', done: 0, total: 1 })
  try {
    return await warmUp(model, maxBatchTokens)
  } catch (error) {
    model.close()
    throw toEngineError(error)
  } finally {
    onProgress({ phase: 'warming up', done: 1, total: 1 })
  }
}

/** Both, or the first failure with the other's model closed again. */
async function settleBoth(loading: Promise<NativeModel>, reading: Promise<Tokenizer | null>): Promise<[NativeModel, Tokenizer | null]> {
  const [model, tokenizer] = await Promise.allSettled([loading, reading])
  if (model.status === 'rejected') throw model.reason as EngineError
  if (tokenizer.status === 'fulfilled') return [model.value, tokenizer.value]
  model.value.close()
  throw toEngineError(tokenizer.reason)
}

function describe(options: EngineOptions, source: ModelSource, model: NativeModel, tokenizer: Tokenizer | null): ModelInfo {
  const { info } = model
  return {
    name: info.name, source: options.model === '' ? 'embedded' : options.model, hash: info.hash, device: info.device, compute: info.compute,
    weights: info.weights, head: info.head, vocabSize: info.vocabSize, hiddenSize: info.hiddenSize, nLayers: info.nLayers,
    maxModelLen: Math.min(info.maxModelLen, info.nGlobalBlocks * info.blockTokens),
    hasTokenizer: tokenizer !== null,
    stopTokenIds: stopIds(source, model, tokenizer),
    defaultSampling: defaultSampling(source, info.vocabSize),
    maxLoras: options.maxLoras, maxLoraRank: options.maxLoraRank,
    kvBlockTokens: info.blockTokens, nGlobalBlocks: info.nGlobalBlocks, nSlidingBlocks: info.nSlidingBlocks,
  }
}

/** The model's own, and what ends a turn in its vocabulary: base checkpoints name only <eos>. */
function stopIds(source: ModelSource, { info }: NativeModel, tokenizer: Tokenizer | null): number[] {
  const named = ['<eos>', '<end_of_turn>'].map((spelling) => tokenizer?.controlId(spelling) ?? -1)
  const gemma = info.vocabSize >= GEMMA_VOCAB_SIZE ? GEMMA_STOP_IDS : []
  const all = new Set([...source.eosTokenIds, ...info.eosTokenIds, ...named, ...gemma])
  return [...all].filter((id) => id >= 0 && id < info.vocabSize).sort((a, b) => a - b)
}

/** A Gemma checkpoint without generation_config values (base checkpoints, GGUF) gets those of the published ones. */
function defaultSampling(source: ModelSource, vocabSize: number): SamplingParams {
  if (Object.keys(source.defaultSampling).length > 0) return source.defaultSampling
  return vocabSize >= GEMMA_VOCAB_SIZE ? GEMMA_SAMPLING : {}
}
