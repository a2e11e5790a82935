// The NF4 products of a resident kernel: see decode_resident.cu.
#pragma once
#include "resident_lora.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

/// Sums of row tile i of this warp: [row][T].
template <class P>
__device__ void Block<P>::put(int i, const float (&total)[4]) const {
  float* to = sums() + (warp * P::kAtOnce + i) * kTileSums;
  const int row = lane / 4, j = lane % 4;
  if constexpr (T == 1) {
    if (j == 0) to[row] = total[0], to[row + 8] = total[2];
  } else if (j * 2 < T) {
    *reinterpret_cast<float2*>(to + row * T + j * 2) = {total[0], total[1]};
    *reinterpret_cast<float2*>(to + (row + 8) * T + j * 2) = {total[2], total[3]};
  }
}

/// total += scale * (codes x fragments): multiply_tile of decode_tile.h, for one tile.
template <class P>
__device__ void Block<P>::multiply(float (&total)[4], uint4 words, float2 scale, const uint4 (&b)[2]) const {
  float part[4] = {};
#pragma unroll
  for (int s = 0; s < 4; s++) {
    const uint32_t word = reinterpret_cast<const uint32_t*>(&words)[s];
    uint32_t a[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t at = ((i == 0 ? word << 7 : word >> (8 * i - 7)) & 0x7f80) | uint32_t(lane * 4);
      a[i] = *reinterpret_cast<const uint32_t*>(resident_memory() + at);
    }
    mma_m16n8k16(part, a, reinterpret_cast<const uint32_t*>(&b[s / 2])[s % 2 * 2],
                 reinterpret_cast<const uint32_t*>(&b[s / 2])[s % 2 * 2 + 1]);
  }
  total[0] += scale.x * part[0];
  total[1] += scale.x * part[1];
  total[2] += scale.y * part[2];
  total[3] += scale.y * part[3];
}
/// Fragments of a column tile that other blocks made; lanes beyond the tokens, or all where there is no such tile, keep zeros.
template <class P>
__device__ void Block<P>::await_fragments(uint4 (&b)[2], const uint4* from, bool mine) const {
  look_until_full([&] {
    if (mine) b[0] = look4(from), b[1] = look4(from + T * 4);
    return is_empty(b[0]) || is_empty(b[1]);
  });
}

template <class P>
__device__ void Block<P>::product(int kind) {
  const Share& s = share(kind);
  const bool of_stream = reads_stream(kind), pairs = kind == kGateUp, mine = lane < T * 4;
  const int rows_at_once = pairs ? P::kAtOnce / 2 : P::kAtOnce, step = pairs ? N : 2 * N;
  const auto* shared = at<uint4>(P::kNormed + warp * KT * T * kWarp * 4) + lane;
  const uint4* from = fragments(kind);
#pragma unroll 1
  for (int first = 0; first < s.n; first += rows_at_once) {
    const int n = min(rows_at_once, s.n - first);
    if (P::kBuffers > 1)
      buffer ^= 1;
    else if (P::kLora || !of_stream || first)
      sync();  // the sums before these have been read
#pragma unroll 1
    for (int i = 0; i < n; i++) {
      float total[2][4] = {};
      uint4 b[2][2] = {};
#pragma unroll 1
      for (int base = 0, kt = 0; base < s.k_tiles; base += step, kt++) {
        const bool second = !pairs && base + N < s.k_tiles;  // whether the stage has tiles of N columns more
        if (of_stream) {
          const uint4* at = shared + (pairs ? kt : kt * 2) * T * 8;
          if (mine) b[0][0] = at[0], b[0][1] = at[T * 4];
          at += T * 8;
          if (second && mine) b[1][0] = at[0], b[1][1] = at[T * 4];
        } else {
          await_fragments(b[0], from + (base + warp) * T * 8, mine && base + warp < s.k_tiles);
          if (second) await_fragments(b[1], from + (base + N + warp) * T * 8, mine && base + N + warp < s.k_tiles);
        }
        if (pairs) b[1][0] = b[0][0], b[1][1] = b[0][1];
        __syncwarp();
        const char* stage = stages.acquire();
        const uint4* codes = reinterpret_cast<const uint4*>(stage) + warp * kWarp + lane;
        const float2* scales = reinterpret_cast<const float2*>(stage + P::kScales) + warp * (kTileRows / 2) + lane / 4;
        const uint4 low = codes[0], high = codes[N * kWarp];  // of the second tile, or nothing of meaning
        const float2 low_scale = scales[0], high_scale = scales[N * (kTileRows / 2)];
        stages.release(lane);
        if (base + warp < s.k_tiles) multiply(total[0], low, low_scale, b[0]);
        if (pairs || (second && base + N + warp < s.k_tiles)) multiply(total[1], high, high_scale, b[1]);
      }
      if (pairs) {
        put(i * 2, total[0]);
        put(i * 2 + 1, total[1]);
      } else {
#pragma unroll
        for (int e = 0; e < 4; e++) total[0][e] += total[1][e];
        put(i, total[0]);
      }
    }
    if (P::kLora && (P::kBuffers > 1 || first == 0)) await_shrunk(kind);
    sync();
    publish_rows(kind, s.first + first * s.step, s, n);
  }
}

