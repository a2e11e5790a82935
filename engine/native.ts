// The addon: its types, and the loader with a helpful failure. The only file that touches build/lorikeet.node.

import { createRequire } from 'node:module'
import { existsSync } from 'node:fs'
import { env } from 'node:process'
import { fileURLToPath } from 'node:url'
import type { DeviceStats } from './api.js'
import { EngineError, type EngineErrorCode } from './errors.js'

export interface NativeSystemInfo {
  readonly version: string
  readonly isas: readonly string[]      // usable on this processor, best first: "amx", "avx512", "avx2", "scalar"
  readonly physicalCores: number
  readonly cuda: { readonly built: boolean; readonly devices: readonly string[] }
}

export interface NativeModelOptions {
  /** Directory of a Hugging Face checkpoint, a .gguf file, or "random:gemma-3-1b". */
  readonly path: string
  readonly device: string
  readonly isa: string
  readonly compute: 'auto' | 'fp32' | 'bf16'
  readonly weights: 'nf4' | 'bf16' | 'f32'
  readonly head: 'auto' | 'bf16' | 'int8' | 'nf4'
  readonly nThreads: number
  readonly maxModelLen: number
  readonly kvCacheBytes: number
  /** Absent or 0: as EngineOptions has it. */
  readonly gpuMemoryUtilization?: number
  readonly nvtx?: boolean
  readonly maxBatchTokens: number
  readonly maxNumSeqs: number
  readonly maxLoras: number
  readonly maxLoraRank: number
  /** Of adapters kept in host memory as the device takes them; default 1 GiB. Devices without memory of their own keep none. */
  readonly adapterHostBytes?: number
  /** Where the NF4 form of a 16-bit or GGUF source is kept; "" = nowhere. */
  readonly cacheDir: string
}

export interface NativeModelInfo {
  readonly name: string
  readonly hash: string
  readonly device: string
  readonly compute: 'fp32' | 'bf16'
  readonly weights: 'nf4' | 'bf16' | 'f32'
  readonly head: 'bf16' | 'int8' | 'nf4' | 'f32'
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly nLayers: number
  readonly slidingWindow: number
  readonly maxModelLen: number
  readonly blockTokens: number
  readonly nGlobalBlocks: number
  readonly nSlidingBlocks: number
  readonly eosTokenIds: readonly number[]
}

/** Sampling of one sequence, resolved: no absent fields. Same meaning as SamplingParams of api.ts. */
export interface NativeSampling {
  readonly temperature: number          // 0 = greedy
  readonly topK: number                 // 0 = all
  readonly topP: number
  readonly minP: number
  readonly repetitionPenalty: number
  readonly presencePenalty: number
  readonly frequencyPenalty: number
  readonly seed: bigint                 // unsigned 64 bit
  readonly biasIds: Int32Array
  readonly biasValues: Float32Array
  /** Ids that cannot be drawn until minTokens are out (the stop ids). */
  readonly minTokens: number
  readonly suppressedIds: Int32Array
}

/** A sequence enters (or re-enters after preemption) the device's table at `slot`. */
export interface NativeSequenceStart {
  readonly slot: number                 // [0, maxNumSeqs)
  readonly adapter: number              // adapter slot, -1 = base
  readonly sampling: NativeSampling
  readonly promptIds: Int32Array        // for repetition penalty; may be empty when no penalty is set
  readonly outputIds: Int32Array        // already sampled (after preemption or resume): penalties and random counter go on
}

/**
 * One step: T tokens of R rows (a row = one sequence's tokens in this step), O outputs. Ragged arrays are flat with [R+1] starts.
 * Order within a step: starts, forward over all tokens, outputs.
 */
export interface NativeStepPlan {
  readonly starts: readonly NativeSequenceStart[]
  /** [T]; -1 = the token that this row's sequence sampled last (not yet known to the planner). */
  readonly tokenIds: Int32Array
  readonly positions: Int32Array        // [T]
  readonly rowStarts: Int32Array        // [R+1] into tokens
  readonly slots: Int32Array            // [R] sequence slot of each row
  /** KV blocks by logical index: row r's block b holds positions [b*blockTokens, (b+1)*blockTokens). */
  readonly globalTable: Int32Array
  readonly globalStarts: Int32Array     // [R+1]
  /** Sliding pool: entry i of row r is logical block slidingFirst[r] + i; earlier ones have been released. */
  readonly slidingTable: Int32Array
  readonly slidingStarts: Int32Array    // [R+1]
  readonly slidingFirst: Int32Array     // [R]
  /** [O] token index in [0, T) whose hidden state goes to the head. */
  readonly outTokens: Int32Array
  /** [O] -1 = sample the next token of this row; id >= 0 = only score this id (prompt log-probabilities). */
  readonly outTargets: Int32Array
  /** [O] -1 = no log-probabilities; 0..20 alternatives beside the token itself. */
  readonly outLogprobs: Int32Array
}

