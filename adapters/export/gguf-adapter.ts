// `lorikeet export --gguf` of an adapter: LoRA as llama.cpp loads it beside a model (--lora).

import { EngineError } from '../../engine/errors.js'
import type { MergedModel } from '../../engine/merged-weights.js'
import { ggufF32, ggufString, writeGguf, type GgufTensorPlan } from './gguf.js'
import { ggufName } from './gguf-model.js'

/** @throws EngineError UNSUPPORTED for an adapter that is more than LoRA on linear layers */
export async function writeGgufAdapter({ weights }: MergedModel, name: string, out: string): Promise<void> {
  const { lora } = weights
  if (lora === null) throw new EngineError('INVALID_REQUEST', 'an adapter is needed', { param: 'adapter' })
  checkPlainLora(lora)
  const [first] = lora.modules
  if (first === undefined) throw new EngineError('UNSUPPORTED', 'the adapter has no LoRA, so there is nothing to export')
  // The format has one alpha; llama.cpp scales a module by alpha / rank. What differs from that goes into B.
  const alpha = Math.fround(first.scale * first.rank)
  const values = new Map([
    ['general.architecture', ggufString('gemma3')],
    ['general.type', ggufString('adapter')],
    ['adapter.type', ggufString('lora')],
    ['general.name', ggufString(name)],
    ['adapter.lora.alpha', ggufF32(alpha)],
  ])
  const tensors = lora.modules.flatMap((module) => {
    const base = ggufName(`layers.${module.layer}.${module.module}`)
    const factor = module.scale / (alpha / module.rank)
    const part = (letter: 'a' | 'b', shape: number[]): GgufTensorPlan => ({
      name: `${base}.lora_${letter}`, shape, type: 'F32', bytes: shape[0]! * shape[1]! * 4,
      *chunks() { yield valuesOf(weights.loraValues(module.layer, module.module, letter), letter === 'b' ? factor : 1) },
    })
    return [part('a', [module.rank, module.shape[1]]), part('b', [module.shape[0], module.rank])]
  })
  await writeGguf(out, values, tensors)
}

function checkPlainLora({ usesDora, changesTokens }: { readonly usesDora: boolean; readonly changesTokens: boolean }): void {
  const more = usesDora ? 'magnitudes (DoRA)' : changesTokens ? 'rows of the embedding or the head' : undefined
  if (more === undefined) return
  throw new EngineError('UNSUPPORTED',
    `llama.cpp's adapters hold LoRA on linear layers alone, and this one also has ${more}: export the merged model instead (--merged)`)
}

function valuesOf(values: Float32Array, factor: number): Uint8Array {
  const scaled = Math.abs(factor - 1) < 1e-6 ? values : values.map((x) => x * factor)
  return new Uint8Array(scaled.buffer, scaled.byteOffset, scaled.byteLength)
}

