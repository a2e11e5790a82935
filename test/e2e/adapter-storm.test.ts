import t from 'tap'
import { MAX_RSS_GROWTH, runStorm } from '../../scripts/adapter-storm.js'
import { device } from '../device.js'

t.setTimeout(240_000)

t.test('16 adapters on 4 slots of the real engine, 1,000 requests under constant change: never a wrong adapter or version', async (t) => {
  const report = await runStorm({ nRequests: 1_000, nAdapters: 16, nSlots: 4, nClients: 16, seed: 20_261_124, device })
  const { answers, changes, wrong, loads, evictions, cachedTokens, pinsLeft, slotsLeft, adapterBytesLeft, rssGrowth } = report
  t.same(wrong, [])
  t.ok(answers.right > 500 && answers.base > 0 && answers.left > 0, JSON.stringify(answers))
  t.ok(Object.values(changes).every((count) => count > 0), JSON.stringify(changes))
  t.ok(loads > 50 && evictions > 50 && cachedTokens > 10_000, `${loads} loads, ${evictions} evictions, ${cachedTokens} cached tokens`)
  t.same({ pinsLeft, slotsLeft, adapterBytesLeft }, { pinsLeft: 0, slotsLeft: 0, adapterBytesLeft: 0 })
  t.ok(rssGrowth < MAX_RSS_GROWTH, `${rssGrowth} bytes more`)
})
