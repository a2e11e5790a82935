// The kernels of decode that are no product and no attention.
#pragma once
#include "decode_step.h"

namespace lorikeet::cuda {

struct BeginArgs {
  const DecodeStep* step;
  const nv_bf16* embedding;         // [V, H]
  float* x;                         // [T, H]
  float *rope_local, *rope_global;  // [T, D]
  float theta_local, theta_global, scaling_global, embed_scale;
  int hidden, head_dim, n_tokens;
  int* counters;  // set to 0
  int n_counters;
};
/// Embeds, with the adapters' own rows, and fills both rope tables.
void begin_decode(const BeginArgs& args, cudaStream_t stream);

struct NormArgs {
  float* x;                    // [T, H] in place
  const float *y, *y_squares;  // [T, H], [T, H / 8]; null: only the norm
  const float *post_w, *next_w;
  float eps;
  int hidden, n_tokens;
};
/// x += rmsnorm(y, post_w); fragments of rmsnorm(x, next_w).
void norm_to_fragments(nv_bf16* fragments, const NormArgs& args, bool overlaps, cudaStream_t stream);
/// The same for the tokens of the outputs, as rows [S, H]; x is left as it is.
void norm_to_rows(nv_bf16* rows, int n_outputs, const NormArgs& args, const DecodeStep* step, bool overlaps, cudaStream_t stream);

}  // namespace lorikeet::cuda
