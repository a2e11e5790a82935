// A LocalEngine over the fake device and vocabulary.

import type { ModelInfo } from '../../engine/api.js'
import { type EngineParts, LocalEngine } from '../../engine/engine.js'
import { FakeModel, type FakeOptions } from './fake-native.js'
import { gemmaTemplate } from '../../engine/chat-template.js'
import { SampleEncoder } from '../../engine/train/sample-encoder.js'
import { fakeEncoder, fakeTable, fakeTokenizer } from './fake-tokenizer.js'

export type FakeEngineOptions = FakeOptions & Partial<Pick<EngineParts, 'maxNumSeqs' | 'maxBatchTokens' | 'maxQueue' | 'prefixCache'>>

export function fakeEngine(options: FakeEngineOptions = {}, model = new FakeModel(options)): { engine: LocalEngine; model: FakeModel } {
  const native = model.info
  const info: ModelInfo = {
    name: native.name, source: 'fake', hash: native.hash, device: native.device, compute: native.compute, weights: native.weights,
    head: native.head, vocabSize: native.vocabSize, hiddenSize: native.hiddenSize, nLayers: native.nLayers, maxModelLen: native.maxModelLen,
    hasTokenizer: true, stopTokenIds: native.eosTokenIds, defaultSampling: {}, maxLoras: 4, maxLoraRank: 64,
    kvBlockTokens: native.blockTokens, nGlobalBlocks: native.nGlobalBlocks, nSlidingBlocks: native.nSlidingBlocks,
  }
  const engine = new LocalEngine({
    model, info, encoder: fakeEncoder, table: fakeTable,
    training: { encoder: new SampleEncoder(fakeTokenizer, gemmaTemplate), tokenizerFiles: [] },
    maxNumSeqs: options.maxNumSeqs ?? 8, maxBatchTokens: options.maxBatchTokens ?? 32,
    maxQueue: options.maxQueue ?? 64, prefixCache: options.prefixCache ?? true, fullStepMs: 1,
  })
  return { engine, model }
}
