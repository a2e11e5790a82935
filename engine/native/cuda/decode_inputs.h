// The input of a decode product, in every block: normed from the residual stream, merged from attention's parts, or ready as fragments.
#pragma once
#include "decode_attention.h"
#include "decode_gemm.h"
#include "decode_tile.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

/// Four neighbouring elements of a row into the fragments of the first kRowsInShared tokens: the order of fragment_place, less the lanes of
/// tokens that are not there.
constexpr int kSharedLanes = kRowsInShared * 4;
__device__ inline void store_four(uint4* rows, int token, int k, float4 v) {
  const int step = k % 64 / 16, in_step = k % 16, lane = token * 4 + in_step % 8 / 2;
  uint32_t* to = reinterpret_cast<uint32_t*>(rows + (k / 64 * 2 + step / 2) * kSharedLanes + lane) + step % 2 * 2 + in_step / 8;
  to[0] = pack_bf16(v.x, v.y);
  to[4] = pack_bf16(v.z, v.w);  // the next lane
}

/// rows[t] = (x + rmsnorm(y)) * (1 + next_w) as bf16, without the norm's factor; squares: each warp's share of the sums that give it.
__device__ inline void norm_rows(const GemmArgs& p, uint4* rows, float* squares, bool writes, float4 post0, float4 next0) {
  const int K = p.k_tiles * kTileCols, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, T = p.n_tokens;
  float square[kRowsInShared] = {}, y_factor[kRowsInShared];
  const int rounds = ceil_div(K, int(blockDim.x) * 4);
  for (int round = 0; round < rounds; round++) {
    const int i = (round * int(blockDim.x) + int(threadIdx.x)) * 4;
    const bool inside = i < K;
    const float4 post = round == 0      ? post0
                        : inside && p.y ? load4(p.post_w + i)
                                        : float4{},
                 next = round == 0 ? next0
                        : inside   ? load4(p.next_w + i)
                                   : float4{};
    float4 xs[kRowsInShared] = {}, ys[kRowsInShared] = {};
#pragma unroll
    for (int t = 0; t < kRowsInShared; t++) {
      if (t < T && inside) xs[t] = load4(p.x + int64_t(t) * K + i);
      if (t < T && inside && p.y) ys[t] = load4(p.y + int64_t(t) * K + i);
    }
    if (round == 0 && p.y) {  // while these are on their way
#pragma unroll
      for (int t = 0; t < kRowsInShared; t++) {
        if (t >= T) break;
        float sum = 0;
        for (int j = lane * 4; j < K / 8; j += kWarp * 4) {
          const float4 s = load4(p.y_squares + t * (K / 8) + j);
          sum += (s.x + s.y) + (s.z + s.w);
        }
        y_factor[t] = rsqrtf(warp_sum(sum) / float(K) + p.eps);
      }
    }
#pragma unroll
    for (int t = 0; t < kRowsInShared; t++) {
      if (t >= T || !inside) break;
      float4 v = xs[t];
      if (p.y) {
        const float by = y_factor[t];
        v.x += ys[t].x * by * (1.0f + post.x);
        v.y += ys[t].y * by * (1.0f + post.y);
        v.z += ys[t].z * by * (1.0f + post.z);
        v.w += ys[t].w * by * (1.0f + post.w);
        if (writes) *reinterpret_cast<float4*>(p.x_out + int64_t(t) * K + i) = v;
      }
      square[t] += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
      store_four(rows, t, i, {v.x * (1.0f + next.x), v.y * (1.0f + next.y), v.z * (1.0f + next.z), v.w * (1.0f + next.w)});
    }
  }
#pragma unroll
  for (int t = 0; t < kRowsInShared; t++) {
    if (t >= T) break;
    const float sum = warp_sum(square[t]);
    if (lane == 0) squares[warp * kRowsInShared + t] = sum;
  }
}

/// rows[t] = attention's output, from the parts of its splits.
__device__ inline void combine_rows(const GemmArgs& p, uint4* rows) {
  const int K = p.k_tiles * kTileCols, n_heads = K / p.head_dim;
  for (int t = 0; t < p.n_tokens; t++)
    for (int i = threadIdx.x * 4; i < K; i += blockDim.x * 4) {
      const float4 v = merge_splits(p.part_sums + int64_t(t) * p.n_splits * K + i, p.part_stats + t * p.n_splits * n_heads + i / p.head_dim,
                                    p.n_splits, K, n_heads);
      store_four(rows, t, i, v);
    }
}

/// B operand of one tile for N8 groups of eight tokens: four steps of 16 columns, two words each.
template <GemmIn IN, int N8>
__device__ inline void load_b(uint32_t (&b)[N8][8], const GemmArgs& p, const uint4* rows, int tile) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int n = 0; n < N8; n++) {
    uint4 v[2] = {};
    if (IN == GemmIn::kFragments && p.staged) {
      v[0] = rows[(n * p.k_tiles + tile) * 2 * kWarp + lane];
      v[1] = rows[((n * p.k_tiles + tile) * 2 + 1) * kWarp + lane];
    } else if constexpr (IN == GemmIn::kFragments) {
      if (N8 > 1 || lane < p.n_tokens * 4) {
        const uint4* from = p.fragments + (int64_t(blockIdx.y * N8 + n) * p.k_tiles + tile) * 2 * kWarp + lane;
        v[0] = from[0];
        v[1] = from[kWarp];
      }
    } else if (lane < p.n_tokens * 4) {
      v[0] = rows[tile * 2 * kSharedLanes + lane];
      v[1] = rows[(tile * 2 + 1) * kSharedLanes + lane];
    }
    unpack_b(b[n], v[0], v[1]);
  }
}

/// A norm's factor of a token, from the shares of all warps.
__device__ inline float norm_factor(const GemmArgs& p, const float* squares, int token) {
  float sum = 0;
#pragma unroll 6
  for (int w = 0; w < int(blockDim.x) / kWarp; w++) sum += squares[w * kRowsInShared + token];
  return rsqrtf(sum / float(p.k_tiles * kTileCols) + p.eps);
}

}  // namespace lorikeet::cuda
#endif
