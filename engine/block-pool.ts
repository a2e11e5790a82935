// One pool of KV blocks: reference counts, and content that stays findable by its key until the block is needed for something else.

/** Blocks with reference counts. A block without references keeps its content and its key until it is needed for something else. */
export class BlockPool {
  readonly nBlocks: number
  readonly #refs: Int32Array
  readonly #keyOf: (string | undefined)[]
  readonly #byKey = new Map<string, number>()
  readonly #free: number[] = []
  /** Cached blocks without references, least recently used first. */
  readonly #idle = new Set<number>()

  constructor(nBlocks: number) {
    this.nBlocks = nBlocks
    this.#refs = new Int32Array(nBlocks)
    this.#keyOf = new Array<string | undefined>(nBlocks)
    for (let block = nBlocks - 1; block >= 0; block--) this.#free.push(block)
  }

  get available(): number {
    return this.#free.length + this.#idle.size
  }

  get used(): number {
    return this.nBlocks - this.available
  }

  lookup(key: string): number | undefined {
    return this.#byKey.get(key)
  }

  isReferenced(block: number): boolean {
    return this.#refs[block]! > 0
  }

  /** A block with one reference and unknown content; the least recently used cached block is given up last. */
  allocate(): number {
    const block = this.#free.pop() ?? this.#evict()
    this.#refs[block] = 1
    return block
  }

  retain(block: number): void {
    if (this.#refs[block]!++ === 0) this.#idle.delete(block)
  }

  release(block: number): void {
    const refs = --this.#refs[block]!
    if (refs < 0) throw new Error(`block ${block} released twice`)
    if (refs > 0) return
    if (this.#keyOf[block] === undefined) this.#free.push(block)
    else this.#idle.add(block)
  }

  /** Makes a full block findable. The first block of a key stays; a second with the same content is simply not shared. */
  publish(block: number, key: string): void {
    if (this.#byKey.has(key) || this.#keyOf[block] !== undefined) return
    this.#byKey.set(key, block)
    this.#keyOf[block] = key
  }

  /** No later request finds this block: its content is not to be trusted. */
  forget(block: number): void {
    const key = this.#keyOf[block]
    if (key === undefined) return
    this.#byKey.delete(key)
    this.#keyOf[block] = undefined
    if (this.#idle.delete(block)) this.#free.push(block)
  }

  forgetAll(): void {
    for (let block = 0; block < this.nBlocks; block++) this.forget(block)
  }

  #evict(): number {
    const block = this.#idle.values().next().value
    if (block === undefined) throw new Error('no block is free')
    this.#idle.delete(block)
    this.#byKey.delete(this.#keyOf[block]!)
    this.#keyOf[block] = undefined
    return block
  }
}
