import t from 'tap'
import { AdapterTable } from '../../engine/adapter-table.js'
import type { NativeModel } from '../../engine/native.js'

t.test('loading the version that a slot holds is no error, another version is', async (t) => {
  let loads = 0
  const model = { loadAdapter: async () => ({ rank: 8, bytes: ++loads, nTensors: 1, warnings: [] }) } as unknown as NativeModel
  const table = new AdapterTable(model, 2)
  t.match(await table.load({ slot: 1, version: 'a', path: '/a' }), { bytes: 1 })
  t.match(await table.load({ slot: 1, version: 'a', path: '/a' }), { bytes: 1 })
  t.equal(loads, 1)
  await t.rejects(table.load({ slot: 1, version: 'b', path: '/b' }), { code: 'ADAPTER_EXISTS' })
  await t.rejects(table.load({ slot: 2, version: 'a', path: '/a' }), { code: 'INVALID_REQUEST' })
})
