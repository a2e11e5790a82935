// Weighted deficit round-robin over flows (one per adapter version, one for the base): who is admitted next.

export interface FairItem {
  readonly flow: string
}

interface Flow<T> {
  readonly items: { readonly item: T; readonly cost: number }[]
  readonly grant: number
  deficit: number
  granted: boolean
}

/**
 * Bound on waiting. With quantum Q, weights w and no item dearer than C: an item of cost c with cost `a` ahead of it in its own flow i
 * is taken after at most r = ceil((a + c) / (Q w_i)) grants to its flow, and until then every other flow j gets at most
 * (r + 1) Q w_j + C. So a quiet adapter's request waits for at most 2 Q w_j + C tokens of each other adapter, however long their queues.
 */
export class FairQueue<T extends FairItem> {
  readonly #quantum: number
  readonly #weightOf: (flow: string) => number
  readonly #flows = new Map<string, Flow<T>>()
  /** Flows with items in the order of service; the first is being served. */
  #order: string[] = []
  #size = 0

  constructor(quantum: number, weightOf: (flow: string) => number = () => 1) {
    this.#quantum = quantum
    this.#weightOf = weightOf
  }

  get size(): number {
    return this.#size
  }

  push(item: T, cost: number): void {
    let flow = this.#flows.get(item.flow)
    if (flow === undefined) {
      flow = { items: [], grant: Math.max(1, this.#quantum * this.#weightOf(item.flow)), deficit: 0, granted: false }
      this.#flows.set(item.flow, flow)
      this.#order.push(item.flow)
    }
    flow.items.push({ item, cost })
    this.#size++
  }

  /** The item whose turn it is, left in the queue; stays the same until it is taken or removed. */
  peek(): T | undefined {
    for (;;) {
      const name = this.#order[0]
      if (name === undefined) return undefined
      const flow = this.#flows.get(name)!
      if (!flow.granted) {
        flow.deficit += flow.grant
        flow.granted = true
      }
      const head = flow.items[0]!
      if (head.cost <= flow.deficit) return head.item
      flow.granted = false
      this.#order.push(this.#order.shift()!)
    }
  }

  /** Removes what `peek` shows and charges its flow. */
  take(): T | undefined {
    const item = this.peek()
    if (item === undefined) return undefined
    const flow = this.#flows.get(item.flow)!
    flow.deficit -= flow.items.shift()!.cost
    this.#size--
    this.#dropIfEmpty(item.flow, flow)
    return item
  }

  remove(item: T): boolean {
    const flow = this.#flows.get(item.flow)
    const i = flow?.items.findIndex((entry) => entry.item === item) ?? -1
    if (flow === undefined || i < 0) return false
    flow.items.splice(i, 1)
    this.#size--
    this.#dropIfEmpty(item.flow, flow)
    return true
  }

  *[Symbol.iterator](): Generator<T> {
    for (const flow of this.#flows.values()) for (const { item } of flow.items) yield item
  }

  /** An empty flow keeps no credit: saving up by staying away would let it burst later. */
  #dropIfEmpty(name: string, flow: Flow<T>): void {
    if (flow.items.length > 0) return
    this.#flows.delete(name)
    this.#order = this.#order.filter((other) => other !== name)
  }
}
