// The engine as a library: everything that server/, adapters/ and scripts/ may import.
export * from './api.js'
export { EngineError, type EngineErrorCode } from './errors.js'
