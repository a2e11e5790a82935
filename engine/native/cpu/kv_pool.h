// The CPU's layout of keys and values. One block holds kBlockTokens = 16 tokens of one layer and kv head:
//   keys   bf16 [D/2][16][2]   f32 [D][16]     sixteen scores are one register: no sum across lanes
//   values bf16 [8][D][2]      f32 [16][D]     two tokens (one in f32) are weighted by one instruction
#pragma once
#include "ops.h"

namespace lorikeet::CPU_NS {

struct KvPoolCpu : KvPool {
  int n_kv_heads = 0, head_dim = 0;
  DType dtype = DType::kBF16;
  Buffer buffer;

  int64_t elements() const { return int64_t(kBlockTokens) * head_dim; }  // of one block's keys, and of its values
  /// Keys of a block; its values follow after elements().
  template <class T>
  T* keys(int block, int layer, int head) const {
    const int64_t index = (int64_t(block) * n_layers + layer) * n_kv_heads + head;
    return static_cast<T*>(buffer.data()) + index * 2 * elements();
  }
};

}  // namespace lorikeet::CPU_NS