/// The sums of n row tiles (of gate_up: n pairs) to where the next part of the layer finds them. Neighbouring lanes share an output.
template <class P>
__device__ void Block<P>::publish_rows(int kind, int first, const Share& s, int n) const {
#pragma unroll 1
  for (int base = warp * (kWarp / kShare); base < n * kTileSums; base += N * (kWarp / kShare)) {
    const int e = min(base + lane / kShare, n * kTileSums - 1), i = e / kTileSums, row = e / T % kTileRows, t = e % T;
    const int r = first + i * s.step;
    const float* from = sums() + (kind == kGateUp ? i * 2 : i) * kTileSums + e % kTileSums;
    ModuleRow at{};
    RowOfB b{}, b_up{};
    if constexpr (P::kLora) {  // on their way while the sums are put together
      at = module_row(p, kind, r, 0, D);
      at.row += row;
      b = load_b(at, t, 0);
      if (kind == kGateUp) b_up = load_b({int(Module::up_proj), at.row}, t, 0);
    }
    float v = sum_of_warps(from);
    const float factor = reads_stream(kind) ? __shfl_sync(0xffffffffu, factor_of(squares(2)), t * kLanes) : 1;
    v *= factor;
    if constexpr (P::kLora) v = expanded(v, kind, at, t, b);
    if (kind == kGateUp) {
      float up = sum_of_warps(from + kTileSums) * factor;
      if constexpr (P::kLora) up = expanded(up, kind, {int(Module::up_proj), at.row}, t, b_up);
      v = geglu(v, up);
    }
    const float after = __shfl_down_sync(0xffffffffu, v, T * kShare);  // of the next row
    if (lane % kShare != 0 || base + lane / kShare >= n * kTileSums) continue;
    if (kind == kGateUp) {
      if (row % 2 == 0)
        publish(reinterpret_cast<uint32_t*>(words + p.places.inner) + r / 4 * T * kWarp +
                    word_place<T>(t, row % 8 / 2 * 8 + r % 4 * 2 + row / 8),
                pack_bf16(v, after));
    } else if (kind == kQkv) {
      publish(words + p.places.qkv + t * (p.n_heads + 2 * p.n_kv_heads) * D + r * kTileRows + row, v);
    } else {
      const int column = r * kTileRows + row;
      publish(words + (kind == kDown ? p.places.out : p.places.mid) + column / kTileCols * T * kTileCols +
                  float_place<T>(t, fragment_offset(column % kTileCols)),
              v);
    }
  }
}

}  // namespace lorikeet::cuda
#endif
