// Gradient of trained rows of the input embedding. Tokens are taken in order, so the sum is the same each time.
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

}  // namespace lorikeet::CPU_NS
