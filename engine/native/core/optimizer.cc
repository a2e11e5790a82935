#include "optimizer.h"

#include <algorithm>
#include <cmath>

namespace lorikeet {
namespace {

constexpr int64_t kPiece = 1 << 20;  // values between two pauses; a multiple of kStateBlock

int64_t blocks_of(int64_t n) { return (n + kStateBlock - 1) / kStateBlock; }

/// Bytes of one parameter's two moments, a multiple of 64.
uint64_t moment_bytes(const Parameter& p, bool eight_bit) {
  const uint64_t bytes = has_8bit_moments(p, eight_bit) ? 2 * uint64_t(blocks_of(p.size) * (kStateBlock + 4)) : 2 * uint64_t(p.size) * 4;
  return (bytes + 63) / 64 * 64;
}

}  // namespace

void check_optimizer_options(const OptimizerOptions& o) {
  const auto require = [](bool holds, const char* what) { if (!holds) throw Error("INVALID_REQUEST", what); };
  require(std::isfinite(o.lr) && o.lr >= 0, "lr must be finite and not negative");
  require(o.beta1 >= 0 && o.beta1 < 1, "beta1 must be in [0, 1)");
  require(o.beta2 >= 0 && o.beta2 < 1, "beta2 must be in [0, 1)");
  require(std::isfinite(o.eps) && o.eps > 0, "eps must be positive");
  require(std::isfinite(o.weight_decay) && o.weight_decay >= 0, "weightDecay must be finite and not negative");
  require(std::isfinite(o.max_grad_norm) && o.max_grad_norm >= 0, "maxGradNorm must be finite and not negative");
}

bool has_8bit_moments(const Parameter& p, bool eight_bit) { return eight_bit && p.size >= kMin8BitSize && p.kind != ParameterKind::kEmbedding; }

uint64_t moment_bytes(const std::vector<Parameter>& parameters, bool eight_bit) {
  uint64_t bytes = 0;
  for (const Parameter& p : parameters) bytes += moment_bytes(p, eight_bit);
  return bytes;
}

Optimizer::Optimizer(Backend& backend, TrainingOps& ops, TrainedAdapter& trained, bool eight_bit) : backend_(backend), ops_(ops), trained_(trained) {
  buffer_ = backend.allocate(moment_bytes(trained.parameters(), eight_bit));
  char* at = static_cast<char*>(buffer_.data());
  for (const Parameter& p : trained.parameters()) {
    Moments m;
    if (has_8bit_moments(p, eight_bit)) {
      const int64_t n_blocks = blocks_of(p.size);
      float* scales = reinterpret_cast<float*>(at);
      auto* codes = reinterpret_cast<uint8_t*>(scales + 2 * n_blocks);
      m.exp_avg_8bit = {codes, scales};
      m.exp_avg_sq_8bit = {codes + n_blocks * kStateBlock, scales + n_blocks};
    } else {
      m.exp_avg = reinterpret_cast<float*>(at);
      m.exp_avg_sq = m.exp_avg + p.size;
    }
    moments_.push_back(m);
    at += moment_bytes(p, eight_bit);
  }
}

double Optimizer::step(const OptimizerOptions& o, const Pause& pause) {
  check_optimizer_options(o);
  const double norm = gradient_norm(pause);
  if (!std::isfinite(norm)) {
    clear_gradients();
    throw Error("TRAINING_DIVERGED", "the gradient's norm is not finite at step " + std::to_string(n_steps_ + 1) + ": lower the learning rate");
  }
  AdamW options{o.lr, o.beta1, o.beta2, o.eps, o.weight_decay, n_steps_ + 1, 1.0};
  if (o.max_grad_norm > 0) options.gradient_scale = std::min(1.0, o.max_grad_norm / (norm + 1e-6));
  for (size_t i = 0; i < moments_.size(); i++) move(i, options, pause);
  n_steps_++;
  clear_gradients();
  trained_.refresh(pause);
  return norm;
}

double Optimizer::gradient_norm(const Pause& pause) {
  double sum = 0;
  for (int64_t begin = 0; begin < trained_.size(); begin += kPiece) {
    sum += ops_.sum_squares(trained_.gradients() + begin, std::min(kPiece, trained_.size() - begin));
    pause();
  }
  return std::sqrt(sum);
}

void Optimizer::move(size_t index, const AdamW& options, const Pause& pause) {
  const Parameter& p = trained_.parameters()[index];
  const Moments& m = moments_[index];
  for (int64_t begin = 0; begin < p.size; begin += kPiece) {
    const int64_t n = std::min(kPiece, p.size - begin);
    float* value = trained_.values() + p.begin + begin;
    const float* gradient = trained_.gradients() + p.begin + begin;
    const auto from = [&](const EightBitMoment& moment) { return EightBitMoment{moment.codes + begin, moment.absmax + begin / kStateBlock}; };
    if (m.exp_avg) ops_.adamw(value, gradient, m.exp_avg + begin, m.exp_avg_sq + begin, n, options);
    else adamw_8bit(value, gradient, from(m.exp_avg_8bit), from(m.exp_avg_sq_8bit), n, options);
    pause();
  }
}

void Optimizer::clear_gradients() {
  const std::vector<float> zeros(size_t(std::min(kPiece, trained_.size())));
  for (int64_t begin = 0; begin < trained_.size(); begin += kPiece)
    backend_.upload(trained_.gradients() + begin, zeros.data(), size_t(std::min(kPiece, trained_.size() - begin)) * 4);
}

}  // namespace lorikeet
