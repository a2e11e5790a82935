// The public face of the engine: what a server, a script or a test may ask of it. The same interface is implemented in
// process (engine.ts) and across a child process (client.ts, host.ts), so everything here is plain, cloneable data.

import type { EngineErrorCode } from './errors.js'

/** One chat message. `content` is text; the routes have reduced content parts to text before. */
export interface ChatMessage {
  readonly role: 'system' | 'developer' | 'user' | 'assistant'
  readonly content: string
  readonly name?: string
}

/** What to continue. Control tokens arise from `messages` and `tokenIds` only, never from text that a user typed. */
export type Prompt =
  | { readonly messages: readonly ChatMessage[]; readonly addGenerationPrompt?: boolean }
  | { readonly text: string }                 // plain text, <bos> is put in front
  | { readonly tokenIds: readonly number[] }  // taken as they are

/** Sampling, in OpenAI's and vLLM's terms. Absent = the model's generation_config, else the neutral value. */
export interface SamplingParams {
  readonly temperature?: number        // 0 = greedy
  readonly topK?: number               // 0 or -1 = all
  readonly topP?: number               // (0, 1]
  readonly minP?: number               // [0, 1]
  readonly repetitionPenalty?: number  // > 0, 1 = none; over prompt and output
  readonly presencePenalty?: number    // [-2, 2]; over output
  readonly frequencyPenalty?: number   // [-2, 2]; over output
  readonly logitBias?: ReadonlyArray<readonly [tokenId: number, bias: number]>
  readonly seed?: number               // safe integer; absent = drawn at random per request
}

export interface GenerateRequest {
  /** Minted by the caller, unique among the requests in flight; never taken from a client. */
  readonly id: string
  readonly prompt: Prompt
  /** Resident adapter to apply, from `loadAdapter`; null = the base. */
  readonly adapter?: AdapterHandle | null
  /** Choices to sample from one prompt. Default 1. Choice i uses seed + i. */
  readonly n?: number
  readonly sampling?: SamplingParams
  /** New tokens at most; absent = up to the end of the context. 0 only scores the prompt (echo). */
  readonly maxTokens?: number
  readonly minTokens?: number
  readonly stop?: readonly string[]
  readonly stopTokenIds?: readonly number[]
  readonly includeStopInOutput?: boolean
  readonly ignoreEos?: boolean
  /** Alternatives per sampled token, 0..20; absent = no log-probabilities. */
  readonly logprobs?: number
  /** Alternatives per prompt token (echo); absent = none. */
  readonly promptLogprobs?: number
  /** First prompt position that is scored; entries before it are null. Default 1. */
  readonly promptLogprobsFrom?: number
  readonly skipSpecialTokens?: boolean  // default true
  /** Part of the prefix-cache key: tenants with different salts never share states. */
  readonly cacheSalt?: string
  /** Tokens already emitted by an engine that died: appended to the prompt, counted as output, not emitted again. */
  readonly resume?: ReadonlyArray<{ readonly tokenIds: readonly number[] }>
}

/** Log-probability of one token and of the likeliest alternatives, from the distribution before temperature and truncation. */
export interface TokenLogprob {
  readonly tokenId: number
  /** Bytes of the token; text may be invalid alone. */
  readonly bytes: readonly number[]
  readonly text: string
  readonly logprob: number
  readonly top: ReadonlyArray<{ readonly tokenId: number; readonly bytes: readonly number[]; readonly text: string; readonly logprob: number }>
}

export type FinishReason = 'stop' | 'length' | 'abort'

