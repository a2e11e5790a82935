import '../cpu-only.js'
import t from 'tap'
import { killTraining } from '../../scripts/kill-train.js'

t.setTimeout(240_000)

t.test('a run on the embedded model that is killed at random goes on to the same adapter and the same losses', async (t) => {
  const { kills, expected, found, metricsEqual } = await killTraining({ kills: 4, steps: 24, model: '', compute: 'auto' })
  t.ok(kills >= 2, `${kills} kills`)
  t.equal(found, expected)
  t.ok(metricsEqual)
})
