// Prepares a data set in a process whose heap could not hold it, and says what it found.

import { byteEncoder, VOCAB_SIZE } from './train-fixtures.js'
import { resolveTrainConfig } from '../../engine/train/config.js'
import { prepareDataset } from '../../engine/train/dataset.js'

const [file = '', outputDir = ''] = process.argv.slice(2)
const config = resolveTrainConfig({ preset: 'guide', loss_on: 'assistant' })
const request = { id: 'memory', config, trainFiles: [file], outputDir }
const { store, train, counts } = await prepareDataset(request, { encoder: byteEncoder, vocabSize: VOCAB_SIZE })
const { arrayBuffers } = process.memoryUsage()
const last = await store.read(train.at(-1)!)
await store.close()
process.send?.({ samples: train.length, tokens: counts.tokens, lastTokens: last.length, arrayBuffers })