export type GenerateEvent =
  | {
      /** First event of a request: admitted and tokenised. */
      readonly type: 'started'
      readonly promptTokenIds: readonly number[]
      /** Prompt tokens whose states came from the prefix cache. */
      readonly cachedTokens: number
      /** One entry a prompt token, the first null; present when promptLogprobs was asked for. */
      readonly promptLogprobs?: ReadonlyArray<TokenLogprob | null>
    }
  | {
      readonly type: 'delta'
      readonly index: number
      /** Text that is safe to show: whole characters, no part of a stop string. May be empty while held back. */
      readonly text: string
      readonly tokenIds: readonly number[]
      readonly logprobs?: readonly TokenLogprob[]
    }
  | {
      /** Last event of a choice. Its text, if any, is the rest that was held back. */
      readonly type: 'finished'
      readonly index: number
      readonly text: string
      readonly reason: FinishReason
      /** The stop string or stop token id that ended it, where one did. */
      readonly stopReason: string | number | null
      readonly completionTokens: number
      readonly timings: RequestTimings
    }

/** Milliseconds on a monotonic clock, from arrival in the engine. */
export interface RequestTimings {
  readonly queuedMs: number
  readonly prefillMs: number
  readonly decodeMs: number
  readonly ttftMs: number
  readonly preemptions: number
}

/** Names one resident adapter version on the device. Opaque to everyone but the engine. */
export interface AdapterHandle {
  readonly slot: number
  /** Content hash of the version: part of the prefix-cache key. */
  readonly version: string
}

export interface LoadAdapterRequest {
  readonly slot: number
  readonly version: string
  /** Directory with adapter_config.json and adapter_model.safetensors. */
  readonly path: string
}

export interface AdapterInfo {
  readonly rank: number
  readonly bytes: number
  readonly nTensors: number
  readonly warnings: readonly string[]
  /** Of a load: it lay in host memory as the device takes it. */
  readonly fromImage?: boolean
}

export interface ModelInfo {
  /** Shape name where known ("gemma-3-1b"), else the architecture. */
  readonly name: string
  readonly source: string
  /** Hash of the base's content: adapters and caches are keyed by it. */
  readonly hash: string
  readonly device: string
  readonly compute: 'fp32' | 'bf16'
  readonly weights: 'nf4' | 'bf16' | 'f32'
  readonly head: 'bf16' | 'int8' | 'nf4' | 'f32'
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly nLayers: number
  readonly maxModelLen: number
  readonly hasTokenizer: boolean
  readonly stopTokenIds: readonly number[]
  readonly defaultSampling: SamplingParams
  readonly maxLoras: number
  readonly maxLoraRank: number
  readonly kvBlockTokens: number
  readonly nGlobalBlocks: number
  readonly nSlidingBlocks: number
}

/** A snapshot for /metrics and /readyz; counters grow from the engine's start. */
export interface EngineStats {
  readonly running: number
  readonly waiting: number
  readonly waitingByReason: { readonly capacity: number; readonly deferred: number }
  /** Adapter slots that running and waiting requests name. */
  readonly runningSlots: readonly number[]
  readonly waitingSlots: readonly number[]
  /** Share of KV blocks in use by live sequences, 0..1, of the fuller pool. */
  readonly kvUsage: number
  readonly prefixQueries: number
  readonly prefixHits: number
  readonly preemptions: number
  readonly promptTokens: number
  readonly generationTokens: number
  readonly nanRows: number
  readonly steps: number
  /** Tokens per step, of 4,096 steps at most: for the iteration histogram; drained by each call of stats(). */
  readonly stepTokens: readonly number[]
  /** The same steps' time, of the host. */
  readonly stepSeconds: ReadonlyArray<readonly [phase: StepPhase, seconds: number]>
  readonly memory: Readonly<Record<string, number>>   // bytes by purpose
  readonly device: DeviceStats
  readonly lastStepAtMs: number                       // age of the last finished step, ms
}

/** Rows of a step: several tokens each, one token each, or some of both. */
export type StepPhase = 'prefill' | 'decode' | 'mixed'
export type StepPart = 'upload' | 'layers' | 'head' | 'sample'

