// The norms of a resident kernel: see decode_resident.cu.
#pragma once
#include "resident_block.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

/// A lane's columns of a tile, awaited.
template <class P>
__device__ void Block<P>::await_columns(float (&y)[kPer], const float* from) const {
  uint32_t v[kPer];
  look_until_full([&] {
    bool empty = false;
    look_at(v, from, lane);
#pragma unroll
    for (int i = 0; i < kPer; i++) empty |= is_empty(v[i]);
    return empty;
  });
#pragma unroll
  for (int i = 0; i < kPer; i++) y[i] = __uint_as_float(v[i]);
}

/// Until one value of each of the tile's four row tiles is there: many lanes that look at many values would be in the writers' way.
template <class P>
__device__ void Block<P>::await_rows(const float* tile) const {
  const float* one = tile + float_place<T>(T - 1, fragment_offset(lane % 4 * kTileRows + 15));
  look_until_full([&] { return lane < 4 && is_empty(look(one)); });
}

/// x += rmsnorm(y), y awaited if there is one; normed = x * (1 + the next norm's weights), less that norm's factor.
template <class P>
__device__ void Block<P>::next_input(const float* from, int turn) {
  float y[KT][kPer] = {}, square = 0;
  if (from) {
#pragma unroll
    for (int kt = 0; kt < KT; kt++) {
      const float* mine = from + (warp + kt * N) * kTileCols * T;
      if (T >= 4) await_rows(mine);
      await_columns(y[kt], mine);
    }
  }
  __syncwarp();
#pragma unroll
  for (int kt = 0; kt < KT; kt++)
#pragma unroll
    for (int i = 0; i < kPer; i++) square += y[kt][i] * y[kt][i];
  put_square(squares(turn), square);
  sync();
  const float factor = factor_of(squares(turn));
  square = 0;
#pragma unroll
  for (int kt = 0; kt < KT; kt++) {
    const float* post = reinterpret_cast<const float*>(stages.acquire()) + warp * kTileCols;
    const float* next = post + P::kNormBytes / 4;
    float v[kPer];
    uint32_t packed[T];
    load_floats(v, x(kt), lane);
#pragma unroll
    for (int i = 0; i < kPer; i += 2) {
      const float2 after = *reinterpret_cast<const float2*>(next + column_of(i));
      if (from) {
        const float2 by = *reinterpret_cast<const float2*>(post + column_of(i));
        v[i] += y[kt][i] * factor * (1.0f + by.x);
        v[i + 1] += y[kt][i + 1] * factor * (1.0f + by.y);
      }
      square += v[i] * v[i] + v[i + 1] * v[i + 1];
      packed[i / 2] = pack_bf16(v[i] * (1.0f + after.x), v[i + 1] * (1.0f + after.y));
    }
    auto* to = normed(kt) + word_place<T>(lane / kLanes, lane % kLanes * T);
    if constexpr (T == 1)
      *to = packed[0];
    else if constexpr (T == 2)
      *reinterpret_cast<uint2*>(to) = {packed[0], packed[1]};
    else
#pragma unroll
      for (int i = 0; i < T; i += 4) *reinterpret_cast<uint4*>(to + i * T * 4) = {packed[i], packed[i + 1], packed[i + 2], packed[i + 3]};
    store_floats(x(kt), v, lane);
    stages.release(lane);
  }
  put_square(squares(2), square);
  __syncwarp();
}
/// The last norm's rows, of the tokens that have an output.
template <class P>
__device__ void Block<P>::write_hidden() const {
  sync();  // x's squares
  const float factor = factor_of(squares(2));
  const float* weights = layer_at(p.n_layers).norms[1];
#pragma unroll 1
  for (int s = 0; s < p.n_outputs; s++) {
    if (p.step->out_tokens[s] != lane / kLanes) continue;
#pragma unroll 1
    for (int i = 0; i < KT * kPer; i += 2) {
      const int column = (warp + i / kPer * N) * kTileCols + column_of(i % kPer);
      const int f = i % kPer;
      const float* v = x(i / kPer) + (T == 1 ? lane * 2 : f / 4 * kWarp * 4 + lane * 4 + f % 4);
      *reinterpret_cast<uint32_t*>(p.hidden + int64_t(s) * P::kColumns + column) =
          pack_bf16(v[0] * factor * (1.0f + weights[column]), v[1] * factor * (1.0f + weights[column + 1]));
    }
  }
}

}  // namespace lorikeet::cuda
#endif
