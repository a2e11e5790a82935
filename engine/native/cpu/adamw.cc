// AdamW as torch.optim.AdamW computes it, and the norm that clipping needs.
#include <algorithm>
#include <cmath>

#include "training.h"

namespace lorikeet::CPU_NS {

double sum_squares_cpu(TrainingContext& context, const float* values, int64_t n) {
  constexpr int64_t kPiece = 1 << 16;  // summed by one thread, whatever their number
  const Arena::Scope scope(context.arena);
  const int64_t n_pieces = (n + kPiece - 1) / kPiece;
  double* sums = context.arena.take<double>(n_pieces);
#pragma omp parallel for if (n_pieces > 1)
  for (int64_t p = 0; p < n_pieces; p++) {
    double lanes[kLanes] = {};
    const int64_t end = std::min(n, (p + 1) * kPiece);
    int64_t i = p * kPiece;
    for (; i + kLanes <= end; i += kLanes)
      for (int l = 0; l < kLanes; l++) lanes[l] += double(values[i + l]) * values[i + l];
    for (; i < end; i++) lanes[0] += double(values[i]) * values[i];
    sums[p] = 0;
    for (double lane : lanes) sums[p] += lane;
  }
  double sum = 0;
  for (int64_t p = 0; p < n_pieces; p++) sum += sums[p];
  return sum;
}

void adamw_cpu(float* parameter, const float* gradient, float* exp_avg, float* exp_avg_sq, int64_t n, const AdamW& o) {
  const float decay = float(1 - o.lr * o.weight_decay), scale = float(o.gradient_scale), eps = float(o.eps);
  const float from_gradient = float(1 - o.beta1), from_square = float(1 - o.beta2), beta2 = float(o.beta2);
  const float step_size = float(o.lr / (1 - std::pow(o.beta1, double(o.step))));
  const float correction = float(std::sqrt(1 - std::pow(o.beta2, double(o.step))));
#pragma omp parallel for if (n > (1 << 14))
  for (int64_t i = 0; i < n; i++) {
    const float g = gradient[i] * scale;
    const float m = exp_avg[i] + (g - exp_avg[i]) * from_gradient;
    const float v = exp_avg_sq[i] * beta2 + g * g * from_square;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    parameter[i] = parameter[i] * decay - step_size * (m / (std::sqrt(v) / correction + eps));
  }
}

}  // namespace lorikeet::CPU_NS
