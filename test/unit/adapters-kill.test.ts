import t from 'tap'
import { killPublishers } from '../../scripts/kill-publish.js'

t.test('60 publishers killed at random leave no torn version and lose none that was acknowledged', async (t) => {
  const { kills, acknowledged, midPublish, torn, lost } = await killPublishers(60, 40)
  t.same([...torn, ...lost], [])
  t.equal(kills, 60)
  t.ok(acknowledged >= 60)
  t.ok(midPublish > 10, `only ${midPublish} kills hit a publish half way: they prove nothing`)
})
