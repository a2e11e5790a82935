// y = x * rsqrt(mean(x^2) + eps) * (1 + w): Gemma stores norm weights zero-centred. All in fp32, rounded once at the end.
#include "ops.h"

namespace lorikeet::CPU_NS {

float rsqrt_mean_square(const float* x, int64_t n, float eps) {
  f32x16 sum{};
  for (int64_t i = 0; i < n; i += kLanes) sum += load(x + i) * load(x + i);
  return 1.0f / std::sqrt(reduce_add(sum) / float(n) + eps);
}

void rmsnorm_cpu(Tensor out, Tensor x, const float* w, float eps) {
  expect_shape("rmsnorm out", out, x.rows, x.cols);
#pragma omp parallel for if (x.rows > 8)
  for (int64_t t = 0; t < x.rows; t++) {
    const float r = rsqrt_mean_square(x.f32(t), x.cols, eps);
    for (int64_t c = 0; c < x.cols; c += kLanes) store_act(out.row(t), out.dtype, c, load(x.f32(t) + c) * r * (1.0f + load(w + c)));
  }
}

void residual_rmsnorm_cpu(Tensor out, Tensor x, Tensor y, const float* post_w, const float* next_w, float eps) {
  expect_shape("residual_rmsnorm y", y, x.rows, x.cols);
  expect_shape("residual_rmsnorm out", out, x.rows, x.cols);
#pragma omp parallel for if (x.rows > 8)
  for (int64_t t = 0; t < x.rows; t++) {
    float* xt = x.f32(t);
    const float r = rsqrt_mean_square(y.f32(t), y.cols, eps);
    for (int64_t c = 0; c < x.cols; c += kLanes) store(xt + c, load(xt + c) + load(y.f32(t) + c) * r * (1.0f + load(post_w + c)));
    const float r2 = rsqrt_mean_square(xt, x.cols, eps);
    for (int64_t c = 0; c < x.cols; c += kLanes) store_act(out.row(t), out.dtype, c, load(xt + c) * r2 * (1.0f + load(next_w + c)));
  }
}

}  // namespace lorikeet::CPU_NS
