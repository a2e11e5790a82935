// The one training run that an engine does at a time.

import { toDiskError } from '../durable.js'
import { EngineError } from '../errors.js'
import { toEngineError } from '../native.js'
import { type TrainBase, runTraining } from './trainer.js'
import type { TrainEvent, TrainRequest } from './types.js'

interface ActiveRun {
  readonly controller: AbortController
  readonly events: AsyncGenerator<TrainEvent>
}

export class TrainingSlot {
  readonly #base: TrainBase | undefined
  #active: ActiveRun | undefined
  #isClosed = false

  constructor(base: TrainBase | undefined) {
    this.#base = base
  }

  /** The run takes the slot at the first next(). Leaving the iterator stops it as the signal does, without its last events. */
  run(request: TrainRequest, signal?: AbortSignal): AsyncIterableIterator<TrainEvent> {
    const controller = new AbortController()
    const stop = signal === undefined ? controller.signal : AbortSignal.any([signal, controller.signal])
    const events = this.#guard(request, stop, () => ({ controller, events }))
    return {
      [Symbol.asyncIterator]() { return this },
      next: () => events.next(),
      return: async () => {
        await stopRun({ controller, events })
        return { done: true, value: undefined }
      },
    }
  }

  /** Stops what runs; resolves once it has its checkpoint. */
  async close(): Promise<void> {
    this.#isClosed = true
    if (this.#active !== undefined) await stopRun(this.#active)
  }

  async* #guard(request: TrainRequest, signal: AbortSignal, entry: () => ActiveRun): AsyncGenerator<TrainEvent> {
    if (this.#base === undefined) throw new EngineError('TEXT_WITHOUT_TOKENIZER', 'the model has no tokenizer: it cannot be trained')
    if (this.#isClosed) throw new EngineError('ENGINE_UNAVAILABLE', 'the engine is closed')
    if (this.#active !== undefined) throw new EngineError('TRAINING_BUSY', 'another training run is going on', { retryAfterMs: 60_000 })
    const active = entry()
    this.#active = active
    try {
      yield* runTraining(request, this.#base, signal)
    } catch (error) {
      throw asEngineError(error)
    } finally {
      if (this.#active === active) this.#active = undefined
    }
  }
}

/** Lets a run write its checkpoint and end; nobody reads its last events. */
async function stopRun({ controller, events }: ActiveRun): Promise<void> {
  controller.abort()
  try {
    while ((await events.next()).done !== true);
  } catch {
    // It ended with an error of its own: nothing is left to stop.
  }
}

/** What the file system refuses has codes of its own. */
function asEngineError(error: unknown): EngineError {
  const cause = toDiskError(error)
  if (cause instanceof EngineError || !(cause instanceof Error) || !('syscall' in cause)) return toEngineError(cause)
  return new EngineError('INTERNAL', cause.message, { cause })
}
