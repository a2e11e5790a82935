// The first stage of every choice over the vocabulary: the best score of each kPartWidth consecutive ids. Scores are compared as
// order keys (unsigned integers that order as floats do), so that one warp instruction finds the best of 32.
#pragma once
#include "device.h"

namespace lorikeet::cuda {

constexpr int kPartWidth = 128;  // ids of a part: one float4 a lane

/// The best of a part: the higher score, the lower id among equals. A NaN anywhere: {+inf, -1}, which wins over all.
struct Part {
  float score;
  int32_t id;
};

inline int parts_of(int64_t n_ids) { return int(ceil_div<int64_t>(n_ids, kPartWidth)); }

#if defined(__CUDACC__)
using u64 = unsigned long long;

constexpr uint32_t kNanKey = 0xffffffffu;  // no other score has it; no score at all has key 0
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline uint32_t order_key(float v) {
  const uint32_t bits = __float_as_uint(__fadd_rn(v, 0.0f));  // -0 becomes +0: they are equal
  return v != v ? kNanKey : bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
__device__ inline float key_score(uint32_t key) { return __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu)); }

/// A (key, id) pair as one integer: the larger is the better.
__device__ inline u64 packed(uint32_t key, int32_t id) { return u64(key) << 32 | (0xffffffffu - uint32_t(id + 1)); }
__device__ inline u64 packed(Part part) { return packed(part.id < 0 ? kNanKey : order_key(part.score), part.id); }
__device__ inline Part unpacked(u64 best) {
  const uint32_t key = uint32_t(best >> 32);
  if (key == kNanKey) return {INFINITY, -1};
  return {key_score(key), int32_t(0xffffffffu - uint32_t(best)) - 1};
}
__device__ inline u64 larger(u64 a, u64 b) { return a > b ? a : b; }

__device__ inline u64 warp_larger(u64 v) {
  for (int o = kWarp / 2; o > 0; o /= 2) v = larger(v, __shfl_xor_sync(kAllLanes, v, o));
  return v;
}

/// Best of a row's parts, by a whole block of at most 1,024 threads; every thread gets it. shared: [32].
__device__ inline u64 best_of_parts(const Part* parts, int n_parts, u64* shared) {
  u64 best = 0;
  for (int p = threadIdx.x; p < n_parts; p += blockDim.x) best = larger(best, packed(parts[p]));
  best = warp_larger(best);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = best;
  __syncthreads();
  return warp_larger(threadIdx.x % kWarp < blockDim.x / kWarp ? shared[threadIdx.x % kWarp] : 0);
}

/// A row of scores, [V] f32; wide: rows begin at 16 bytes.
struct ScoreRow {
  const float* values;
  int V;
  bool wide;

  /// Scores [i, i + 4) for a multiple of four; -inf behind the end.
  __device__ void load4(float (&v)[4], int i) const {
    if (wide && i + 4 <= V) {
      *reinterpret_cast<float4*>(v) = *reinterpret_cast<const float4*>(values + i);
      return;
    }
    for (int j = 0; j < 4; j++) v[j] = i + j < V ? values[i + j] : -INFINITY;
  }
};
#endif

}  // namespace lorikeet::cuda