/** What the device tells of itself; counters grow from the engine's start. */
export interface DeviceStats {
  /** Bytes of the whole device, and free of them; 0 on the CPU. */
  readonly totalBytes: number
  readonly freeBytes: number
  /** Decode steps by a captured graph, by one captured just then, and kernel by kernel; 0 on the CPU. */
  readonly graphs: { readonly hit: number; readonly capture: number; readonly plain: number }
  /** Where time went on the device, over those steps that were measured. */
  readonly stepTimes: Readonly<Record<StepPhase, { readonly steps: number; readonly seconds: Readonly<Record<StepPart, number>> }>>
}

export type EngineState = 'starting' | 'ready' | 'restarting' | 'failed' | 'closed'

export interface Progress {
  readonly phase: string       // "reading", "quantising", "packing", "warming up"
  readonly done: number
  readonly total: number
}

export interface Engine {
  readonly info: ModelInfo
  readonly state: EngineState
  /** Restarts of the engine process since the start; 0 in process. */
  readonly restarts: number
  /**
   * Runs a request. Leaving the iterator early, or aborting the signal, frees its blocks before the next step is planned.
   * @throws EngineError before the first event (bad request, queue full), or from next() when the engine dies.
   */
  generate(request: GenerateRequest, signal?: AbortSignal): AsyncIterable<GenerateEvent>
  /** Token ids of a prompt exactly as `generate` would use them. */
  tokenize(prompt: Prompt): Promise<number[]>
  detokenize(tokenIds: readonly number[]): Promise<string>
  /** Validates and puts an adapter into a device slot, which must be free or hold this version already. @throws EngineError ADAPTER_* */
  loadAdapter(request: LoadAdapterRequest): Promise<AdapterInfo>
  /** Brings an adapter that waits for a slot near the device. Faults show when it is loaded. */
  prefetchAdapter(path: string): Promise<void>
  /** Frees a slot after its last request; new requests for it are refused at once. */
  unloadAdapter(slot: number): Promise<void>
  /** Checks an adapter against the base without taking a slot. */
  validateAdapter(path: string): Promise<AdapterInfo>
  stats(): Promise<EngineStats>
  /** Resolves once nothing runs; new requests are refused from the call on. */
  drain(timeoutMs: number): Promise<void>
  close(): Promise<void>
}

export interface EngineFailure {
  readonly code: EngineErrorCode
  readonly message: string
}

/** What the engine needs to start; every field is resolved and checked by server/config.ts or the script. */
export interface EngineOptions {
  /** Path or name as given to --model. */
  readonly model: string
  readonly dataDir: string
  readonly device: string                 // "auto", "cpu", "cuda", "cuda:1"
  readonly compute: 'auto' | 'fp32' | 'bf16'
  readonly weights: 'nf4' | 'bf16' | 'f32'
  readonly head: 'auto' | 'bf16' | 'int8' | 'nf4'
  /** Instruction set of the CPU backend: for tests; "auto" takes the best there is. */
  readonly isa: 'auto' | 'scalar' | 'avx2' | 'avx512' | 'amx'
  readonly nThreads: number               // 0 = physical cores
  readonly maxModelLen: number            // 0 = the model's, bounded by the KV pools
  readonly kvCacheBytes: number           // 0 = automatic
  /** Share of a GPU's memory for weights, adapters, steps and KV cache, (0, 1]; absent = a KV cache of 1 GiB at most, as on the CPU. */
  readonly gpuMemoryUtilization?: number
  /** Ranges for NVIDIA's profilers; needs --device cuda. */
  readonly nvtx?: boolean
  readonly maxNumSeqs: number             // sequences in one step
  readonly maxBatchTokens: number         // tokens in one step: the prefill chunk
  readonly maxQueue: number
  readonly maxLoras: number
  readonly maxLoraRank: number
  /** Of adapters kept in host memory as a GPU takes them; default 1 GiB. */
  readonly adapterHostBytes?: number
  readonly prefixCache: boolean
  /** Hub cache in which a model id ("org/name") is looked up; absent = ~/.cache/huggingface/hub. */
  readonly hfCacheDir?: string
}
