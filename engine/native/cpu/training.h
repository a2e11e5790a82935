// The training operations of the CPU backend, one file each; training.cc maps training_ops.h onto them.
#pragma once
#include <unordered_map>

#include "../core/training_ops.h"
#include "arena.h"
#include "ops.h"

namespace lorikeet::CPU_NS {

/// What one module dropped last.
struct DropoutMasks {
  Dropout dropout;
  int64_t n_tokens = 0, n = 0;
  std::vector<uint64_t> bits;  // [n_tokens, ceil(n / 64)]
};

/// What every operation needs beside its arguments.
struct TrainingContext {
  Arena arena;
  std::unordered_map<uint32_t, DropoutMasks> masks;  // by module
  size_t mask_bytes = 0;
  int n_threads = 1;
  DType act = DType::kBF16;
};

// lora_train.cc
void lora_forward_cpu(TrainingContext& context, Tensor out, Tensor kept, Tensor x, const TrainedPair& pair);
void lora_backward_cpu(TrainingContext& context, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor kept, Tensor x,
                       const TrainedPair& pair);

// dropout.cc
/// Bits [T, ceil(n / 64)], set where an element is kept. They stand until the arena's scope ends or the module draws others.
const uint64_t* dropout_masks(TrainingContext& context, int64_t T, int64_t n, const Dropout& dropout);
/// out [n] = x [n] with dropped elements zero and the others divided by 1 - p.
void dropout_row(float* out, const float* x, int64_t n, const uint64_t* bits, float p);
void dropout_row(bf16* out, const bf16* x, int64_t n, const uint64_t* bits, float p);

// dora_train.cc
void dora_scale_cpu(Tensor out, const float* magnitude, const float* row_norm);
void dora_backward_cpu(float* dmagnitude, Tensor dout, Tensor out, const float* magnitude, const float* row_norm);

// linear_backward.cc
void linear_backward_cpu(TrainingContext& context, Tensor dx, Tensor dout, const Linear& w, bool add);

// rmsnorm_backward.cc
void rmsnorm_backward_cpu(Tensor dx, Tensor dout, Tensor x, const float* w, float eps);
void residual_rmsnorm_backward_cpu(Tensor dx, Tensor dy, Tensor dout, Tensor x, Tensor y, const float* post_w, const float* next_w,
                                   float eps);
/// dx (+)= gradient of rmsnorm(x, w) [n]. `add`: += instead of =.
void rmsnorm_backward_row(float* dx, const float* dout, const float* x, const float* w, int64_t n, float eps, bool add);

// rope_backward.cc
void qk_norm_rope_cpu(Tensor q, Tensor k, Tensor v, Tensor qkv, const TrainingOps::QkvShape& shape);
void qk_norm_rope_backward_cpu(Tensor dqkv, Tensor dq, Tensor dk, Tensor dv, Tensor qkv, const TrainingOps::QkvShape& shape);

// attention_train.cc
void attention_forward_cpu(TrainingContext& context, Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v,
                           const TrainingOps::AttentionShape& shape);
void attention_backward_cpu(TrainingContext& context, Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor out, Tensor log_sum_exp,
                            Tensor q, Tensor k, Tensor v, const TrainingOps::AttentionShape& shape);

// geglu_backward.cc
void geglu_backward_cpu(Tensor dgate_up, Tensor dinner, Tensor gate_up);

// cross_entropy.cc
LossResult cross_entropy_cpu(TrainingContext& context, Tensor dhidden, Tensor hidden, std::span<const int32_t> targets,
                             const TrainingOps::LossHead& head);

// embedding_backward.cc
void embed_rows_backward_cpu(Tensor drows, Tensor dx, std::span<const int32_t> ids, std::span<const int32_t> token_ids, float embed_scale);
void embed_backward_cpu(Tensor demb, Tensor dx, std::span<const int32_t> ids, float embed_scale);

// adamw.cc
double sum_squares_cpu(TrainingContext& context, const float* values, int64_t n);
void adamw_cpu(float* parameter, const float* gradient, float* exp_avg, float* exp_avg_sq, int64_t n, const AdamW& options);

std::unique_ptr<TrainingOps> make_training_ops(DType act, int n_threads);

}  // namespace lorikeet::CPU_NS
