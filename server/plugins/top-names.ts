// The names used most of late, a fixed number of them: what metrics may take as a label without growing with what clients ask for.

import { LRUCache } from 'lru-cache'

/** Stands for every name that is not among the most used. */
export const OTHER = 'other'

export interface TopNamesOptions {
  readonly max: number
  /** A use counts half after this time, ms. */
  readonly halfLifeMs?: number
  /** A name has lost its place to another. */
  readonly onDrop?: (name: string) => void
}

interface Score {
  readonly uses: number
  readonly at: number
}

const HALF_LIFE_MS = 600_000
/** Names whose uses are counted, for each that has a place. */
const TRACKED = 32
/** A newcomer must be used this much more than the least used: names of equal use do not take turns. */
const LEAD = 1.5

export class TopNames {
  readonly #max: number
  readonly #halfLifeMs: number
  readonly #onDrop: (name: string) => void
  readonly #scores: LRUCache<string, Score>
  readonly #named = new Set<string>()

  constructor({ max, halfLifeMs = HALF_LIFE_MS, onDrop = () => {} }: TopNamesOptions) {
    this.#max = max
    this.#halfLifeMs = halfLifeMs
    this.#onDrop = onDrop
    this.#scores = new LRUCache({ max: Math.max(1, max * TRACKED) })
  }

  /** Counts one use at a time in ms; it may give the name a place, and take another's. */
  use(name: string, now = performance.now()): void {
    this.#scores.set(name, { uses: this.#usesOf(name, now) + 1, at: now })
    if (this.#named.has(name) || this.#max === 0) return
    if (this.#named.size >= this.#max) {
      const least = this.#leastUsed(now)
      if (this.#usesOf(name, now) < LEAD * this.#usesOf(least, now)) return
      this.#named.delete(least)
      this.#onDrop(least)
    }
    this.#named.add(name)
  }

  /** The name itself while it has a place, else OTHER. */
  labelOf(name: string): string {
    return this.#named.has(name) ? name : OTHER
  }

  #usesOf(name: string, now: number): number {
    const { uses, at } = this.#scores.peek(name) ?? { uses: 0, at: now }
    return uses * 2 ** ((at - now) / this.#halfLifeMs)
  }

  #leastUsed(now: number): string {
    return [...this.#named].reduce((least, name) => (this.#usesOf(name, now) < this.#usesOf(least, now) ? name : least))
  }
}
