// The shape of a resident kernel's block, and where its values lie: in its shared memory, and among the words that blocks exchange.
#pragma once
#include "nf4_table.h"
#include "resident_attention.h"
#include "resident_stages.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

constexpr int kMostSharedBytes = 227 << 10, kMostLayers = 35;

/// A block's shape and shared memory, for TOKENS tokens. WARPS warps have TILES tiles of columns each, one more asks for weights, and with
/// adapters another one for their pairs; GROUP query heads share a kv head.
template <int TOKENS, int TILES, int WARPS, int GROUP, bool LORA>
struct BlockPlan {
  static constexpr int T = TOKENS, KT = TILES, N = WARPS, G = GROUP;
  static constexpr bool kLora = LORA;
  static constexpr int kHead = 256, kWarps = N, kThreads = N * kWarp, kTilesOfWarp = KT, kColumnTiles = N * KT;
  static constexpr int kAllThreads = kThreads + (LORA ? 2 : 1) * kWarp;
  static constexpr int kColumns = kColumnTiles * kTileCols, kRowTiles = kColumns / kTileRows;
  static constexpr int kAtOnce = T * KT >= 8 ? 4 : 8;  // row tiles whose sums are shared at once
  static constexpr int kTileSums = kTileRows * T;      // of one warp and row tile
  static constexpr int kScales = 2 * N * kWarp * 16, kStageBytes = kScales + 2 * N * kTileRows * 4, kNormBytes = N * kTileCols * 4;
  static constexpr int kTilesOfA = kScales / (kTileRows * kTileCols * 2);  // that a stage holds
  using Attention = ResidentAttentionShared<kHead, G>;
  // Bytes, in order.
  static constexpr int kSquares = kNf4TableBytes;  // [2][N][T] of y, [N][T] of x
  static constexpr int kStream = (kSquares + N * T * 3 * 4 + 15) / 16 * 16;
  static constexpr int kNormed = kStream + kColumns * T * 4;
  static constexpr int kAttention = kNormed + kColumns * T * 2;
  static constexpr int kSums = (kAttention + int(sizeof(Attention)) + 15) / 16 * 16;
  static constexpr int kBuffers = T == 1 ? 2 : 1;  // of sums: with two a product need not wait until those before it have been read
  static constexpr int kOneBuffer = N * kAtOnce * kTileSums, kSumsOfTiles = kBuffers * kOneBuffer * 4,
                       kSumsOfHeads = kKeyWarps * G * kHead * 4;
  static constexpr int kLayers = kSums + (kSumsOfTiles > kSumsOfHeads ? kSumsOfTiles : kSumsOfHeads);
  static constexpr int kUnits = kLayers + int(sizeof(ResidentLayer)) * (kMostLayers + 1);             // [2]
  static constexpr int kShares = kUnits + 2 * int(sizeof(AttentionUnit));                             // [kKinds]
  static constexpr int kAdapters = (kShares + kKinds * int(sizeof(Share)) + 15) / 16 * 16;            // AdapterState
  static constexpr int kPairs = kAdapters + (LORA ? (int(sizeof(AdapterState)) + 15) / 16 * 16 : 0);  // [kPairLayers][kModules][T]
  static constexpr int kShrunk = kPairs + (LORA ? kPairLayers * kModules * T * int(sizeof(ResidentPair)) : 0);  // [kBuffers][3][T]
  static constexpr int kBarriers = (kShrunk + (LORA ? kBuffers * 3 * T * kDecodeRank * 4 : 0) + 127) / 128 * 128;
  static constexpr int kRing = kBarriers + 256;
  static constexpr int kStages = (kMostSharedBytes - kRing) / kStageBytes < 12 ? (kMostSharedBytes - kRing) / kStageBytes : 12;
  static constexpr int kBytes = kRing + kStages * kStageBytes;
  static_assert(kStages >= 3);
};

/// Place of column k of 64 among the sixteen of each lane: the order of mma's B operand.
__device__ inline int fragment_offset(int k) {
  const int in_step = k % 16;
  return in_step % 8 / 2 * 16 + k / 16 * 4 + in_step / 8 * 2 + (k & 1);
}
/// Place of word f of a token's 32 (two columns each, in that order) among a tile's fragments of T tokens: vectors of four words, those
/// of neighbouring lanes side by side.
template <int T>
__device__ inline int word_place(int t, int f) {
  return (f % 8 / 4 * T * 4 + t * 4 + f / 8) * 4 + f % 4;
}
/// Place of float f of a token's 64 in a tile of T tokens: each lane has 2 T of them, in vectors of four (of one token, two).
template <int T>
__device__ inline int float_place(int t, int f) {
  constexpr int kPer = 2 * T;
  const int lane = t * (kWarp / T) + f / kPer, i = f % kPer;
  return T == 1 ? f : i / 4 * kWarp * 4 + lane * 4 + i % 4;
}

/// A lane's N floats: see float_place.
template <int N>
__device__ inline void load_floats(float (&v)[N], const float* tile, int lane) {
  if constexpr (N == 2) {
    const float2 f = reinterpret_cast<const float2*>(tile)[lane];
    v[0] = f.x, v[1] = f.y;
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 f = reinterpret_cast<const float4*>(tile)[i / 4 * kWarp + lane];
      v[i] = f.x, v[i + 1] = f.y, v[i + 2] = f.z, v[i + 3] = f.w;
    }
  }
}
template <int N>
__device__ inline void store_floats(float* tile, const float (&v)[N], int lane) {
  if constexpr (N == 2)
    reinterpret_cast<float2*>(tile)[lane] = {v[0], v[1]};
  else
#pragma unroll
    for (int i = 0; i < N; i += 4) reinterpret_cast<float4*>(tile)[i / 4 * kWarp + lane] = {v[i], v[i + 1], v[i + 2], v[i + 3]};
}

}  // namespace lorikeet::cuda
#endif
