// Entry of the engine's own process.

import { createLocalEngine } from './create-engine.js'
import { serveEngine } from './serve-engine.js'

serveEngine(createLocalEngine)
