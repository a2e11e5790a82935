// Long runs of one adapter's tokens, by tensor cores: lora_prefill.cu.
#pragma once
#include "device.h"

namespace lorikeet::cuda {

constexpr int kLongRun = 64;      // tokens from which a run is worth tiles
constexpr int kMaxLongRuns = 48;  // of a launch: they travel as its argument

struct LongRun {
  const nv_bf16 *a, *b;       // [rank, n_in], [n_out, padded_rank]
  const float* column_scale;  // [n_out] or null
  int64_t column, shrunk_at;  // first output; where the run's [tokens, padded_rank] lie in `shrunk`
  int begin, end, rank, padded_rank, n_out;
  float scale;
};
struct LongRuns {
  LongRun run[kMaxLongRuns];
};

/// out[t, column + n] = column_scale[n] * (out + scale * B (A x[t])). n_in divides by 32, n_out and column by 8, padded_rank by 16.
/// shrunk: room for every run's tokens x padded_rank.
void lora_prefill_cuda(Tensor out, Tensor x, const LongRuns& runs, int n_runs, nv_bf16* shrunk, cudaStream_t stream);

}  // namespace lorikeet::cuda
