// y = x r (1 + w) with r = 1 / sqrt(mean(x^2) + eps): dx = r (g - x r^2 mean(g x)), g = dy (1 + w).
#include "training.h"

namespace lorikeet::CPU_NS {

void rmsnorm_backward_row(float* dx, const float* dout, const float* x, const float* w, int64_t n, float eps, bool add) {
  const float r = rsqrt_mean_square(x, n, eps);
  f32x16 sum{};
  for (int64_t c = 0; c < n; c += kLanes) sum += load(dout + c) * (1.0f + load(w + c)) * load(x + c);
  const float along = reduce_add(sum) / float(n) * r * r;
  for (int64_t c = 0; c < n; c += kLanes) {
    const f32x16 g = r * (load(dout + c) * (1.0f + load(w + c)) - load(x + c) * along);
    store(dx + c, add ? load(dx + c) + g : g);
  }
}

void rmsnorm_backward_cpu(Tensor dx, Tensor dout, Tensor x, const float* w, float eps) {
  expect_shape("rmsnorm_backward dx", dx, x.rows, x.cols);
  expect_shape("rmsnorm_backward dout", dout, x.rows, x.cols);
#pragma omp parallel for if (x.rows > 8)
  for (int64_t t = 0; t < x.rows; t++) rmsnorm_backward_row(dx.f32(t), dout.f32(t), x.f32(t), w, x.cols, eps, true);
}

void residual_rmsnorm_backward_cpu(Tensor dx, Tensor dy, Tensor dout, Tensor x, Tensor y, const float* post_w, const float* next_w,
                                   float eps) {
  expect_shape("residual_rmsnorm_backward dx", dx, x.rows, x.cols);
  expect_shape("residual_rmsnorm_backward dy", dy, x.rows, x.cols);
  expect_shape("residual_rmsnorm_backward dout", dout, x.rows, x.cols);
  expect_shape("residual_rmsnorm_backward y", y, x.rows, x.cols);
#pragma omp parallel for if (x.rows > 8)
  for (int64_t t = 0; t < x.rows; t++) {
    rmsnorm_backward_row(dx.f32(t), dout.f32(t), x.f32(t), next_w, x.cols, eps, true);
    rmsnorm_backward_row(dy.f32(t), dx.f32(t), y.f32(t), post_w, x.cols, eps, false);
  }
}

}  // namespace lorikeet::CPU_NS
