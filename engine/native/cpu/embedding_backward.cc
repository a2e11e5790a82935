// Gradient of the input embedding: of trained rows, or of the whole matrix. Tokens are taken in order, so the sum is the same each time.
#include <algorithm>

#include "training.h"

namespace lorikeet::CPU_NS {

void embed_rows_backward_cpu(Tensor drows, Tensor dx, std::span<const int32_t> ids, std::span<const int32_t> token_ids, float embed_scale) {
  expect_shape("embed_rows_backward drows", drows, int64_t(token_ids.size()), dx.cols);
  expect_shape("embed_rows_backward dx", dx, int64_t(ids.size()), drows.cols);
#pragma omp parallel for if (drows.rows > 1)
  for (int64_t i = 0; i < drows.rows; i++) {
    float* to = drows.f32(i);
    for (int64_t t = 0; t < dx.rows; t++) {
      if (ids[t] != token_ids[i]) continue;
      for (int64_t c = 0; c < dx.cols; c += kLanes) store(to + c, load(to + c) + load(dx.f32(t) + c) * embed_scale);
    }
  }
}

void embed_backward_cpu(Tensor demb, Tensor dx, std::span<const int32_t> ids, float embed_scale) {
  expect_shape("embed_backward dx", dx, int64_t(ids.size()), demb.cols);
  constexpr int64_t kColumns = 128;  // of one thread: a token may occur often
#pragma omp parallel for if (dx.rows > 4)
  for (int64_t begin = 0; begin < dx.cols; begin += kColumns)
    for (int64_t t = 0; t < dx.rows; t++) {
      float* to = demb.f32(ids[t]);
      const int64_t end = std::min(dx.cols, begin + kColumns);
      for (int64_t c = begin; c < end; c += kLanes) store(to + c, load(to + c) + load(dx.f32(t) + c) * embed_scale);
    }
}

}  // namespace lorikeet::CPU_NS
