// Adapters in a decode product: A by the first blocks of the grid, B in the epilogue of the others.
#pragma once
#include "decode_inputs.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

struct ExpandPair {
  const nv_bf16* b;
  const float* column_scale;
  float scale;
  int rank;
};

/// A block of the adapters: shrunk = A x for one group, module, tile of 16 ranks and piece of K.
template <GemmIn IN, int N8>
__device__ void shrink(const GemmArgs& p, const uint4* rows, float* sums, const float* squares) {
  const SiteLora& l = p.lora;
  int index = blockIdx.x;
  const int piece = index % l.pieces;
  const int rank_tile = (index /= l.pieces) % l.rank_tiles, module = (index /= l.rank_tiles) % l.n_modules, group = index / l.n_modules;
  const int first_token = int(blockIdx.y) * N8 * 8;
  if (group < l.step->n_groups) {
    const DeviceGroup& tokens = l.step->groups[group];
    const DevicePair& pair = tokens.pairs[l.first_module + module];
    if (pair.a && rank_tile < pair.rank_tiles && tokens.begin < first_token + N8 * 8 && tokens.end > first_token) {
      const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, n_warps = blockDim.x / kWarp;
      const int begin = p.k_tiles * piece / l.pieces, end = p.k_tiles * (piece + 1) / l.pieces;
      float total[1][N8][4] = {};
      for (int tile = begin + warp; tile < end; tile += n_warps) {
        const uint4* from = pair.a + (int64_t(rank_tile) * p.k_tiles + tile) * 4 * kWarp + lane;
        uint4 a[4];
#pragma unroll
        for (int s = 0; s < 4; s++) a[s] = from[s * kWarp];
        uint32_t b[N8][8];
        load_b<IN, N8>(b, p, rows, tile);
#pragma unroll
        for (int s = 0; s < 4; s++)
#pragma unroll
          for (int n = 0; n < N8; n++) mma_bf16(total[0][n], reinterpret_cast<const uint32_t*>(&a[s]), &b[n][s * 2]);
      }
      share_sums<1, N8>(sums, total);
      __syncthreads();
      for (int e = threadIdx.x; e < N8 * 4 * kWarp; e += blockDim.x) {
        const Place at(e);
        const int token = first_token + at.token;
        if (token < tokens.begin || token >= tokens.end) continue;
        float v = sum_of<1, N8>(sums, at, 0, int(blockDim.x) / kWarp);
        if constexpr (IN == GemmIn::kNorm) v *= norm_factor(p, squares, at.token);
        __stcg(l.shrunk + (int64_t(piece * kModulesOfSite + module) * kDecodeTokens + token) * kDecodeRank + rank_tile * 16 + at.row, v);
      }
    }
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(l.counter + blockIdx.y, 1);
}

__device__ inline void wait_for_count(const int* counter, int n) {
  int seen;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  } while (seen < n);
}

/// A x of this block's tokens, its pieces summed, into shared memory: [half][token][kDecodeRank].
template <int R, int N8>
__device__ void fetch_shrunk(float* shrunk, const SiteLora& l, const ExpandPair* pairs, int module, int first_token) {
  constexpr int kVectors = kDecodeRank / 4;
  for (int e = threadIdx.x; e < R * N8 * 8 * kVectors; e += blockDim.x) {
    const int at = e / kVectors, r = e % kVectors * 4, of = R == 2 ? at / (N8 * 8) : module, token = first_token + at % (N8 * 8);
    if (!pairs[at].b || r >= pairs[at].rank) continue;
    float4 sum{};
    for (int piece = 0; piece < l.pieces; piece++) {
      const float4 v = __ldcg(
          reinterpret_cast<const float4*>(l.shrunk + (int64_t(piece * kModulesOfSite + of) * kDecodeTokens + token) * kDecodeRank + r));
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    *reinterpret_cast<float4*>(shrunk + at * kDecodeRank + r) = sum;
  }
}

/// v with what an adapter adds to output `row` of its module; shrunk: A x of the token.
__device__ inline float expanded(float v, const ExpandPair& pair, const float* shrunk, int row) {
  if (!pair.b) return v;
  const nv_bf16* b = pair.b + int64_t(row) * pair.rank;
  float sum = 0;
  for (int r = 0; r < pair.rank; r += 8) {
    const uint4 packed = *reinterpret_cast<const uint4*>(b + r);
    const auto* values = reinterpret_cast<const __nv_bfloat162*>(&packed);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float2 f = __bfloat1622float2(values[j]);
      sum += f.x * shrunk[r + j * 2] + f.y * shrunk[r + j * 2 + 1];
    }
  }
  v += pair.scale * sum;
  return pair.column_scale ? v * pair.column_scale[row] : v;
}

}  // namespace lorikeet::cuda
#endif
