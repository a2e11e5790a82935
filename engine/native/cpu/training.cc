// training_ops.h on the CPU, one instruction set. The files beside this one hold the operations.
#include "training.h"

#include <omp.h>

namespace lorikeet::CPU_NS {

class TrainingOpsCpu final : public TrainingOps {
 public:
  TrainingOpsCpu(DType act, int n_threads) {
    context_.act = act;
    context_.n_threads = n_threads;
  }

  void lora_forward(Tensor out, Tensor kept, Tensor x, const TrainedPair& pair) override {
    lora_forward_cpu(context(), out, kept, x, pair);
  }
  void lora_backward(Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor kept, Tensor x, const TrainedPair& pair) override {
    lora_backward_cpu(context(), dx, da, db, dout, kept, x, pair);
  }
  void dora_scale(Tensor out, const float* magnitude, const float* row_norm) override {
    context();
    dora_scale_cpu(out, magnitude, row_norm);
  }
  void dora_backward(float* dmagnitude, Tensor dout, Tensor out, const float* magnitude, const float* row_norm) override {
    context();
    dora_backward_cpu(dmagnitude, dout, out, magnitude, row_norm);
  }
  void linear_backward(Tensor dx, Tensor dout, const Linear& w, bool add) override { linear_backward_cpu(context(), dx, dout, w, add); }
  void rmsnorm_backward(Tensor dx, Tensor dout, Tensor x, const float* w, float eps) override {
    context();
    rmsnorm_backward_cpu(dx, dout, x, w, eps);
  }
  void residual_rmsnorm_backward(Tensor dx, Tensor dy, Tensor dout, Tensor x, Tensor y, const float* post_w, const float* next_w,
                                 float eps) override {
    context();
    residual_rmsnorm_backward_cpu(dx, dy, dout, x, y, post_w, next_w, eps);
  }
  void qk_norm_rope(Tensor q, Tensor k, Tensor v, Tensor qkv, const QkvShape& shape) override {
    context();
    qk_norm_rope_cpu(q, k, v, qkv, shape);
  }
  void qk_norm_rope_backward(Tensor dqkv, Tensor dq, Tensor dk, Tensor dv, Tensor qkv, const QkvShape& shape) override {
    context();
    qk_norm_rope_backward_cpu(dqkv, dq, dk, dv, qkv, shape);
  }
  void attention_forward(Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v, const AttentionShape& shape) override {
    attention_forward_cpu(context(), out, log_sum_exp, q, k, v, shape);
  }
  void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v,
                          const AttentionShape& shape) override {
    attention_backward_cpu(context(), dq, dk, dv, dout, out, log_sum_exp, q, k, v, shape);
  }
  void geglu_backward(Tensor dgate_up, Tensor dinner, Tensor gate_up) override {
    context();
    geglu_backward_cpu(dgate_up, dinner, gate_up);
  }
  LossResult cross_entropy(Tensor dhidden, Tensor hidden, std::span<const int32_t> targets, const LossHead& head) override {
    return cross_entropy_cpu(context(), dhidden, hidden, targets, head);
  }
  void embed_rows_backward(Tensor drows, Tensor dx, std::span<const int32_t> ids, std::span<const int32_t> token_ids,
                           float embed_scale) override {
    context();
    embed_rows_backward_cpu(drows, dx, ids, token_ids, embed_scale);
  }
  void embed_backward(Tensor demb, Tensor dx, std::span<const int32_t> ids, float embed_scale) override {
    context();
    embed_backward_cpu(demb, dx, ids, embed_scale);
  }
  double sum_squares(const float* values, int64_t n) override { return sum_squares_cpu(context(), values, n); }
  void adamw(float* parameter, const float* gradient, float* exp_avg, float* exp_avg_sq, int64_t n, const AdamW& options) override {
    context();
    adamw_cpu(parameter, gradient, exp_avg, exp_avg_sq, n, options);
  }

 private:
  TrainingContext& context() {
    omp_set_num_threads(context_.n_threads);  // per calling thread
    return context_;
  }
  TrainingContext context_;
};

std::unique_ptr<TrainingOps> make_training_ops(DType act, int n_threads) { return std::make_unique<TrainingOpsCpu>(act, n_threads); }

}  // namespace lorikeet::CPU_NS
