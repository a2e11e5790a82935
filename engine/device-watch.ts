// Sees a device that is lost, whichever call meets it first.

import type { EngineError } from './errors.js'
import { type NativeModel, type NativeTrainer, toEngineError } from './native.js'

/** The same model and its trainers; every call that rejects with DEVICE_LOST is told to `onLost` as well, before its caller. */
export function watchDevice(model: NativeModel, onLost: (error: EngineError) => void): NativeModel {
  const onFulfilled = (value: unknown) => (isTrainer(value) ? watchCalls(value, onLost) : value)
  return watchCalls(model, onLost, onFulfilled)
}

function watchCalls<T extends object>(
  target: T, onLost: (error: EngineError) => void, onFulfilled: (value: unknown) => unknown = (value) => value,
): T {
  const onRejected = (error: unknown) => {
    const failure = toEngineError(error)
    if (failure.code === 'DEVICE_LOST') onLost(failure)
    throw error
  }
  return new Proxy(target, {
    get(object, key) {
      const value: unknown = Reflect.get(object, key, object)
      if (typeof value !== 'function') return value
      return (...args: unknown[]) => {
        const result: unknown = value.apply(object, args)
        return result instanceof Promise ? result.then(onFulfilled, onRejected) : result
      }
    },
  })
}

const isTrainer = (value: unknown): value is NativeTrainer => typeof value === 'object' && value !== null && 'optimizerStep' in value
