// The one error class of the engine. A code is part of the contract: server/errors.ts maps it to an HTTP status.

/** What went wrong, as a stable name. Native code throws the same codes. */
export type EngineErrorCode =
  // the request
  | 'INVALID_REQUEST'            // a field is of the wrong type or out of range; `param` names it
  | 'CONTEXT_LENGTH_EXCEEDED'    // prompt (+ max_tokens where given) does not fit the context
  | 'TEXT_WITHOUT_TOKENIZER'     // the model directory has no tokenizer: prompts only as token ids
  | 'INVALID_CONVERSATION'       // the chat template refuses the messages
  | 'UNKNOWN_MODEL'              // neither base nor adapter
  | 'QUARANTINED'                // this request ended the engine twice
  // load and memory
  | 'QUEUE_FULL'                 // `retryAfterMs` says when to try again
  | 'ADAPTER_SLOTS_BUSY'         // every device slot is pinned past the deadline
  | 'OUT_OF_MEMORY'
  // model and adapter files
  | 'MODEL_NOT_FOUND'
  | 'MODEL_INVALID'              // config or weights contradict themselves, or are not Gemma 3
  | 'FILE_INVALID'               // a safetensors, GGUF or JSON file is malformed
  | 'UNSUPPORTED'                // valid, but not something this engine does
  | 'ADAPTER_NOT_FOUND'
  | 'ADAPTER_INVALID'
  | 'ADAPTER_RANK_TOO_LARGE'
  | 'ADAPTER_EXISTS'
  // training
  | 'DATA_INVALID'               // a data set has rows that cannot be used: the message names file, line and reason
  | 'TRAINING_BUSY'              // one run at a time
  | 'TRAINING_DIVERGED'          // loss or gradient is no longer finite
  | 'DISK_FULL'
  // the engine itself
  | 'ENGINE_RESTARTED'           // the engine process died while this request ran
  | 'ENGINE_UNAVAILABLE'         // starting, draining or failed
  | 'ABORTED'
  | 'CUDA_NOT_BUILT'
  | 'CUDA_ERROR'                 // a call failed; the device goes on
  | 'DEVICE_LOST'                // a sticky error: every later call on the device fails, only a new process helps
  | 'SHAPE_MISMATCH'             // our own bug: a tensor contract is broken
  | 'INTERNAL'

export interface EngineErrorDetails {
  /** Name of the request field at fault, in the spelling of the public API. */
  readonly param?: string
  /** Milliseconds after which the same request may succeed. */
  readonly retryAfterMs?: number
  readonly cause?: unknown
}

export class EngineError extends Error {
  readonly code: EngineErrorCode
  readonly param: string | undefined
  readonly retryAfterMs: number | undefined

  constructor(code: EngineErrorCode, message: string, details: EngineErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'EngineError'
    this.code = code
    this.param = details.param
    this.retryAfterMs = details.retryAfterMs
  }
}
