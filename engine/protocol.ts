// Messages between the server's process and the engine's. Plain cloneable data; both sides come from one build, which `version` checks.

import type { EngineOptions, GenerateEvent, GenerateRequest, ModelInfo, Progress } from './api.js'
import { EngineError, type EngineErrorCode } from './errors.js'
import type { TrainEvent, TrainRequest } from './train/types.js'

export const PROTOCOL_VERSION = 3

/** Events of one request that may be on their way or unread; the reader grants more as it reads. */
export const STREAM_CREDITS = 128
/** How often the engine's process tells that its event loop turns, milliseconds. */
export const BEAT_MS = 250

export type RemoteMethod =
  'tokenize' | 'detokenize' | 'loadAdapter' | 'prefetchAdapter' | 'unloadAdapter' | 'validateAdapter' | 'stats' | 'drain' | 'close'

export type ToEngine =
  | { readonly type: 'start'; readonly version: number; readonly options: EngineOptions }
  | { readonly type: 'generate'; readonly stream: number; readonly request: GenerateRequest }
  | { readonly type: 'credit'; readonly grants: ReadonlyArray<readonly [stream: number, events: number]> }
  | { readonly type: 'train'; readonly stream: number; readonly request: TrainRequest }
  /** Stops a training run: its last events still come. */
  | { readonly type: 'abort'; readonly stream: number }
  | { readonly type: 'leave'; readonly stream: number }
  | { readonly type: 'call'; readonly call: number; readonly method: RemoteMethod; readonly args: readonly unknown[] }

export type FromEngine =
  | { readonly type: 'progress'; readonly progress: Progress }
  | { readonly type: 'ready'; readonly info: ModelInfo; readonly fullStepMs: number }
  /** It could not start, or its device is given up. */
  | { readonly type: 'failed'; readonly error: PlainError }
  /** All events of one turn of the loop: of every stream that a step has fed. */
  | {
      readonly type: 'events'
      readonly events: ReadonlyArray<readonly [stream: number, event: StreamEvent]>
      readonly ended: ReadonlyArray<readonly [stream: number, error: PlainError | null]>
    }
  | { readonly type: 'result'; readonly call: number; readonly value: unknown }
  | { readonly type: 'error'; readonly call: number; readonly error: PlainError }
  /** `progress` is false while something could run and no step has ended since the last beat. */
  | { readonly type: 'beat'; readonly progress: boolean }

export type StreamEvent = GenerateEvent | TrainEvent

/** An EngineError as data: errors lose their fields in a structured clone. */
export interface PlainError {
  readonly code: EngineErrorCode
  readonly message: string
  readonly param?: string
  readonly retryAfterMs?: number
}

export function toPlain({ code, message, param, retryAfterMs }: EngineError): PlainError {
  return { code, message, param, retryAfterMs }
}

export function fromPlain({ code, message, param, retryAfterMs }: PlainError): EngineError {
  return new EngineError(code, message, { param, retryAfterMs })
}
