// The engine as a library: everything that server/, adapters/ and scripts/ may import.
export * from './api.js'
export * from './train/types.js'
export { EngineError, type EngineErrorCode } from './errors.js'
export { LocalEngine, type EngineParts } from './engine.js'
export { createLocalEngine } from './create-engine.js'
export { RemoteEngine, startEngine, type StartOptions } from './client.js'
