// Attention of one-token rows: keys are split between blocks, whoever needs the result merges the splits.
#pragma once
#include "decode_step.h"
#include "kv_pool.h"

namespace lorikeet::cuda {

struct DecodeAttentionArgs {
  const float* qkv;              // [T, (n_heads + 2 n_kv_heads) D]
  const float* rope;             // [T, D]: D / 2 cosines, D / 2 sines
  const float *q_norm, *k_norm;  // [D]
  float eps, scale;
  int n_heads, n_kv_heads, head_dim, window, n_splits, n_tokens;
  bool sliding;
  KvView pool;
  const DecodeStep* step;
  const int32_t* tables;  // of all rows, global and sliding
  float* part_sums;       // [T, splits, n_heads D]
  float2* part_stats;     // [T, splits, n_heads]: highest score (of log2), sum of 2^(score - highest)
};

/// q and k normed and rotated, k and v appended to the cache, attention over it.
void decode_attention(const DecodeAttentionArgs& args, bool overlaps, cudaStream_t stream);
/// The splits merged, as B fragments [T, n_heads D]; for steps too large to do it in the next product.
void combine_attention(nv_bf16* fragments, const DecodeAttentionArgs& args, bool overlaps, cudaStream_t stream);
bool decode_attention_has(int n_heads, int n_kv_heads, int head_dim);

#if defined(__CUDACC__)
/// Four neighbouring outputs of one token and head. sums: of the token's first split; stats: of its first split and this head.
__device__ inline float4 merge_splits(const float* sums, const float2* stats, int n_splits, int width, int n_heads) {
  constexpr int kAtOnce = 8;  // splits whose loads are in flight together
  float top = -INFINITY, total = 0;
  float4 v{};
  for (int begin = 0; begin < n_splits; begin += kAtOnce) {
    float2 stat[kAtOnce];
    float4 part[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) {
      stat[j] = begin + j < n_splits ? __ldcg(stats + (begin + j) * n_heads) : float2{-INFINITY, 0};
      part[j] = begin + j < n_splits ? __ldcg(reinterpret_cast<const float4*>(sums + int64_t(begin + j) * width)) : float4{};
    }
    float high = top;
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) high = fmaxf(high, stat[j].x);
    const float shrink = total > 0 ? exp2f(top - high) : 0;
    top = high;
    total *= shrink;
    v.x *= shrink, v.y *= shrink, v.z *= shrink, v.w *= shrink;
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) {
      const float by = stat[j].y > 0 ? exp2f(stat[j].x - top) : 0;  // a split without keys has neither
      total += by * stat[j].y;
      v.x += by * part[j].x, v.y += by * part[j].y, v.z += by * part[j].z, v.w += by * part[j].w;
    }
  }
  const float inverse = total > 0 ? 1.0f / total : 0;
  return {v.x * inverse, v.y * inverse, v.z * inverse, v.w * inverse};
}
#endif

}  // namespace lorikeet::cuda
