// The product of one NF4 tile by tensor cores, and how the warps of a block put their sums together: shared by the kernels of decode.
#pragma once
#include "decode_step.h"
#include "nf4_layout.h"
#include "nf4_table.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

__device__ inline float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }

/// Codes and scales of one tile of R row tiles that lie `row_stride` tiles apart.
template <int R>
struct Codes {
  uint4 words[R];
  float2 scales[R];  // of rows g and g + 8
};

template <int R>
__device__ inline void load_codes(Codes<R>& c, const uint4* tiles, const float* scales, int64_t tile, int64_t row_stride) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int r = 0; r < R; r++) {
    const int64_t at = tile + r * row_stride;
    c.words[r] = __ldcs(tiles + at * kWarp + lane);
    c.scales[r] = reinterpret_cast<const float2*>(scales)[at * (kTileRows / 2) + lane / 4];
  }
}

/// total += scale * (codes x b): b holds, for each group of eight tokens, four steps of two words.
template <int R, int N8>
__device__ inline void multiply_tile(float (&total)[R][N8][4], const Codes<R>& c, const uint32_t (&b)[N8][8], const char* table) {
#pragma unroll
  for (int r = 0; r < R; r++) {
    float part[N8][4] = {};
    const uint32_t words[4] = {c.words[r].x, c.words[r].y, c.words[r].z, c.words[r].w};
#pragma unroll
    for (int s = 0; s < 4; s++) {
      uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 4; i++) a[i] = look_up(table, words[s], i);
#pragma unroll
      for (int n = 0; n < N8; n++) mma_bf16(part[n], a, &b[n][s * 2]);
    }
#pragma unroll
    for (int n = 0; n < N8; n++) {
      total[r][n][0] += c.scales[r].x * part[n][0];
      total[r][n][1] += c.scales[r].x * part[n][1];
      total[r][n][2] += c.scales[r].y * part[n][2];
      total[r][n][3] += c.scales[r].y * part[n][3];
    }
  }
}

__device__ inline void unpack_b(uint32_t (&b)[8], uint4 low, uint4 high) {
  b[0] = low.x, b[1] = low.y, b[2] = low.z, b[3] = low.w, b[4] = high.x, b[5] = high.y, b[6] = high.z, b[7] = high.w;
}

template <int R, int N8>
__device__ inline void share_sums(float* sums, const float (&total)[R][N8][4]) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int n = 0; n < N8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) sums[(((warp * R + r) * N8 + n) * 4 + i) * kWarp + lane] = total[r][n][i];
}

/// One output of a block: which token and which of the tile's 16 rows element e of the warps' sums belongs to.
struct Place {
  int token, row, from, i, n;
  __device__ explicit Place(int e) : from(e % kWarp), i(e / kWarp % 4), n(e / (4 * kWarp)) {
    token = n * 8 + from % 4 * 2 + i % 2;
    row = from / 4 + i / 2 * 8;
  }
};

template <int R, int N8>
__device__ inline float sum_of(const float* sums, const Place& at, int r, int n_warps) {
  float sum = 0;
#pragma unroll 6
  for (int w = 0; w < n_warps; w++) sum += sums[(((w * R + r) * N8 + at.n) * 4 + at.i) * kWarp + at.from];
  return sum;
}

__device__ inline float geglu(float gate, float up) {
  const float inner = 0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);
  return 0.5f * gate * (1.0f + tanhf(inner)) * up;
}

}  // namespace lorikeet::cuda
#endif
