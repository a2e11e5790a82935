// Training of one adapter over a resident base: micro-batches add gradients, an optimizer step moves what is trained. One thread at a
// time may call it. Between pieces of its work it calls `pause`.
#pragma once
#include <map>
#include <memory>
#include <optional>

#include "backward.h"
#include "optimizer.h"

namespace lorikeet {

struct TrainerOptions {
  TrainedConfig trained;
  Checkpointing checkpointing = Checkpointing::kLayer;
  bool eight_bit = false;  // optimizer state
  int max_tokens = 512;    // of the largest micro-batch
};

class Trainer {
 public:
  /// @throws Error INVALID_REQUEST, UNSUPPORTED, and OUT_OF_MEMORY with the bytes needed and free, before anything is allocated.
  Trainer(Backend& backend, const Weights& weights, const TrainerOptions& options, const Pause& pause);

  /// Forward and backward: adds the gradient of gradient_scale * (sum of losses). A micro-batch without targets adds nothing.
  /// @throws Error INVALID_REQUEST naming what is wrong, TRAINING_DIVERGED where the loss is not finite (no gradient is added to A, B).
  LossResult accumulate(const MicroBatch& batch, double gradient_scale, const Pause& pause);
  /// Forward without dropout or gradient.
  LossResult evaluate(const MicroBatch& batch, const Pause& pause);
  double optimizer_step(const OptimizerOptions& options, const Pause& pause) { return optimizer_.step(options, pause); }

  /// For goldens: "hidden.i" and "d_hidden.i" [T, H], the stream entering layer i and its gradient; i = n_layers: after the last.
  /// Gradients are added as accumulate() does.
  std::map<std::string, std::vector<float>> trace(const MicroBatch& batch, double gradient_scale);

  TrainedAdapter& trained() { return trained_; }
  Optimizer& optimizer() { return optimizer_; }
  Backend& backend() { return backend_; }
  /// Bytes by purpose: "parameters", "optimizer", "gradients", "activations".
  std::vector<std::pair<std::string, uint64_t>> memory() const;

 private:
  struct Checked;
  Trainer(Backend& backend, const Weights& weights, const TrainerOptions& options, const Pause& pause, const Checked&);
  static Checked check(Backend& backend, const Weights& weights, const TrainerOptions& options);
  void check(const MicroBatch& batch) const;
  LossResult run(const MicroBatch& batch, std::optional<double> gradient_scale, const Pause& pause, const HiddenTap& tap, const GradientTap& gradient_tap);
  LossResult head(TrainingStep& step, std::span<const int32_t> rows, std::optional<double> gradient_scale, const Pause& pause);

  Backend& backend_;
  TrainingOps& ops_;
  const Weights& weights_;
  TrainedAdapter trained_;
  Optimizer optimizer_;
  Tape tape_;
};

}  // namespace lorikeet
