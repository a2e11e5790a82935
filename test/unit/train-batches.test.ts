// Rows of documents as micro-batches: what follows what, what is a target, and what losses are divided by.

import t from 'tap'
import { buildMicroBatch } from '../../engine/train/batches.js'

/** Two documents in a row and one alone; in each the first token is none to predict, and ~id is no target. */
const ROWS = [[Int32Array.of(~2, ~10, 11, 12), Int32Array.of(~2, 20, ~21, 22)], [Int32Array.of(~2, ~30, 31)]]
const IDS = [2, 10, 11, 12, 2, 20, 21, 22, 2, 30, 31]

const plain = ({ tokenIds, documentStarts, targets, nTargets, divisor }: ReturnType<typeof buildMicroBatch>) =>
  ({ tokenIds: [...tokenIds], documentStarts: [...documentStarts], targets: [...targets], nTargets, divisor })

t.test('a label is the next token of its own document: the last token of one has none', async (t) => {
  t.same(plain(buildMicroBatch(ROWS, { isTrl: false, onAll: false })), {
    tokenIds: IDS, documentStarts: [0, 4, 8, 11], targets: [-1, 11, 12, -1, 20, -1, 22, -1, -1, 31, -1], nTargets: 5, divisor: 5,
  })
})

t.test('a document that begins with a target does not become one of the document before', async (t) => {
  const rows = [[Int32Array.of(5, 6), Int32Array.of(7, 8)]]
  t.same([...buildMicroBatch(rows, { isTrl: false, onAll: true }).targets], [6, -1, 8, -1])
  t.same([...buildMicroBatch(rows, { isTrl: true, onAll: false }).targets], [6, 7, 8, -1], 'in trl-0.21-eager a row is one document')
})

t.test('trl-0.21-eager on all tokens: every label of a row, boundaries too, and unshifted labels in the divisor', async (t) => {
  t.same(plain(buildMicroBatch(ROWS, { isTrl: true, onAll: true })), {
    tokenIds: IDS, documentStarts: [0, 8, 11], targets: [10, 11, 12, 2, 20, 21, 22, -1, 30, 31, -1], nTargets: 9, divisor: 11,
  })
})

t.test('trl-0.21-eager on answers: marked tokens alone are targets, and only they divide', async (t) => {
  t.match(plain(buildMicroBatch(ROWS, { isTrl: true, onAll: false })), {
    documentStarts: [0, 8, 11], targets: [-1, 11, 12, -1, 20, -1, 22, -1, -1, 31, -1], nTargets: 5, divisor: 5,
  })
})
