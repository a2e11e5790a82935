#include "trainer.h"

#include <algorithm>
#include <cmath>

namespace lorikeet {
namespace {

constexpr double kMiB = 1 << 20;

std::string mib(uint64_t bytes) { return std::to_string(uint64_t(std::ceil(double(bytes) / kMiB))) + " MiB"; }

void require(bool holds, const std::string& what) {
  if (!holds) throw Error("INVALID_REQUEST", what);
}

}  // namespace

struct Trainer::Checked {
  TrainingOps& ops;
};

Trainer::Checked Trainer::check(Backend& backend, const Weights& weights, const TrainerOptions& o) {
  TrainingOps* ops = backend.training();
  if (!ops) throw Error("UNSUPPORTED", "this device cannot train");
  const Gemma3Config& c = weights.config;
  require(o.max_tokens >= 1 && o.max_tokens <= c.max_position, "maxTokens must be in [1, " + std::to_string(c.max_position) + "]");
  check_trained_config(o.trained, c);
  const std::vector<Parameter> parameters = plan_parameters(o.trained, c);
  const uint64_t values = uint64_t(planned_size(parameters)) * 4, moments = moment_bytes(parameters, o.eight_bit);
  const uint64_t activations = lay_out_tape(c, backend.act_dtype(), o.trained.rank, o.checkpointing, o.max_tokens, nullptr).bytes;
  const uint64_t needed = 2 * values + moments + activations, available = backend.available_bytes();
  if (needed > available - available / 16)  // scratch of the operations, and what others take meanwhile
    throw Error("OUT_OF_MEMORY", "training needs " + mib(needed) + " (parameters " + mib(values) + ", gradients " + mib(values) + ", optimizer " +
                                     mib(moments) + ", activations " + mib(activations) + "), " + mib(available) + " are free");
  return {*ops};
}

Trainer::Trainer(Backend& backend, const Weights& weights, const TrainerOptions& options, const Pause& pause)
    : Trainer(backend, weights, options, pause, check(backend, weights, options)) {}

Trainer::Trainer(Backend& backend, const Weights& weights, const TrainerOptions& options, const Pause& pause, const Checked& checked)
    : backend_(backend), ops_(checked.ops), weights_(weights), trained_(backend, weights, options.trained, pause),
      optimizer_(backend, ops_, trained_, options.eight_bit),
      tape_(backend, weights.config, options.trained.rank, options.checkpointing, options.max_tokens) {}

void Trainer::check(const MicroBatch& b) const {
  const int T = b.n_tokens(), V = weights_.config.vocab_size;
  const auto in = [](const std::vector<int32_t>& values, int low, int high) {
    return std::all_of(values.begin(), values.end(), [&](int32_t v) { return v >= low && v < high; });
  };
  require(T >= 1 && T <= tape_.max_tokens(), "tokenIds: " + std::to_string(T) + " tokens, expected 1 to " + std::to_string(tape_.max_tokens()) + " (maxTokens)");
  require(in(b.token_ids, 0, V), "tokenIds must be in [0, " + std::to_string(V) + ")");
  const std::vector<int32_t>& starts = b.document_starts;
  require(starts.size() >= 2 && starts.front() == 0 && starts.back() == T, "documentStarts must begin with 0 and end with the number of tokens");
  require(std::adjacent_find(starts.begin(), starts.end(), std::greater_equal<>()) == starts.end(), "documentStarts must rise");
  require(int(b.targets.size()) == T, "targets: one for each token");
  require(in(b.targets, -1, V), "targets must be in [-1, " + std::to_string(V) + ")");
}

LossResult Trainer::accumulate(const MicroBatch& batch, double gradient_scale, const Pause& pause) {
  require(std::isfinite(gradient_scale), "gradientScale must be finite");
  return run(batch, gradient_scale, pause, {}, {});
}

LossResult Trainer::evaluate(const MicroBatch& batch, const Pause& pause) { return run(batch, std::nullopt, pause, {}, {}); }

std::map<std::string, std::vector<float>> Trainer::trace(const MicroBatch& batch, double gradient_scale) {
  std::map<std::string, std::vector<float>> seen;
  const auto into = [&](const char* name) {
    return [&seen, this, name](int layer, const Tensor& x) {
      std::vector<float>& values = seen[name + std::to_string(layer)];
      values.resize(size_t(x.rows * x.cols));
      backend_.download(values.data(), x.data, values.size() * 4);
    };
  };
  run(batch, gradient_scale, [] {}, into("hidden."), into("d_hidden."));
  return seen;
}

/// Without a gradient_scale: only the loss.
LossResult Trainer::run(const MicroBatch& batch, std::optional<double> gradient_scale, const Pause& pause, const HiddenTap& tap,
                        const GradientTap& gradient_tap) {
  check(batch);
  std::vector<int32_t> rows;
  for (int t = 0; t < batch.n_tokens(); t++)
    if (batch.targets[t] >= 0) rows.push_back(t);
  if (rows.empty()) return {};
  TrainingStep step{backend_, ops_, weights_, trained_, batch, tape_.views(batch.n_tokens()), gradient_scale.has_value()};
  TapedForward forward(step);
  forward.embed();
  for (int i = 0; i < weights_.config.n_layers; i++) {
    if (tap) tap(i, step.tape.x[i]);
    forward.attention_half(i);
    pause();
    forward.mlp_half(i);
    forward.enter_next(i);
    pause();
  }
  if (tap) tap(weights_.config.n_layers, step.tape.x.back());
  const LossResult loss = head(step, rows, gradient_scale, pause);
  if (gradient_scale) backward(step, forward, tape_.policy(), rows, pause, gradient_tap);
  return loss;
}

LossResult Trainer::head(TrainingStep& step, std::span<const int32_t> rows, std::optional<double> gradient_scale, const Pause& pause) {
  const int64_t S = int64_t(rows.size());
  const GradientBuffers& g = step.tape.gradients;
  const Tensor hidden = g.hidden.row_range(0, S), dhidden = g.dhidden.row_range(0, S);
  backend_.gather_rows(hidden, step.tape.final_normed, rows);
  std::vector<int32_t> targets;
  for (int32_t t : rows) targets.push_back(step.batch.targets[t]);
  TrainingOps::LossHead head = trained_.loss_head();
  head.scale = gradient_scale ? float(*gradient_scale) : 0;
  head.gradient = gradient_scale.has_value();
  head.pause = &pause;
  const LossResult loss = ops_.cross_entropy(dhidden, hidden, targets, head);
  pause();
  if (!std::isfinite(loss.loss_sum))
    throw Error("TRAINING_DIVERGED", "the loss is not finite at optimizer step " + std::to_string(optimizer_.n_steps() + 1) + ": lower the learning rate");
  return loss;
}

std::vector<std::pair<std::string, uint64_t>> Trainer::memory() const {
  const uint64_t gradients = uint64_t(trained_.size()) * 4;
  return {{"parameters", trained_.bytes()}, {"optimizer", optimizer_.bytes()}, {"gradients", gradients}, {"activations", tape_.bytes()}};
}

}  // namespace lorikeet
