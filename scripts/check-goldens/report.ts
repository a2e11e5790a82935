// One line an item: its largest difference beside what is allowed.

export class Report {
  nFailed = 0
  nPassed = 0
  nSkipped = 0

  section(title: string): void {
    console.log(`\n${title}`)
  }

  /** Largest absolute difference of an item; NaN fails. */
  difference(item: string, largest: number, tolerance: number): void {
    this.#line(largest <= tolerance, item, largest.toExponential(2), `at most ${tolerance.toExponential(0)}`)
  }

  /** Cases that must be equal. */
  equal(item: string, nDiffering: number, nCases: number): void {
    this.#line(nDiffering === 0 && nCases > 0, item, `${nDiffering} of ${nCases} differ`, 'equal')
  }

  holds(item: string, holds: boolean, found: string): void {
    this.#line(holds, item, found, '')
  }

  skip(item: string, why: string): void {
    this.nSkipped++
    console.log(`  skip  ${item.padEnd(52)} ${why}`)
  }

  summary(): string {
    return `${this.nPassed} passed, ${this.nFailed} failed, ${this.nSkipped} skipped`
  }

  #line(passed: boolean, item: string, found: string, allowed: string): void {
    if (passed) this.nPassed++
    else this.nFailed++
    console.log(`  ${passed ? 'ok   ' : 'FAIL '} ${item.padEnd(52)} ${found.padEnd(22)} ${allowed}`)
  }
}

/** Largest |a - b|; infinite where the lengths differ, NaN where a value is NaN on one side only. */
export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Infinity
  let largest = 0
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!)
    if (Number.isNaN(difference) && !(Number.isNaN(a[i]!) && Number.isNaN(b[i]!))) return NaN
    if (difference > largest) largest = difference
  }
  return largest
}

/** Elements whose bits differ: tells -0 from 0. */
export function countBits(a: Float32Array, b: Float32Array): number {
  const x = new Uint32Array(a.buffer, a.byteOffset, a.length)
  const y = new Uint32Array(b.buffer, b.byteOffset, b.length)
  return countDiffering(x, y)
}

export function countDiffering(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let n = Math.abs(a.length - b.length)
  for (let i = 0; i < Math.min(a.length, b.length); i++) if (a[i] !== b[i]) n++
  return n
}
