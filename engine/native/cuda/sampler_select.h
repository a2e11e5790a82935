// Selection from one row by one block, without a sort of the row: the parts say which few hold what is looked for; their scores go to
// a list in shared memory, and only the list is sorted. For sampler_choose.cu.
#pragma once
#include "sampler.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

constexpr int kSelectThreads = 512, kSelectWarps = kSelectThreads / kWarp;
constexpr int kListSize = 2048, kBins = 2048;

struct SelectShared {
  u64 list[kListSize];               // ~key << 32 | id: ascending is best first
  uint32_t low[kBins], high[kBins];  // 64-bit sums of a histogram, for sampler_wide.h and sampler_mass.cu
  u64 words[kWarp];
  double doubles[kWarp];
  int count, cut, last, pick;
  double kept;
  u64 before, with;
};

__device__ inline int lane_id() { return threadIdx.x % kWarp; }
__device__ inline int warp_id() { return threadIdx.x / kWarp; }

/// Sum of the threads before this one; total: of all. The same in every run. shared: [32].
template <class T>
__device__ T exclusive_scan(T mine, T& total, T* shared) {
  T sum = mine;
  for (int o = 1; o < kWarp; o *= 2) {
    const T other = __shfl_up_sync(kAllLanes, sum, o);
    if (lane_id() >= o) sum += other;
  }
  const T left = __shfl_up_sync(kAllLanes, sum, 1);
  __syncthreads();
  if (lane_id() == kWarp - 1) shared[warp_id()] = sum;
  __syncthreads();
  T before = 0;
  total = 0;
  for (int w = 0; w < kSelectWarps; w++) {
    if (w < warp_id()) before += shared[w];
    total += shared[w];
  }
  return lane_id() == 0 ? before : before + left;
}

__device__ inline int block_count(int mine, SelectShared& sh) {
  const int sum = __reduce_add_sync(kAllLanes, mine);
  __syncthreads();
  if (lane_id() == 0) sh.words[warp_id()] = u64(sum);
  __syncthreads();
  int total = 0;
  for (int w = 0; w < kSelectWarps; w++) total += int(sh.words[w]);
  return total;
}

/// A key that at least k scores of the row reach, little below the k-th best as a rule: k parts have it. 0 where there are too few.
__device__ inline uint32_t threshold(const uint32_t* part_keys, int n_parts, int k, uint32_t top, SelectShared& sh) {
  uint32_t low = 0, high = top + 1;  // at least k parts reach low, fewer reach high
  if (n_parts <= k) return 0;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    int mine = 0;
    for (int p = threadIdx.x; p < n_parts; p += kSelectThreads) mine += part_keys[p] >= middle;
    const int n = block_count(mine, sh);
    if (n >= k)
      low = middle;
    else
      high = middle;
    if (n >= k && n <= k + k / 4) break;
  }
  return low;
}

/// Appends those of a warp's 128 scores that reach `low`.
__device__ inline void append(const float (&v)[4], int first, int V, uint32_t low, SelectShared& sh) {
  for (int j = 0; j < 4; j++) {
    const uint32_t key = order_key(v[j]);
    const bool taken = key >= low && first + j < V;
    const unsigned mask = __ballot_sync(kAllLanes, taken);
    if (mask == 0) continue;
    int at = 0;
    if (lane_id() == 0) at = atomicAdd(&sh.count, __popc(mask));
    at = __shfl_sync(kAllLanes, at, 0) + __popc(mask & ((1u << lane_id()) - 1));
    if (taken && at < kListSize) sh.list[at] = u64(~key) << 32 | uint32_t(first + j);
  }
}

/// All scores that reach `low` go to the list, in any order. Returns how many there are, which may be more than the list holds.
__device__ inline int gather(const ScoreRow& row, const uint32_t* part_keys, int n_parts, uint32_t low, SelectShared& sh) {
  __syncthreads();
  if (threadIdx.x == 0) sh.count = 0;
  __syncthreads();
  for (int begin = warp_id() * kWarp; begin < n_parts; begin += kSelectThreads) {
    const int part = begin + lane_id();
    unsigned hits = __ballot_sync(kAllLanes, part < n_parts && part_keys[part] >= low);
    while (hits) {  // two parts at a time: their loads overlap
      const int one = (begin + __ffs(int(hits)) - 1) * kPartWidth + lane_id() * 4;
      hits &= hits - 1;
      const int other = hits ? (begin + __ffs(int(hits)) - 1) * kPartWidth + lane_id() * 4 : row.V;
      hits &= hits - 1;
      float v[4], w[4];
      row.load4(v, one);
      row.load4(w, other);
      append(v, one, row.V, low, sh);
      append(w, other, row.V, low, sh);
    }
  }
  __syncthreads();
  return sh.count;
}

/// Sorts the first n entries of the list, best first.
__device__ inline void sort_list(int n, SelectShared& sh) {
  int size = 2;
  while (size < n) size *= 2;
  for (int i = n + threadIdx.x; i < size; i += kSelectThreads) sh.list[i] = ~0ull;
  __syncthreads();
  for (int width = 2; width <= size; width *= 2)
    for (int step = width / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += kSelectThreads) {
        const int a = i / step * step * 2 + i % step, b = a + step;
        const u64 x = sh.list[a], y = sh.list[b];
        if ((x > y) == ((a & width) == 0)) sh.list[a] = y, sh.list[b] = x;
      }
      __syncthreads();
    }
}

__device__ inline float list_score(u64 entry) { return key_score(~uint32_t(entry >> 32)); }
__device__ inline int list_id(u64 entry) { return int(uint32_t(entry)); }

}  // namespace lorikeet::cuda
#endif
