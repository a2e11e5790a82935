// KV blocks of one sequence after another: two pools (global and sliding layers), reference counts, and the prefix cache over full
// blocks. Pure bookkeeping: block numbers only, no tensors. Steps run in order on the device, so a block may be given to the next plan
// while the last plan that reads it still runs.

import { createHash } from 'node:crypto'
import { BlockPool } from './block-pool.js'
import type { NativeModelInfo } from './native.js'

export interface KvShape {
  readonly blockTokens: number
  /** Sliding window in positions: the query at p sees keys in (p - window, p]. */
  readonly window: number
  readonly nGlobalBlocks: number
  readonly nSlidingBlocks: number
}

/** Keys of a sequence's full blocks: a hash chain over its token ids, computed once each. */
export class BlockKeys {
  readonly #seed: string
  readonly #blockTokens: number
  readonly #tokenAt: (position: number) => number
  readonly #keys: string[] = []

  /** `tokenAt` must know every id of a block whose key is asked for. */
  constructor(seed: string, blockTokens: number, tokenAt: (position: number) => number) {
    this.#seed = seed
    this.#blockTokens = blockTokens
    this.#tokenAt = tokenAt
  }

  at(block: number): string {
    while (this.#keys.length <= block) this.#keys.push(this.#next(this.#keys.length))
    return this.#keys[block]!
  }

  #next(block: number): string {
    const ids = new Int32Array(this.#blockTokens)
    for (let i = 0; i < ids.length; i++) ids[i] = this.#tokenAt(block * this.#blockTokens + i)
    return createHash('sha256').update(this.#keys[block - 1] ?? this.#seed, 'latin1').update(ids).digest('binary')
  }
}

/** Blocks of one live sequence. `sliding[i]` is logical block `slidingFirst + i`. */
export interface KvTable {
  readonly global: number[]
  readonly sliding: number[]
  slidingFirst: number
  /** Null = this sequence shares nothing. */
  readonly keys: BlockKeys | null
  nPublished: number
}

/** A usable prefix: its full blocks in both pools. */
export interface PrefixMatch {
  readonly nTokens: number
  readonly global: readonly number[]
  readonly sliding: readonly number[]
  readonly slidingFirst: number
}

const NO_MATCH: PrefixMatch = { nTokens: 0, global: [], sliding: [], slidingFirst: 0 }

/** A context shorter than the window makes the window no longer than itself. */
export function kvShapeOf({ blockTokens, slidingWindow, maxModelLen, nGlobalBlocks, nSlidingBlocks }: NativeModelInfo): KvShape {
  return { blockTokens, window: Math.min(slidingWindow, maxModelLen), nGlobalBlocks, nSlidingBlocks }
}

export class KvBlocks {
  readonly shape: KvShape
  readonly global: BlockPool
  readonly sliding: BlockPool

  constructor(shape: KvShape) {
    this.shape = shape
    this.global = new BlockPool(shape.nGlobalBlocks)
    this.sliding = new BlockPool(shape.nSlidingBlocks)
  }

  /** Share of blocks that live sequences hold, 0..1, of the fuller pool. */
  get usage(): number {
    return Math.max(this.global.used / this.global.nBlocks, this.sliding.used / this.sliding.nBlocks)
  }

  /** First logical block that a query at `position` still sees in sliding layers. */
  firstVisible(position: number): number {
    return Math.max(0, Math.floor((position - this.shape.window + 1) / this.shape.blockTokens))
  }

  /**
   * The longest cached prefix of a sequence of `nTokens` that leaves at least one token to compute: global blocks for all of it, and
   * sliding blocks for the window before its end. Global hits are found left to right, then the end moves left until the window is whole.
   */
  match(keys: BlockKeys | null, nTokens: number): PrefixMatch {
    if (keys === null) return NO_MATCH
    const { blockTokens } = this.shape
    const global: number[] = []
    for (let i = 0; (i + 1) * blockTokens < nTokens; i++) {
      const block = this.global.lookup(keys.at(i))
      if (block === undefined) break
      global.push(block)
    }
    const sliding = global.map((_, i) => this.sliding.lookup(keys.at(i)))
    for (let n = global.length; n > 0;) {
      const slidingFirst = this.firstVisible(n * blockTokens)
      const gap = sliding.lastIndexOf(undefined, n - 1)
      if (gap < slidingFirst) {
        return { nTokens: n * blockTokens, global: global.slice(0, n), sliding: sliding.slice(slidingFirst, n) as number[], slidingFirst }
      }
      n = gap  // every end between here and there has the gap inside its window
    }
    return NO_MATCH
  }

  /** Whether a sequence of `nTokens` fits now, computed in chunks of at most `chunk` tokens after the matched prefix. */
  canOpen(match: PrefixMatch, nTokens: number, chunk: number): boolean {
    const { blockTokens, window } = this.shape
    const nNew = Math.ceil(nTokens / blockTokens) - match.global.length
    const nInWindow = Math.ceil((window + chunk) / blockTokens) + 1
    const nNewSliding = Math.min(nNew, Math.max(0, nInWindow - match.sliding.length))
    return nNew + countIdle(this.global, match.global) <= this.global.available
      && nNewSliding + countIdle(this.sliding, match.sliding) <= this.sliding.available
  }

  /** Takes the references of a matched prefix. */
  open(keys: BlockKeys | null, match: PrefixMatch): KvTable {
    for (const block of match.global) this.global.retain(block)
    for (const block of match.sliding) this.sliding.retain(block)
    const { slidingFirst } = match
    return { global: [...match.global], sliding: [...match.sliding], slidingFirst, keys, nPublished: match.global.length }
  }

  /**
   * Makes the blocks of positions [from, to) exist and lets go of sliding blocks that no query from `from` on sees.
   * False, with nothing allocated, when a pool is short.
   */
  grow(table: KvTable, from: number, to: number): boolean {
    const { blockTokens } = this.shape
    this.#slide(table, this.firstVisible(from))
    const nBlocks = Math.ceil(to / blockTokens)
    const globalNew = nBlocks - table.global.length
    const slidingNew = nBlocks - table.slidingFirst - table.sliding.length
    if (globalNew > this.global.available || slidingNew > this.sliding.available) return false
    for (let i = 0; i < globalNew; i++) table.global.push(this.global.allocate())
    for (let i = 0; i < slidingNew; i++) table.sliding.push(this.sliding.allocate())
    return true
  }

  /** Publishes the blocks that are full within the first `nTokens` tokens: planned already, and with known ids. */
  publish(table: KvTable, nTokens: number): void {
    if (table.keys === null) return
    for (; (table.nPublished + 1) * this.shape.blockTokens <= nTokens; table.nPublished++) {
      const i = table.nPublished
      const key = table.keys.at(i)
      this.global.publish(table.global[i]!, key)
      if (i >= table.slidingFirst) this.sliding.publish(table.sliding[i - table.slidingFirst]!, key)
    }
  }

  /** Gives all blocks back, the end of the sequence first, so that beginnings stay cached longest. */
  close(table: KvTable): void {
    for (const block of table.global.reverse()) this.global.release(block)
    for (const block of table.sliding.reverse()) this.sliding.release(block)
    table.global.length = 0
    table.sliding.length = 0
  }

  /** Takes every block of a sequence out of the cache: its states hold NaN. */
  forget(table: KvTable): void {
    for (const block of table.global) this.global.forget(block)
    for (const block of table.sliding) this.sliding.forget(block)
  }

  /** Empties the prefix cache: after a step that failed as a whole, nothing on the device is certain. */
  forgetAll(): void {
    this.global.forgetAll()
    this.sliding.forgetAll()
  }

  #slide(table: KvTable, first: number): void {
    const n = Math.min(first - table.slidingFirst, table.sliding.length)
    if (n <= 0) return
    for (const block of table.sliding.splice(0, n)) this.sliding.release(block)
    table.slidingFirst += n
  }
}

/** Start of a hash chain: sequences share states only under the same base, adapter version and tenant salt. */
export function chainSeed(baseHash: string, adapterVersion: string, cacheSalt: string): string {
  return createHash('sha256').update(JSON.stringify([baseHash, adapterVersion, cacheSalt])).digest('binary')
}

/** Cached blocks that nobody holds: taking them makes fewer available. */
function countIdle(pool: BlockPool, blocks: readonly number[]): number {
  return blocks.reduce((n, block) => n + (pool.isReferenced(block) ? 0 : 1), 0)
}
