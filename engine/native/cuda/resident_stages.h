// The weights of a resident kernel's block as a stream of stages through shared memory: a warp of its own asks for them (9.0's bulk
// copies), as far ahead as there is room, across products and layers, so memory never waits for a product to begin.
#pragma once
#include "nf4_layout.h"
#include "resident_pairs.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

__device__ inline char* resident_memory() {
  extern __shared__ __align__(128) char shared[];
  return shared;
}
__device__ inline uint32_t resident_address(int offset) { return uint32_t(__cvta_generic_to_shared(resident_memory())) + offset; }

#if __CUDA_ARCH__ >= 900
__device__ inline void barrier_init(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
/// The barriers that this thread has made are there for the copies too.
__device__ inline void barriers_made() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void barrier_arrive(uint32_t barrier) {
  asm volatile("{ .reg .b64 s; mbarrier.arrive.shared.b64 s, [%0]; }" ::"r"(barrier) : "memory");
}
__device__ inline void barrier_expect(uint32_t barrier, int bytes) {
  asm volatile("{ .reg .b64 s; mbarrier.arrive.expect_tx.shared.b64 s, [%0], %1; }" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void barrier_wait(uint32_t barrier, int parity) {
  asm volatile("{ .reg .pred done; wait: mbarrier.try_wait.parity.shared.b64 done, [%0], %1; @!done bra wait; }" ::"r"(barrier), "r"(parity)
               : "memory");
}
__device__ inline void copy_bulk(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
               "r"(barrier)
               : "memory");
}
#else  // such code is refused before the launch
__device__ inline void barrier_init(uint32_t, int) {}
__device__ inline void barriers_made() {}
__device__ inline void barrier_arrive(uint32_t) {}
__device__ inline void barrier_expect(uint32_t, int) {}
__device__ inline void barrier_wait(uint32_t, int) {}
__device__ inline void copy_bulk(uint32_t, const void*, int, uint32_t) {}
#endif

/// A block's part in a product: n row tiles first, first + step, ..., over all k_tiles column tiles. A row tile of gate comes with that of
/// up, which lies `half` tiles on.
struct Share {
  int first, step, n, k_tiles, half;
};

template <class P>
__device__ inline Share share_of(const ResidentArgs& p, int kind) {
  const int here = blockIdx.x, blocks = gridDim.x, reversed = blocks - 1 - here;  // so that blocks with more of one have less of another
  const auto share = [](int first, int step, int rows, int k_tiles) {
    return Share{first, step, first < rows ? ceil_div(rows - first, step) : 0, k_tiles, rows * k_tiles};
  };
  switch (kind) {
    case kQkv:
      return share(here, blocks, (p.n_heads + 2 * p.n_kv_heads) * P::kHead / kTileRows, P::kColumnTiles);
    case kO:
      return share(reversed, blocks, P::kRowTiles, p.q_tiles);
    case kGateUp:
      return share(here, blocks, p.i_tiles * (kTileCols / kTileRows), P::kColumnTiles);
    default:
      return share(reversed, blocks, P::kRowTiles, p.i_tiles);
  }
}

/// A stage has codes, then scales, of two tiles for each of N warps: of gate and up, or of neighbouring columns; or the weights of two
/// norms for N tiles of columns; or kTilesOfA tiles of an adapter's A.
template <class P>
struct Stages {
  int stage = 0, parity = 0;

  __device__ static uint32_t full(int stage) { return resident_address(P::kBarriers) + stage * 16; }
  __device__ static uint32_t free(int stage) { return full(stage) + 8; }
  __device__ static void init() {
    for (int s = 0; s < P::kStages; s++) barrier_init(full(s), 1), barrier_init(free(s), P::kWarps);
    barriers_made();
  }
  __device__ void next() {
    if (++stage == P::kStages) stage = 0, parity ^= 1;
  }

  // The warps that multiply.
  __device__ const char* acquire() {
    barrier_wait(full(stage), parity);
    return resident_memory() + P::kRing + stage * P::kStageBytes;
  }
  __device__ void release(int lane) {
    __syncwarp();
    if (lane == 0) barrier_arrive(free(stage));
    next();
  }

  // The thread that asks.
  __device__ uint32_t reserve(int bytes) {
    barrier_wait(free(stage), parity ^ 1);
    barrier_expect(full(stage), bytes);
    return resident_address(P::kRing) + stage * P::kStageBytes;
  }
  __device__ void ask_norms(const float* post, const float* weights) {
    for (int kt = 0; kt < P::kTilesOfWarp; kt++) {
      constexpr int kBytes = P::kNormBytes;
      const uint32_t to = reserve(post ? 2 * kBytes : kBytes), barrier = full(stage);
      if (post) copy_bulk(to, post + kt * (kBytes / 4), kBytes, barrier);
      copy_bulk(to + kBytes, weights + kt * (kBytes / 4), kBytes, barrier);
      next();
    }
  }
  /// A's tiles of the block's units.
  __device__ void ask_adapters(int layer, int kind, int k_tiles) {
    constexpr int kTile = 4 * kWarp * 16;
    const auto& state = *reinterpret_cast<const AdapterState*>(resident_memory() + P::kAdapters);
    while (acquire_shared(&state.ready) <= layer) __nanosleep(40);
    const auto* pairs = reinterpret_cast<const ResidentPair*>(resident_memory() + P::kPairs) + layer % kPairLayers * kModules * P::T;
    each_unit<P>(state, pairs, kind, k_tiles, [&](const ShrinkUnit& unit, const ResidentPair& pair, int n_tiles) {
      const auto* from = reinterpret_cast<const char*>(pair.a) + (int64_t(unit.rank_tile) * k_tiles + unit.round * P::kWarps) * kTile;
      for (int first = 0; first < n_tiles; first += P::kTilesOfA) {
        const int bytes = min(P::kTilesOfA, n_tiles - first) * kTile;
        const uint32_t to = reserve(bytes);
        copy_bulk(to, from + first * kTile, bytes, full(stage));
        next();
      }
    });
  }
  __device__ void ask_all(const ResidentArgs& p, const ResidentLayer* layers, const Share* shares) {
    constexpr int N = P::kWarps, kCodes = kWarp * 16, kScales = kTileRows * 4;
    const int n_layers = p.n_layers;
#pragma unroll 1
    for (int layer = 0; layer < n_layers; layer++) {
      const ResidentLayer& l = layers[layer];
#pragma unroll 1
      for (int kind = 0; kind < kKinds; kind++) {
        if (kind == kQkv || kind == kGateUp) ask_norms(l.norms[kind], l.norms[kind + 1]);
        const Share s = shares[kind];
        if constexpr (P::kLora) ask_adapters(layer, kind, s.k_tiles);
        const char *tiles = reinterpret_cast<const char*>(l.tiles[kind]), *scales = reinterpret_cast<const char*>(l.scales[kind]);
        const int of_gate = kind == kGateUp ? N : 2 * N;
#pragma unroll 1
        for (int i = 0; i < s.n; i++)
#pragma unroll 1
          for (int k = 0; k < s.k_tiles; k += of_gate) {
            const int64_t tile = int64_t(s.first + i * s.step) * s.k_tiles + k;
            const int n = min(of_gate, s.k_tiles - k);
            const uint32_t to = reserve((kind == kGateUp ? 2 : 1) * n * (kCodes + kScales)), barrier = full(stage);
            copy_bulk(to, tiles + tile * kCodes, n * kCodes, barrier);
            copy_bulk(to + P::kScales, scales + tile * kScales, n * kScales, barrier);
            if (kind == kGateUp) {
              copy_bulk(to + N * kCodes, tiles + (tile + s.half) * kCodes, n * kCodes, barrier);
              copy_bulk(to + P::kScales + N * kScales, scales + (tile + s.half) * kScales, n * kScales, barrier);
            }
            next();
          }
      }
    }
    if (blockIdx.x == 0) ask_norms(layers[n_layers].norms[0], layers[n_layers].norms[1]);
  }
};

}  // namespace lorikeet::cuda
#endif
