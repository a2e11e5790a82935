// DoRA's column factor in training: out = magnitude / row_norm * (W x + scale B A x), the norm a constant for the gradient (PEFT).
#include <algorithm>

#include "training.h"

namespace lorikeet::CPU_NS {

void dora_scale_cpu(Tensor out, const float* magnitude, const float* row_norm) {
#pragma omp parallel for if (out.rows > 4)
  for (int64_t t = 0; t < out.rows; t++) {
    float* row = out.f32(t);
    for (int64_t n = 0; n < out.cols; n++) row[n] *= magnitude[n] / row_norm[n];
  }
}

void dora_backward_cpu(float* dmagnitude, Tensor dout, Tensor out, const float* magnitude, const float* row_norm) {
  expect_shape("dora_backward out", out, dout.rows, dout.cols);
  constexpr int64_t kColumns = 64;
#pragma omp parallel for if (dout.rows > 4)
  for (int64_t begin = 0; begin < dout.cols; begin += kColumns) {
    const int64_t n_columns = std::min(kColumns, dout.cols - begin);
    double sums[kColumns] = {};
    for (int64_t t = 0; t < dout.rows; t++) {
      float* d = dout.f32(t) + begin;
      const float* o = out.f32(t) + begin;
      for (int64_t n = 0; n < n_columns; n++) {
        sums[n] += double(d[n]) * o[n];
        d[n] *= magnitude[begin + n] / row_norm[begin + n];
      }
    }
    for (int64_t n = 0; n < n_columns; n++) dmagnitude[begin + n] += float(sums[n] / magnitude[begin + n]);
  }
}

}  // namespace lorikeet::CPU_NS
