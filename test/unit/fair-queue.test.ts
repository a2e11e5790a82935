import t from 'tap'
import { FairQueue } from '../../engine/fair-queue.js'

interface Item { readonly flow: string; readonly cost: number }

function fill(queue: FairQueue<Item>, flow: string, n: number, cost: number): void {
  for (let i = 0; i < n; i++) queue.push({ flow, cost }, cost)
}

t.test('items of one flow leave in order of arrival', async (t) => {
  const queue = new FairQueue<Item>(10)
  const items = [5, 25, 1].map((cost) => ({ flow: 'a', cost }))
  for (const item of items) queue.push(item, item.cost)
  t.same([queue.take(), queue.take(), queue.take(), queue.take()], [...items, undefined])
})

t.test('what peek shows stays until it is taken, whatever arrives meanwhile', async (t) => {
  const queue = new FairQueue<Item>(10)
  fill(queue, 'a', 3, 10)
  const shown = queue.peek()
  fill(queue, 'b', 3, 1)
  t.equal(queue.peek(), shown)
  t.equal(queue.take(), shown)
})

t.test('a removed item is never shown, and an emptied flow leaves no trace', async (t) => {
  const queue = new FairQueue<Item>(10)
  const item = { flow: 'a', cost: 5 }
  queue.push(item, 5)
  queue.peek()
  t.ok(queue.remove(item))
  t.notOk(queue.remove(item))
  t.equal(queue.peek(), undefined)
  t.equal(queue.size, 0)
})

t.test('flows get shares of admitted tokens in proportion to their weights', async (t) => {
  const queue = new FairQueue<Item>(100, (flow) => (flow === 'heavy' ? 3 : 1))
  fill(queue, 'heavy', 1000, 20)
  fill(queue, 'light', 1000, 20)
  const taken = { heavy: 0, light: 0 } as Record<string, number>
  for (let i = 0; i < 400; i++) taken[queue.take()!.flow]!++
  t.ok(Math.abs(taken['heavy']! / taken['light']! - 3) < 0.2, JSON.stringify(taken))
})

t.test('1 busy adapter and 50 quiet ones: no quiet request waits longer than the stated bound', async (t) => {
  const quantum = 512
  const dearest = 700
  const queue = new FairQueue<Item>(quantum)
  let seed = 7
  const random = (n: number) => (seed = (seed * 1103515245 + 12345) % 2147483648) % n
  const waitingSince = new Map<Item, Map<string, number>>()
  const admitted = new Map<string, number>()
  let worst = 0
  fill(queue, 'busy', 2000, dearest)
  for (let round = 0; round < 3000; round++) {
    if (queue.size < 2000) fill(queue, 'busy', 10, dearest)
    const quiet = `quiet ${random(50)}`
    if (![...queue].some((item) => item.flow === quiet)) {
      const item = { flow: quiet, cost: 1 + random(quantum) }
      queue.push(item, item.cost)
      waitingSince.set(item, new Map(admitted))
    }
    const taken = queue.take()!
    const then = waitingSince.get(taken)
    if (then !== undefined) {
      waitingSince.delete(taken)
      for (const [flow, tokens] of admitted) worst = Math.max(worst, tokens - (then.get(flow) ?? 0))
    }
    admitted.set(taken.flow, (admitted.get(taken.flow) ?? 0) + taken.cost)
  }
  const bound = 2 * quantum + dearest
  t.ok(worst > 0 && worst <= bound, `largest service of one other flow while a quiet request waited: ${worst} of at most ${bound} tokens`)
})
