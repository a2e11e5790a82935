// NF4 against bitsandbytes: bit for bit.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { native } from '../../engine/native.js'
import { type Report, countBits, countDiffering } from './report.js'
import { TensorFile } from './tensors.js'

export function checkNf4(directory: string, report: Report): void {
  report.section('nf4')
  if (existsSync(join(directory, 'vectors.safetensors'))) checkVectors(new TensorFile(join(directory, 'vectors.safetensors')), report)
  if (existsSync(join(directory, 'edge.safetensors'))) checkEdges(new TensorFile(join(directory, 'edge.safetensors')), report)
  if (existsSync(join(directory, 'linear.safetensors'))) checkLinear(new TensorFile(join(directory, 'linear.safetensors')), report)
}

function checkVectors(file: TensorFile, report: Report): void {
  const addon = native()
  for (const shape of stemsOf(file, '.weight')) {
    const weight = file.f32(`${shape}.weight`)
    const { packed, absmax } = addon.nf4Quantize(weight)
    report.equal(`${shape} packed`, countDiffering(packed, file.raw(`${shape}.packed`)), packed.length)
    report.equal(`${shape} absmax`, countBits(absmax, file.f32(`${shape}.absmax`)), absmax.length)
    const nested = addon.nf4DoubleQuantize(absmax)
    const rebuilt = file.f32(`${shape}.absmax_reconstructed`)
    report.equal(`${shape} absmax in 8 bits`, countDiffering(nested.q8, file.raw(`${shape}.absmax_q8`)), nested.q8.length)
    report.equal(`${shape} absmax of absmax`, countBits(nested.nestedAbsmax, file.f32(`${shape}.nested_absmax`)),
      nested.nestedAbsmax.length)
    report.equal(`${shape} map of 8 bits`, countBits(nested.nestedMap, file.f32(`${shape}.nested_quant_map`)), nested.nestedMap.length)
    report.equal(`${shape} offset`, Math.fround(nested.offset) === file.f32(`${shape}.nested_offset`)[0] ? 0 : 1, 1)
    report.equal(`${shape} absmax reconstructed`, countBits(nested.reconstructed, rebuilt), rebuilt.length)
    for (const dtype of ['bf16', 'f32'] as const) {
      report.equal(`${shape} dequantised to ${dtype}`,
        countBits(addon.nf4Dequantize(packed, absmax, dtype), file.f32(`${shape}.dequant_${dtype}`)), weight.length)
      report.equal(`${shape} dequantised to ${dtype}, double`,
        countBits(addon.nf4Dequantize(packed, rebuilt, dtype), file.f32(`${shape}.dequant_double_${dtype}`)), weight.length)
    }
  }
}

function checkEdges(file: TensorFile, report: Report): void {
  const addon = native()
  for (const name of stemsOf(file, '.weight')) {
    const { packed, absmax } = addon.nf4Quantize(file.f32(`${name}.weight`))
    const codes = Uint8Array.from({ length: packed.length * 2 }, (_, i) => (i % 2 === 0 ? packed[i >> 1]! >> 4 : packed[i >> 1]! & 15))
    const nearest = countDiffering(codes, file.raw(`${name}.codes`))
    const thresholds = countDiffering(codes, file.raw(`${name}.codes_threshold_rule`))
    report.equal(`${name} codes by one of the two rules`, Math.min(nearest, thresholds), codes.length)
    report.equal(`${name} absmax`, countBits(absmax, file.f32(`${name}.absmax`)), absmax.length)
    for (const dtype of ['bf16', 'f32'] as const) {
      const ours = addon.nf4Dequantize(file.raw(`${name}.packed`), file.f32(`${name}.absmax`), dtype)
      const theirs = file.f32(`${name}.dequant_${dtype}`)
      // The recorded bf16 values were made on a processor that flushes subnormal results to zero.
      if (dtype === 'bf16') flushSubnormals(ours, theirs)
      report.equal(`${name} dequantised to ${dtype}`, countBits(ours, theirs), ours.length)
    }
  }
}

/** The spellings in which bitsandbytes stores one Linear. */
function checkLinear(file: TensorFile, report: Report): void {
  const addon = native()
  for (const spelling of stemsOf(file, '.dequant_bf16')) {
    const weight = `${spelling}.weight`
    const state = JSON.parse(Buffer.from(file.raw(`${weight}.quant_state.bitsandbytes__nf4`)).toString()) as { nested_offset?: number }
    const absmax = state.nested_offset === undefined ? file.f32(`${weight}.absmax`) : rebuildAbsmax(file, weight, state.nested_offset)
    const ours = addon.nf4Dequantize(file.raw(weight), absmax, 'bf16')
    report.equal(`linear ${spelling}`, countBits(ours, file.f32(`${spelling}.dequant_bf16`)), ours.length)
  }
}

function rebuildAbsmax(file: TensorFile, weight: string, offset: number): Float32Array {
  const map = file.f32(`${weight}.nested_quant_map`)
  const scales = file.f32(`${weight}.nested_absmax`)
  return Float32Array.from(file.raw(`${weight}.absmax`),
    (code, i) => Math.fround(Math.fround(map[code]! * scales[i >> 8]!) + Math.fround(offset)))
}

const SMALLEST_NORMAL = 2 ** -126

function flushSubnormals(values: Float32Array, reference: Float32Array): void {
  values.forEach((value, i) => { if (reference[i] === 0 && Math.abs(value) < SMALLEST_NORMAL) values[i] = reference[i]! })
}

function stemsOf(file: TensorFile, ending: string): string[] {
  return file.names.filter((name) => name.endsWith(ending) && name !== ending.slice(1))
    .map((name) => name.slice(0, -ending.length))
    .filter((stem) => !stem.includes('.weight'))
}
