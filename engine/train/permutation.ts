// torch.randperm(n) after torch.manual_seed(seed): the rows of an epoch come in the order of TRL's seeded sampler.

const STATE_SIZE = 624
const SHIFT = 397

/** 0..n-1 in random order. */
export function randomPermutation(n: number, seed: number): Int32Array {
  const next = mersenneTwister(seed)
  const order = Int32Array.from({ length: n }, (_, i) => i)
  for (let i = 0; i < n - 1; i++) {
    const j = i + next() % (n - i)
    const swapped = order[i]!
    order[i] = order[j]!
    order[j] = swapped
  }
  return order
}

/** MT19937: Matsumoto and Nishimura 1998, 32 bits a call. Of the seed its low 32 bits count. */
function mersenneTwister(seed: number): () => number {
  const state = new Uint32Array(STATE_SIZE)
  state[0] = Number(BigInt.asUintN(32, BigInt(seed)))
  for (let i = 1; i < STATE_SIZE; i++) state[i] = Math.imul(1812433253, state[i - 1]! ^ (state[i - 1]! >>> 30)) + i
  let at = STATE_SIZE
  return () => {
    if (at === STATE_SIZE) {
      twist(state)
      at = 0
    }
    let y = state[at++]!
    y ^= y >>> 11
    y ^= (y << 7) & 0x9d2c5680
    y ^= (y << 15) & 0xefc60000
    return (y ^ (y >>> 18)) >>> 0
  }
}

function twist(state: Uint32Array): void {
  for (let i = 0; i < STATE_SIZE; i++) {
    const y = (state[i]! & 0x80000000) | (state[(i + 1) % STATE_SIZE]! & 0x7fffffff)
    state[i] = state[(i + SHIFT) % STATE_SIZE]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0)
  }
}
