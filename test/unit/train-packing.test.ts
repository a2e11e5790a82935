import t from 'tap'
import { type PackedRows, oneRowEach, packAsTrl, packBestFit } from '../../engine/train/packing.js'
import { randomPermutation } from '../../engine/train/permutation.js'

/** The same rule in its plainest form, O(n * rows). */
function plainBestFit(lengths: readonly number[], maxLength: number): number[][] {
  const order = lengths.map((_, i) => i).sort((a, b) => Math.min(lengths[b]!, maxLength) - Math.min(lengths[a]!, maxLength) || a - b)
  const rows: { samples: number[]; left: number; since: number }[] = []
  order.forEach((sample, clock) => {
    const n = Math.min(lengths[sample]!, maxLength)
    const fitting = rows.filter((row) => row.left >= n).sort((a, b) => a.left - b.left || a.since - b.since)
    const row = fitting[0] ?? { samples: [], left: maxLength, since: 0 }
    if (fitting.length === 0) rows.push(row)
    row.samples.push(sample)
    row.left -= n
    row.since = clock
  })
  return rows.map((row) => row.samples)
}

const rowsOf = ({ samples, starts }: PackedRows) =>
  Array.from({ length: starts.length - 1 }, (_, row) => [...samples.subarray(starts[row], starts[row + 1])])

t.test('packing equals the rule in its plainest form, for random lengths and row sizes', async (t) => {
  for (const [i, maxLength] of [2, 3, 31, 32, 33, 64, 100, 257, 1000, 1024, 1025, 5000].entries()) {
    const n = [1, 31, 33, 257, 600][i % 5]!
    const lengths = Array.from(randomPermutation(n * 7, i).subarray(0, n), (value) => 1 + value % (maxLength + 3))
    t.same(rowsOf(packBestFit(lengths, maxLength)), plainBestFit(lengths, maxLength), `${n} samples in rows of ${maxLength}`)
  }
})

t.test('every sample once, no row too long, hardly a row more than the tokens need', async (t) => {
  const lengths = Array.from(randomPermutation(100_000, 7), (value) => 20 + value % 480)
  const startedAt = performance.now()
  const rows = rowsOf(packBestFit(lengths, 512))
  t.ok(performance.now() - startedAt < 5000, 'a hundred thousand samples take no time')
  t.same(Int32Array.from(rows.flat()).sort(), Int32Array.from(lengths, (_, i) => i))
  t.ok(rows.every((row) => row.reduce((sum, i) => sum + lengths[i]!, 0) <= 512))
  const needed = Math.ceil(lengths.reduce((a, b) => a + b) / 512)
  t.ok(rows.length < 1.05 * needed, `${rows.length} rows, at least ${needed}`)
})

t.test('as TRL: chunks are packed apart, and small rests are lost where the row is no power of two', async (t) => {
  t.same(rowsOf(packAsTrl([3, 3, 3, 3], 8, 2)), [[0, 1], [2, 3]])
  t.same(rowsOf(packAsTrl([90, 10], 100)), [[0], [1]])
  t.same(rowsOf(packBestFit([90, 10], 100)), [[0, 1]])
})

t.test('nothing to pack is no row, and unpacked rows hold one sample each', async (t) => {
  t.same(rowsOf(packBestFit([], 16)), [])
  t.same(rowsOf(packAsTrl([], 16)), [])
  t.same(rowsOf(oneRowEach(3)), [[0], [1], [2]])
})

t.test('permutations are torch.randperm\'s', async (t) => {
  // torch.randperm(10, generator=torch.Generator().manual_seed(seed)), torch 2.11
  t.same([...randomPermutation(10, 42)], [2, 6, 1, 8, 4, 5, 0, 9, 3, 7])
  t.same([...randomPermutation(10, 2 ** 32 + 42)], [2, 6, 1, 8, 4, 5, 0, 9, 3, 7], 'of the seed the low 32 bits count')
  t.same([...randomPermutation(1, 0)], [0])
  t.same([...randomPermutation(0, 0)], [])
})
