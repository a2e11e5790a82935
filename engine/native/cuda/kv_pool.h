// The device's layout of keys and values: [block][layer][kv head][keys, values][16 tokens][D] bf16. A warp reads a token's key as
// D / 32 consecutive elements a lane.
#pragma once
#include "device.h"

namespace lorikeet::cuda {

struct KvPoolCuda : KvPool {
  int n_kv_heads = 0, head_dim = 0;
  Buffer buffer;
};

/// What a kernel needs to find a token's key.
struct KvView {
  nv_bf16* data;
  int n_layers, n_kv_heads, head_dim, layer;
#if defined(__CUDACC__)
  __device__ nv_bf16* keys(int block, int head) const { return keys(block, layer, head); }
  __device__ nv_bf16* keys(int block, int layer, int head) const {
    const int64_t index = (int64_t(block) * n_layers + layer) * n_kv_heads + head;
    return data + index * 2 * kBlockTokens * head_dim;
  }
#endif
};

inline KvView view(const KvPool& pool, int layer) {
  const auto& p = static_cast<const KvPoolCuda&>(pool);
  return {static_cast<nv_bf16*>(p.buffer.data()), p.n_layers, p.n_kv_heads, p.head_dim, layer};
}

#if defined(__CUDACC__)
/// Block that holds a position of a row.
__device__ inline int block_of(const DeviceRow& row, const int32_t* table, bool sliding, int position) {
  const int logical = position / kBlockTokens;
  return sliding ? table[row.sliding_begin + logical - row.sliding_first] : table[row.global_begin + logical];
}
#endif

}  // namespace lorikeet::cuda