export interface NativeStepResult {
  /** [O] sampled (or target) token id; -1 where the logits held a NaN (the sequence must be failed). */
  readonly tokenIds: Int32Array
  /** [O] log-probability of tokenIds under the raw distribution; NaN where not asked for. */
  readonly logprobs: Float32Array
  /** Flat alternatives, outLogprobs[o] of them for each output with outLogprobs[o] > 0, falling. */
  readonly topIds: Int32Array
  readonly topLogprobs: Float32Array
  readonly deviceMs: number
}

export interface NativeAdapterInfo {
  readonly rank: number
  readonly bytes: number
  readonly nTensors: number
  readonly warnings: readonly string[]
  /** Of a load: it lay in host memory as the device takes it. */
  readonly fromImage?: boolean
}

export interface NativeModel {
  readonly info: NativeModelInfo
  /** Queues a step; steps run and resolve in order. The arrays are copied before the call returns. Throws on a malformed plan. */
  step(plan: NativeStepPlan): Promise<NativeStepResult>
  /**
   * Reads and checks the files beside running steps, or finds the adapter in host memory; a GPU's copy runs beside steps too, else it enters
   * the slot between two of them. Rejects with ADAPTER_* codes.
   */
  loadAdapter(slot: number, path: string): Promise<NativeAdapterInfo>
  /** Brings an adapter into host memory, from where loadAdapter only copies it. Does nothing where the device keeps none there. */
  prefetchAdapter(path: string): Promise<void>
  unloadAdapter(slot: number): Promise<void>
  validateAdapter(path: string): Promise<NativeAdapterInfo>
  /** All logits of a prompt, [T, V] row-major, on fresh states: for goldens and scripts. adapter -1 = base. */
  logits(tokenIds: Int32Array, adapter: number): Promise<Float32Array>
  /** Residual stream [T, H] entering layer `layer` (nLayers = after the last): for goldens. */
  hidden(tokenIds: Int32Array, layer: number, adapter: number): Promise<Float32Array>
  /** A trainer over this model's frozen base. Its work runs between steps; one trainer at a time. Rejects with OUT_OF_MEMORY before anything runs. */
  createTrainer(options: NativeTrainerOptions): Promise<NativeTrainer>
  /**
   * Bytes by purpose: "weights", "dequantised", "embedding", "head", "kv_global", "kv_sliding", "adapters", "workspace"; of a GPU also
   * "adapter_images", in pinned host memory.
   */
  memory(): Readonly<Record<string, number>>
  device(): DeviceStats
  close(): void
}

export interface NativeTrainerOptions {
  readonly rank: number
  readonly alpha: number
  readonly useRslora: boolean
  readonly useDora: boolean
  readonly dropout: number              // [0, 1), on the adapter's branch only
  /** Of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj. */
  readonly targetModules: readonly string[]
  readonly layers: Int32Array           // empty = all
  readonly trainableTokenIds: Int32Array
  /** Of embed_tokens, lm_head. */
  readonly modulesToSave: readonly string[]
  readonly seed: bigint                 // of A's initial values and of dropout
  readonly checkpointing: 'none' | 'mlp' | 'layer'
  readonly optimizer: 'adamw' | 'adamw_8bit'
  readonly maxTokens: number            // of the largest micro-batch
  /** Share of the time that training may take while requests run, (0, 1]. A step waits for one quantum of it at most: some 10 ms and a piece. */
  readonly trainShare: number
}

/** Documents one after another. Attention stays inside each, positions restart in each. */
export interface NativeMicroBatch {
  readonly tokenIds: Int32Array         // [T]
  readonly documentStarts: Int32Array   // [D+1]
  /** [T] the id to predict after token t (labels already shifted); -1 = not supervised. */
  readonly targets: Int32Array
  /** Tokens of the run before this micro-batch: the counter of dropout. */
  readonly tokenCounter: bigint
}

