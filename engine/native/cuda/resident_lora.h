// Adapters in a resident kernel: see decode_resident.cu. A x of every adapter is more row tiles of a product, in bf16, which blocks with
// fewer rows than others multiply first; whoever has rows adds B's part to their sums. A warp of its own looks up the pairs of a layer
// while the block is at the one before.
#pragma once
#include "resident_block.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

template <class P>
__device__ void Block<P>::fetch_pairs() const {
  AdapterState& state = adapters();
#pragma unroll 1
  for (int ahead = 0; ahead < p.n_layers; ahead++) {
    look_until_full([&] { return acquire_shared(&state.current) < ahead - 1; });
    ResidentPair* to = pairs(ahead);
    for (int e = lane; e < kModules * T; e += kWarp) {
      const int group = state.group_of_token[e % T];
      ResidentPair pair{};
      if (group >= 0) {
        const DevicePair& from = p.step->groups[group].pairs[ahead * kModules + e / T];
        if (from.a) pair = {from.a, from.b, from.column_scale, from.scale, from.rank_tiles};
      }
      to[e] = pair;
    }
    __syncwarp();
    if (lane == 0) release_shared(&state.ready, ahead + 1);
    prefetch_b(to);
  }
}

/// Asks the device's cache for B of the block's rows. A comes as a stage does.
template <class P>
__device__ void Block<P>::prefetch_b(const ResidentPair* pairs) const {
  constexpr int kLine = 128, kLines = kTileRows * 16 * 2 / kLine;  // of 16 ranks
  const AdapterState& state = adapters();
  const int lines = state.rank_tiles * kLines;
#pragma unroll 1
  for (int kind = 0; kind < kKinds; kind++) {
    const Share& s = share(kind);
    const int halves = kind == kGateUp ? 2 : 1;
#pragma unroll 1
    for (int i = 0; i < s.n * halves; i++) {
      const ModuleRow at = module_row(p, kind, s.first + i / halves * s.step, i % halves, D);
#pragma unroll 1
      for (int l = lane; l < state.n_groups * lines; l += kWarp) {
        const ResidentPair& pair = pairs[at.module * T + state.first_token[l / lines]];
        if (l % lines >= pair.rank_tiles * kLines) continue;
        const char* b = reinterpret_cast<const char*>(pair.b + at.row * pair.rank_tiles * 16);
        asm volatile("prefetch.global.L2 [%0];" ::"l"(b + l % lines * kLine));
      }
    }
  }
}

template <class P>
__device__ void Block<P>::shrink(int kind) {
  const AdapterState& state = adapters();
  const int k_tiles = share(kind).k_tiles;
  look_until_full([&] { return acquire_shared(&state.ready) <= layer; });
  each_unit<P>(state, pairs(layer), kind, k_tiles, [&](const ShrinkUnit& unit, const ResidentPair&, int n_tiles) {
    if (P::kBuffers > 1)
      buffer ^= 1;
    else
      sync();  // the sums before these have been read
    const bool has_tile = warp < n_tiles, mine = lane < T * 4;
    uint4 b[2] = {};
    if (reads_stream(kind)) {
      const uint4* from = reinterpret_cast<const uint4*>(normed(unit.round)) + lane;
      if (mine) b[0] = from[0], b[1] = from[T * 4];
    } else {
      await_fragments(b, fragments(kind) + (unit.round * N + warp) * T * 8, mine && has_tile);
    }
    __syncwarp();
    float total[4] = {};
#pragma unroll 1
    for (int first = 0; first < n_tiles; first += P::kTilesOfA) {
      const int tile = warp - first;
      const uint4* from = reinterpret_cast<const uint4*>(stages.acquire()) + tile * 4 * kWarp + lane;
      const bool here = tile >= 0 && tile < P::kTilesOfA && has_tile;
      uint4 a[4] = {};
      if (here) {
#pragma unroll
        for (int s = 0; s < 4; s++) a[s] = from[s * kWarp];
      }
      stages.release(lane);
#pragma unroll
      for (int s = 0; s < 4; s++) {
        const auto* words = reinterpret_cast<const uint32_t*>(&b[s / 2]) + s % 2 * 2;
        mma_m16n8k16(total, {a[s].x, a[s].y, a[s].z, a[s].w}, words[0], words[1]);
      }
    }
    put(0, total);
    sync();
    publish_shrunk(kind, unit);
  });
}

