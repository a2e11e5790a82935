// Adapters as a resident kernel's block knows them: the LoRA pairs of a layer and its tokens, and the parts of A x that are one block's.
#pragma once
#include "../core/checkpoint.h"
#include "decode_exchange.h"
#include "decode_resident.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

/// A token's pair; without one all is zero.
struct ResidentPair {
  const uint4* a;
  const nv_bf16* b;
  const float* column_scale;
  float scale;
  int rank_tiles;
};
constexpr int kPairLayers = 3;  // layers whose pairs are in shared memory at once
constexpr int kMostGroups = 8;

/// What the warps of a block tell each other about adapters.
struct AdapterState {
  int ready;    // layers whose pairs have been there
  int current;  // layer that the block is at
  int n_groups, rank_tiles;
  int first_token[kMostGroups];  // of a group
  int group_of_token[kMostGroups];
};

__device__ inline void fill_adapters(AdapterState& to, const DecodeStep& step, int n_tokens) {
  to.ready = to.current = 0;
  to.n_groups = step.n_groups;
  to.rank_tiles = step.rank_tiles;
  for (int g = 0; g < step.n_groups; g++) to.first_token[g] = step.groups[g].begin;
  for (int t = 0; t < n_tokens; t++) to.group_of_token[t] = step.group_of[t];
}

__device__ inline void release_shared(int* to, int v) {
  asm volatile("st.release.cta.shared.s32 [%0], %1;" ::"r"(uint32_t(__cvta_generic_to_shared(to))), "r"(v) : "memory");
}
__device__ inline int acquire_shared(const int* from) {
  int v;
  asm volatile("ld.acquire.cta.shared.s32 %0, [%1];" : "=r"(v) : "r"(uint32_t(__cvta_generic_to_shared(from))) : "memory");
  return v;
}

__device__ inline int first_module(int kind) { return kind == kQkv ? 0 : kind == kO ? 3 : kind == kGateUp ? 4 : 6; }
__device__ inline int n_modules(int kind) { return kind == kQkv ? 3 : kind == kGateUp ? 2 : 1; }

/// The module that a row tile of a product belongs to, and the tile's first row there. half: 1 of up's tiles.
struct ModuleRow {
  int module, row;
};
__device__ inline ModuleRow module_row(const ResidentArgs& p, int kind, int tile, int half, int head_dim) {
  if (kind != kQkv) return {first_module(kind) + half, tile * kTileRows};
  const int q = p.n_heads * head_dim, kv = p.n_kv_heads * head_dim, row = tile * kTileRows;
  return row < q ? ModuleRow{0, row} : row < q + kv ? ModuleRow{1, row - q} : ModuleRow{2, row - q - kv};
}

/// 16 ranks of A x of one adapter and module, over one round of column tiles: a tile a warp.
struct ShrinkUnit {
  int group, module, rank_tile, round;
};

/// The block's units of a product, those blocks first that have fewer of its rows. f(unit, pair, its column tiles).
template <class P, class F>
__device__ void each_unit(const AdapterState& state, const ResidentPair* pairs, int kind, int k_tiles, F f) {
  const int rounds = ceil_div(k_tiles, P::kWarps), modules = n_modules(kind), n = state.n_groups * modules * state.rank_tiles * rounds;
#pragma unroll 1
  for (int u = kind == kQkv || kind == kGateUp ? gridDim.x - 1 - blockIdx.x : blockIdx.x; u < n; u += gridDim.x) {
    const int rest = u / rounds, of = rest / state.rank_tiles;
    const ShrinkUnit unit{of / modules, of % modules, rest % state.rank_tiles, u % rounds};
    const ResidentPair& pair = pairs[(first_module(kind) + unit.module) * P::T + state.first_token[unit.group]];
    if (unit.rank_tile < pair.rank_tiles) f(unit, pair, min(P::kWarps, k_tiles - unit.round * P::kWarps));
  }
}

}  // namespace lorikeet::cuda
#endif