export interface NativeLoss {
  readonly lossSum: number              // nats
  readonly targets: number
  readonly correct: number              // greedy hits
}

export interface NativeOptimizerStep {
  readonly lr: number
  readonly beta1: number
  readonly beta2: number
  readonly eps: number
  readonly weightDecay: number
  readonly maxGradNorm: number          // 0 = no clipping
}

export interface NativeTrainer {
  readonly nTrained: number             // parameters
  readonly bytes: Readonly<Record<string, number>>  // "parameters", "optimizer", "gradients", "activations"
  /**
   * Forward and backward: adds the gradient of gradientScale * (sum of losses). Rejects with INVALID_REQUEST naming what is wrong with the
   * batch, TRAINING_DIVERGED where the loss is not finite.
   */
  accumulate(batch: NativeMicroBatch, gradientScale: number): Promise<NativeLoss>
  /** Forward without dropout, no gradient. */
  evaluate(batch: NativeMicroBatch): Promise<NativeLoss>
  /** Clips by the global norm, moves the parameters, clears the gradients. gradNorm is before clipping. Rejects with TRAINING_DIVERGED
   *  where it is not finite: nothing has moved. */
  optimizerStep(options: NativeOptimizerStep): Promise<{ readonly gradNorm: number }>
  /** adapter_model.safetensors exactly as PEFT writes it, durable when resolved. adapter_config.json is adapters/peft.ts's. */
  saveAdapter(path: string): Promise<void>
  /** Parameters (adapter.*), exp_avg.*, exp_avg_sq.* and the step, as safetensors; durable when resolved. */
  saveState(path: string): Promise<void>
  loadState(path: string): Promise<void>
  /** Starts from an adapter's values. Rejects with ADAPTER_INVALID when shapes or modules differ. */
  loadAdapter(path: string): Promise<void>
  /** For goldens: one tensor by PEFT's name. */
  parameter(name: string): Promise<Float32Array>
  gradient(name: string): Promise<Float32Array>
  setParameter(name: string, values: Float32Array): Promise<void>
  /** For goldens: accumulate(), and "hidden.i", "d_hidden.i" [T, H]: the stream entering layer i (nLayers = after the last), its gradient. */
  trace(batch: NativeMicroBatch, gradientScale: number): Promise<Readonly<Record<string, Float32Array>>>
  /** Ends its work after the quantum that runs, and frees its memory. Work not begun rejects with ABORTED. */
  close(): Promise<void>
}

/** A GGUF file's own tokenizer (SentencePiece-BPE with scores and byte fallback). Synchronous: 1 to 5 million characters/s. */
export interface NativeGgufTokenizer {
  readonly vocabSize: number
  readonly bosId: number
  readonly eosId: number
  readonly chatTemplate: string         // "" when the file has none
  /** Ids of text, no <bos>. parseSpecial: control tokens in the text become their ids. */
  encode(text: string, parseSpecial: boolean): Int32Array
  /** Byte table: token i is bytes[offsets[i], offsets[i+1]); kinds[i]: 1 normal, 2 unknown, 3 control, 4 user defined, 6 byte. */
  table(): { readonly bytes: Uint8Array; readonly offsets: Uint32Array; readonly kinds: Uint8Array }
}

/** Shape and constants of a model, as config.json and GGUF files name them in their own ways. */
export interface NativeModelConfig {
  readonly name: string
  readonly nLayers: number
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly nHeads: number
  readonly nKvHeads: number
  readonly headDim: number
  readonly vocabSize: number
  readonly slidingWindow: number
  readonly maxPosition: number
  readonly rmsNormEps: number
  readonly queryPreAttnScalar: number
  readonly ropeThetaGlobal: number
  readonly ropeThetaLocal: number
  readonly ropeScalingFactor: number
  readonly bosId: number
  readonly padId: number
  readonly eosIds: readonly number[]
  /** [nLayers] */
  readonly isGlobal: readonly boolean[]
  /** The head is the embedding: false also where a merged adapter parts them. */
  readonly tied: boolean
  readonly multimodal: boolean
}

export interface NativeLoraModule {
  readonly layer: number
  /** "self_attn.q_proj", "mlp.down_proj" */
  readonly module: string
  readonly rank: number
  readonly scale: number
  readonly shape: readonly [nOut: number, nIn: number]
}

