// What every file of the CUDA backend shares: errors, warp reductions, and the step's data as it lies on the device.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <string>

#include "../core/backend.h"

namespace lorikeet::cuda {

using nv_bf16 = __nv_bfloat16;

constexpr int kWarp = 32;

/// @throws Error OUT_OF_MEMORY, DEVICE_LOST where no later call can succeed, else CUDA_ERROR; it names the call.
[[noreturn]] void fail(cudaError_t status, const char* what);
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) fail(status, what);
}
inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

template <class T>
constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

inline const nv_bf16* nv(const bf16* p) { return reinterpret_cast<const nv_bf16*>(p); }
inline nv_bf16* nv(bf16* p) { return reinterpret_cast<nv_bf16*>(p); }

/// One row of a step on the device: see BatchRow.
struct DeviceRow {
  int begin, end, position;
  int global_begin, sliding_begin;  // of the row's entries in the two tables
  int sliding_first;
};

/// What one thread block of prefill attention takes: queries [first, first + size of the list) of a row of several tokens.
struct QueryTile {
  int32_t row, first;
};
constexpr int kQueryTileLists = 4;  // of tiles of 16, 32, 64 and 128 queries, the most work first
constexpr int query_tile_size(int list) { return 16 << list; }

/// Uploaded once a step; ops find here what their host arguments say.
struct StepData {
  const int32_t* token_ids;     // [T]
  const int32_t* positions;     // [T]
  const int32_t* row_of_token;  // [T]
  const DeviceRow* rows;        // [R]
  const int32_t* global_table;
  const int32_t* sliding_table;
  int n_tokens, n_rows;
  const QueryTile* query_tiles[kQueryTileLists];
  int n_query_tiles[kQueryTileLists];  // 0: every row has one token
};

#if defined(__CUDACC__)
__device__ inline float warp_sum(float v) {
  for (int o = kWarp / 2; o > 0; o /= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
__device__ inline float warp_max(float v) {
  for (int o = kWarp / 2; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}
/// Sum over a block of at most 1,024 threads; every thread gets it. shared: [32] floats.
__device__ inline float block_sum(float v, float* shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, n_warps = (blockDim.x + kWarp - 1) / kWarp;
  v = warp_sum(v);
  __syncthreads();
  if (lane == 0) shared[warp] = v;
  __syncthreads();
  return warp_sum(lane < n_warps ? shared[lane] : 0.0f);
}
#endif

}  // namespace lorikeet::cuda
