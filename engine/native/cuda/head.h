// The vocabulary as output on the device, and the kernels over it. Every kernel takes 16 rows at a time as the A operand of a tensor
// core, hidden states as B: one output costs what eight cost, and an output's scores do not depend on the others. More than 32 outputs
// of one head go to cuBLASLt, whose sums run in another order: there the last bits depend on how many there are.
#pragma once
#include "cublaslt.h"
#include "sampler.h"

namespace lorikeet::cuda {

struct HeadCuda : Head {
  const nv_bf16* weights = nullptr;  // [V, H]: the tied embedding's, or those of `own`
  Buffer own;
  Buffer codes;      // int8: [V, H]
  Buffer code_meta;  // int8: [V] CodeMeta
  Buffer norm_max;   // int8: the largest row norm, f32
};

/// Row n is codes[n] * scale; error bounds ||w[n] - codes[n] * scale|| and what fp32 sums may lose, both per unit of ||x||.
struct CodeMeta {
  float scale, error;
};

/// A hidden state x as high * 128 + low, about 15 bits, times scale: integer sums over it are exact.
struct HiddenMeta {
  float scale, norm;
  float constant;  // ||x - x'|| * norm_max: what rounding x may cost any score
  int finite;
};

constexpr int kMaxTiled = 32;  // outputs that the kernels take, in as many passes as their hidden states need; cuBLASLt takes more

/// Outputs of one pass of the kernels: 32, 16 or 8, whose hidden states must fit in shared memory; 0: this width is cuBLASLt's.
int tiled_outputs(int64_t H, bool int8);

// head_kernel.cu
/// values [n, V], parts of outputs [first, first + n): n <= tiled_outputs.
void score_bf16(Tensor values, Tensor hidden, const HeadCuda& head, int64_t first, SamplerScratch& scratch, cudaStream_t stream);

/// The same from hidden states already quantised: approximate values, and bounds instead of parts.
void score_codes(Tensor values, const HeadCuda& head, int64_t first, SamplerScratch& scratch, cudaStream_t stream);

// head_int8.cu
void quantise_head(HeadCuda& head, cudaStream_t stream);
/// Approximate values and their parts' bounds, of outputs [first, first + n).
void score_int8(Tensor values, Tensor hidden, const HeadCuda& head, int64_t first, SamplerScratch& scratch, cudaStream_t stream);

// head_rescore.cu
constexpr int kRescoreFailed = -2;  // more candidates than the list holds: the whole bf16 head must decide
/// ids[s] of approximate outputs: whatever could win within the bounds is scored in bf16, by the bf16 kernel's own sums.
void choose_bounded(Tensor values, Tensor hidden, const HeadCuda& head, OutputList list, SamplerScratch& scratch, cudaStream_t stream);

// head.cu
/// Exact scores of output s, whatever logits() gave.
void score_exactly(Scores& scores, int64_t s, SamplerScratch& scratch, CublasLt& blas, cudaStream_t stream);

}  // namespace lorikeet::cuda