/** A base with an adapter merged into it, read a few rows at a time. Synchronous: for commands, not for a server. */
export interface NativeMergedWeights {
  readonly config: NativeModelConfig
  /** Names without "model." and ".weight": "embed_tokens", "layers.3.self_attn.q_proj", "norm". Norms have one dimension. */
  readonly tensors: ReadonlyArray<{ readonly name: string; readonly shape: readonly number[] }>
  /** Null without an adapter. `changesTokens`: it also changes embedding or head. */
  readonly lora: { readonly modules: readonly NativeLoraModule[]; readonly usesDora: boolean; readonly changesTokens: boolean } | null
  /** Rows [begin, end) of tensors[index], rounded once; a norm is one row, zero-centred. */
  read(index: number, begin: number, end: number, encoding: 'F32' | 'BF16' | 'F16' | 'Q8_0'): Uint8Array
  /** A [rank, nIn] or B [nOut, rank]. */
  loraValues(layer: number, module: string, part: 'a' | 'b'): Float32Array
}

export interface NativeAddon {
  systemInfo(): NativeSystemInfo
  loadModel(options: NativeModelOptions, onProgress: (phase: string, done: number, total: number) => void): Promise<NativeModel>
  openGgufTokenizer(path: string): NativeGgufTokenizer
  /** `path` as for loadModel; `adapter`: a PEFT directory, "" for none; `base`: whose values. Throws MODEL_*, FILE_INVALID, ADAPTER_*. */
  openMergedWeights(options: { path: string; adapter: string; base: 'nf4' | '16bit'; maxRank: number }): NativeMergedWeights
  /** Tensor table of a safetensors file after every check: name -> dtype and shape. Throws FILE_INVALID. */
  readSafetensorsHeader(path: string): Record<string, { dtype: string; shape: number[]; bytes: number }>
  /** One tensor's raw little-endian bytes (a copy). */
  readSafetensor(path: string, name: string): Uint8Array
  /** For goldens: NF4 of a [n_out, n_in] fp32 matrix, and back. */
  nf4Quantize(weight: Float32Array): { packed: Uint8Array; absmax: Float32Array }
  nf4DoubleQuantize(absmax: Float32Array): { q8: Uint8Array; nestedAbsmax: Float32Array; nestedMap: Float32Array; offset: number; reconstructed: Float32Array }
  nf4Dequantize(packed: Uint8Array, absmax: Float32Array, dtype: 'bf16' | 'f32'): Float32Array
  /** For goldens: rows of a GGUF tensor type dequantised to fp32. */
  ggmlDequantize(type: string, raw: Uint8Array, n: number): Float32Array
}

const ADDON_PATH = 'build/lorikeet.node'
let addon: NativeAddon | undefined

/** The addon, loaded once. @throws EngineError INTERNAL with what to do when it is missing or does not fit this machine. */
export function native(): NativeAddon {
  addon ??= load()
  return addon
}

function load(): NativeAddon {
  const path = findUp(ADDON_PATH)
  if (path === undefined) {
    throw new EngineError('INTERNAL', `${ADDON_PATH} is missing: run "npm run setup" to build the native engine`)
  }
  // OpenMP reads this once, when the addon brings it in. Its default spins for milliseconds at every barrier, which ruins a machine
  // that has other work for the cores; a few microseconds cover the gaps between the operations of a step.
  env['GOMP_SPINCOUNT'] ??= '1000'
  try {
    return createRequire(import.meta.url)(path) as NativeAddon
  } catch (cause) {
    throw new EngineError('INTERNAL', `${path} could not be loaded (${(cause as Error).message}): run "npm run setup" again on this machine`, { cause })
  }
}

/** The file at `relative` in the nearest directory above this module: dist/engine and engine/ both lie under the root. */
function findUp(relative: string): string | undefined {
  for (let url = new URL('./', import.meta.url); ; url = new URL('../', url)) {
    const path = fileURLToPath(new URL(relative, url))
    if (existsSync(path)) return path
    if (url.pathname === '/') return undefined
  }
}

/** Turns what native code threw ({code, message} on an Error) into an EngineError. */
export function toEngineError(error: unknown): EngineError {
  if (error instanceof EngineError) return error
  const { code, message } = error as { code?: EngineErrorCode; message?: string }
  return new EngineError(code ?? 'INTERNAL', message ?? String(error), { cause: error })
}
