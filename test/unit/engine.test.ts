import t from 'tap'
import { engineSuite } from './engine-suite.js'
import { fakeEngine } from './fake-engine.js'

engineSuite(t, async (options) => fakeEngine(options).engine)
