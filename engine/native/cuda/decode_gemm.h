// Launch parameters of decode's products: see decode_gemm.cu.
#pragma once
#include "decode_step.h"

namespace lorikeet::cuda {

/// Where the input comes from: computed in every block from the residual stream (norm) or from attention's parts (combine), or ready.
enum class GemmIn { kNorm, kCombine, kFragments };
/// Where the output goes: rows f32; rows f32 with their sums of squares; or gelu(gate) * up as fragments.
enum class GemmOut { kRows, kStream, kGeglu };

/// An adapter site within a decode product: the modules that share its input.
struct SiteLora {
  const DecodeStep* step = nullptr;
  int first_module = 0;  // index into a group's pairs: layer * modules + module
  int n_modules = 0, row_begin[kModulesOfSite] = {};
  int n_groups = 0, rank_tiles = 0, pieces = 1;  // blocks that shrink: groups x modules x rank tiles x pieces of K
  float* shrunk = nullptr;                       // [pieces][modules][kDecodeTokens][kDecodeRank]
  int* counter = nullptr;                        // [grid.y] blocks that have shrunk
  __host__ __device__ int blocks() const { return n_groups * n_modules * rank_tiles * pieces; }
};

struct GemmArgs {
  const uint4* tiles;  // NF4 tiles of nf4_layout.h
  const float* scales;
  int k_tiles, row_tiles;  // of the product; gate_up: of one half
  int n_tokens;

  const float* x = nullptr;                          // [T, K] residual stream (kNorm)
  const float* y = nullptr;                          // [T, K] to be normed and added to it, or null
  const float* y_squares = nullptr;                  // [T, K / 8] sums of squares of y
  const float *post_w = nullptr, *next_w = nullptr;  // [K]
  float* x_out = nullptr;                            // [T, K] the stream after the sum
  float eps = 0;

  const float* part_sums = nullptr;    // [T, splits, K] (kCombine)
  const float2* part_stats = nullptr;  // [T, splits, heads] maximum (of log2) and sum
  int n_splits = 0, head_dim = 0;

  const uint4* fragments = nullptr;  // [T, K] (kFragments)
  bool staged = false;               // a block copies its tokens' fragments to shared memory first; set at launch

  float* out = nullptr;          // [T, rows] f32
  float* out_squares = nullptr;  // [T, rows / 8] (kStream)
  nv_bf16* inner = nullptr;      // fragments of [T, rows] (kGeglu)

  SiteLora lora;
};

void decode_gemm(GemmIn in, GemmOut out, const GemmArgs& args, bool overlaps, cudaStream_t stream);

}  // namespace lorikeet::cuda
