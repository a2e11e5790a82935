import t from 'tap'
import { engineSuite } from './engine-suite.js'
import { startFake } from './remote-engine.js'

engineSuite(t, (options) => startFake(options))
