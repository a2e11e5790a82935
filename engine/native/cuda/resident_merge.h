// Attention's part of a resident kernel, and the emptying of the exchange: see decode_resident.cu.
#pragma once
#include "resident_block.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

template <class P>
__device__ typename Block<P>::Split Block<P>::split_of(const ResidentArgs& p, int layer) {
  const ResidentLayer& l = layer_at(layer);
  return {p,
          p.attention[!l.sliding],
          l,
          at<AttentionUnit>(P::kUnits)[!l.sliding],
          *at<typename P::Attention>(P::kAttention),
          at<float[G][D]>(P::kSums)};
}
template <class P>
__device__ void Block<P>::attend(const ResidentArgs& p, float* words, int layer) {
  const Split split = split_of(p, layer);
  if (split.unit.t < 0) return;
  float* to = words + p.places.sums + (split.unit.split * p.q_tiles * T + split.unit.t) * kTileCols;
  split.run(
      words + p.places.qkv, [&](int column) { return to + column / kTileCols * T * kTileCols + fragment_offset(column % kTileCols); },
      reinterpret_cast<float2*>(words + p.places.stats) + (split.unit.t * split.a.n_splits + split.unit.split) * p.n_heads);
}

/// Attention's output of token t, two columns of a tile a lane, awaited and merged from its splits, eight at a time.
template <class P>
__device__ uint32_t Block<P>::merge(int t, int tile, int n_splits) const {
  const float* sums = words + p.places.sums + (tile * T + t) * kTileCols + lane * 2;
  const float* stats = words + p.places.stats + (t * n_splits * p.n_heads + tile * kTileCols / D) * 2;
  const int stride = p.q_tiles * T * kTileCols;
  float top = -INFINITY, total = 0;
  float2 v{};
#pragma unroll 1
  for (int base = 0; base < n_splits; base += 8) {  // lanes 0 to 7, and their like, know a split's statistics each
    float2 stat{-INFINITY, 0}, part[8];
    const bool known = base + lane % 8 < n_splits;
    look_until_full([&] {
      if (known) stat = look2(stats + (base + lane % 8) * p.n_heads * 2);
      bool empty = is_empty(stat);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        part[i] = base + i < n_splits ? look2(sums + (base + i) * stride) : float2{};
        empty |= is_empty(part[i]);
      }
      return empty;
    });
    float high = stat.x;
#pragma unroll
    for (int o = 1; o < 8; o *= 2) high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, o));
    high = fmaxf(high, top);
    const float by = stat.y > 0 ? exp2_approx(stat.x - high) : 0, kept = top > -INFINITY ? exp2_approx(top - high) : 0;
    float sum = by * stat.y;
#pragma unroll
    for (int o = 1; o < 8; o *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    top = high;
    total = total * kept + sum;
    v.x *= kept, v.y *= kept;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const float weight = __shfl_sync(0xffffffffu, by, i);
      v.x += weight * part[i].x, v.y += weight * part[i].y;
    }
  }
  const float inverse = total > 0 ? 1.0f / total : 0;
  return pack_bf16(v.x * inverse, v.y * inverse);
}
template <class P>
__device__ void Block<P>::merge_splits(int n_splits) const {
#pragma unroll 1
  for (int u = blockIdx.x + warp * gridDim.x; u < T * p.q_tiles; u += gridDim.x * N)
    publish(reinterpret_cast<uint32_t*>(words + p.places.attended) + u / T * T * kWarp + word_place<T>(u % T, lane),
            merge(u % T, u / T, n_splits));
}

/// The other set's words of a layer, as far as they were used.
template <class P>
__device__ void Block<P>::empty_other(int layer) const {
  const DecodeStep& step = *p.step;
  const int begin = step.used_adapters ? 0 : p.places.qkv;
  const int end = p.places.sums + step.used_splits[!layer_at(layer).sliding] * T * p.q_tiles * kTileCols;
  auto* other = reinterpret_cast<uint4*>(p.exchange + (int64_t(step.set ^ 1) * p.n_layers + layer) * p.places.end);
  constexpr uint4 kEmpty{kEmptyWord, kEmptyWord, kEmptyWord, kEmptyWord};
#pragma unroll 1
  for (int i = begin / 4 + blockIdx.x * P::kThreads + threadIdx.x; i < end / 4; i += gridDim.x * P::kThreads) other[i] = kEmpty;
}

}  // namespace lorikeet::cuda
#endif
