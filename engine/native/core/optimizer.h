// AdamW over a trained adapter: clipping by the global norm, 32-bit moments or 8-bit ones.
#pragma once
#include <vector>

#include "eight_bit.h"
#include "trained_adapter.h"

namespace lorikeet {

struct OptimizerOptions {
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  double max_grad_norm = 0;  // 0 = no clipping
};

/// @throws Error INVALID_REQUEST naming the field.
void check_optimizer_options(const OptimizerOptions& options);

/// The moments of one parameter: f32, or 8-bit codes and their scales.
struct Moments {
  float *exp_avg = nullptr, *exp_avg_sq = nullptr;  // [n], or null
  EightBitMoment exp_avg_8bit{}, exp_avg_sq_8bit{};
};

/// Whether a parameter's moments are 8-bit: as transformers sets bitsandbytes up, neither small tensors nor embeddings.
bool has_8bit_moments(const Parameter& parameter, bool eight_bit);
uint64_t moment_bytes(const std::vector<Parameter>& parameters, bool eight_bit);

class Optimizer {
 public:
  Optimizer(Backend& backend, TrainingOps& ops, TrainedAdapter& trained, bool eight_bit);

  /// Moves the parameters by their gradients and clears these. @returns the norm before clipping.
  /// @throws Error TRAINING_DIVERGED where the norm is not finite; nothing has moved, the gradients are cleared.
  double step(const OptimizerOptions& options, const Pause& pause);

  int64_t n_steps() const { return n_steps_; }
  void set_steps(int64_t n) { n_steps_ = n; }
  const Moments& moments(size_t parameter) const { return moments_[parameter]; }
  uint64_t bytes() const { return buffer_.bytes(); }
  void clear_gradients();

 private:
  double gradient_norm(const Pause& pause);
  void move(size_t parameter, const AdamW& options, const Pause& pause);

  Backend& backend_;
  TrainingOps& ops_;
  TrainedAdapter& trained_;
  Buffer buffer_;
  std::vector<Moments> moments_;  // by parameter
  int64_t n_steps_ = 0;
};

}  // namespace lorikeet