template <class P>
__device__ void Block<P>::publish_shrunk(int kind, const ShrinkUnit& unit) const {
  const AdapterState& state = adapters();
  float* to = shrunk(kind, unit.module) + unit.round * T * kDecodeRank + unit.rank_tile * 16;
#pragma unroll 1
  for (int base = warp * (kWarp / kShare); base < kTileSums; base += N * (kWarp / kShare)) {
    const int e = min(base + lane / kShare, kTileSums - 1), t = e % T;
    float v = sum_of_warps(sums() + e);
    if (reads_stream(kind)) v *= __shfl_sync(0xffffffffu, factor_of(squares(2)), t * kLanes);
    if (lane % kShare == 0 && base + lane / kShare < kTileSums && state.group_of_token[t] == unit.group)
      publish(to + t * kDecodeRank + e / T, v);
  }
}

/// A x of all modules of a product, awaited, its rounds summed, to shared memory: [modules][T][kDecodeRank]. A barrier must follow.
template <class P>
__device__ void Block<P>::await_shrunk(int kind) const {
  constexpr int kAtOnce = 6;  // rounds whose words are looked at together
  const int rounds = ceil_div(share(kind).k_tiles, N), vectors = adapters().rank_tiles * 4, n = n_modules(kind) * T * vectors;
#pragma unroll 1
  for (int base = warp * kWarp; base < n; base += P::kThreads) {
    const int e = base + lane, r = e % vectors * 4, t = e / vectors % T, module = e / vectors / T;
    const bool has = e < n && r < pairs(layer)[(first_module(kind) + module) * T + t].rank_tiles * 16;
    const float* from = shrunk(kind, module) + t * kDecodeRank + r;
    float4 sum{};
#pragma unroll 1
    for (int first = 0; first < rounds; first += kAtOnce) {
      uint4 part[kAtOnce] = {};
      look_until_full([&] {
        bool empty = false;
#pragma unroll
        for (int i = 0; i < kAtOnce; i++)
          if (has && first + i < rounds) part[i] = look4(from + (first + i) * T * kDecodeRank);
#pragma unroll
        for (int i = 0; i < kAtOnce; i++) empty |= is_empty(part[i]);
        return empty;
      });
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        sum.x += __uint_as_float(part[i].x), sum.y += __uint_as_float(part[i].y);
        sum.z += __uint_as_float(part[i].z), sum.w += __uint_as_float(part[i].w);
      }
    }
    if (has) *reinterpret_cast<float4*>(shrunk_here(module, t) + r) = sum;
  }
}

/// The lane's part of B's row for a token: kRanks of the first 16 ranks, or zeros.
template <class P>
__device__ typename Block<P>::RowOfB Block<P>::load_b(const ModuleRow& at, int t, int base) const {
  const ResidentPair& pair = pairs(layer)[at.module * T + t];
  const int r = base + lane % kShare * kRanks;
  RowOfB b{};
  if (r < pair.rank_tiles * 16) b = *reinterpret_cast<const RowOfB*>(pair.b + at.row * pair.rank_tiles * 16 + r);
  return b;
}

/// v with what the token's adapter adds to a row of a module. b: of the first ranks.
template <class P>
__device__ float Block<P>::expanded(float v, int kind, const ModuleRow& at, int t, RowOfB b) const {
  const ResidentPair& pair = pairs(layer)[at.module * T + t];
  const float* ranks = shrunk_here(at.module - first_module(kind), t) + lane % kShare * kRanks;
  float sum = 0;
#pragma unroll 1
  for (int base = 0;;) {
    const auto* words = reinterpret_cast<const uint32_t*>(&b);
    if (base + lane % kShare * kRanks < pair.rank_tiles * 16) {
#pragma unroll
      for (int i = 0; i < kRanks; i += 4) {
        const float4 h = *reinterpret_cast<const float4*>(ranks + base + i);
        sum += __uint_as_float(words[i / 2] << 16) * h.x + __uint_as_float(words[i / 2] & 0xffff0000u) * h.y;
        sum += __uint_as_float(words[i / 2 + 1] << 16) * h.z + __uint_as_float(words[i / 2 + 1] & 0xffff0000u) * h.w;
      }
    }
    if ((base += 16) >= adapters().rank_tiles * 16) break;
    b = load_b(at, t, base);
  }
  v += pair.scale * sum_of_share(sum);
  return pair.column_scale ? v * pair.column_scale[at.row] : v;
}

}  // namespace lorikeet::cuda
#endif
