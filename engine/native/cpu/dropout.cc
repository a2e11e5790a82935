// Which elements are dropped, as a function of seed, token, module and element alone: forward, recomputation and backward agree on
// any number of threads. Elements 4j to 4j + 3 of token t are the four words of philox(seed, token_counter + t, module | j << 32).
#include <algorithm>

#include "../core/philox.h"
#include "gemm.h"
#include "training.h"

namespace lorikeet::CPU_NS {
namespace {

template <class T>
void drop(T* out, const T* x, int64_t n, int64_t t, const Dropout& d) {
  const double threshold = double(d.p) * 4294967296.0;
  const float keep = 1.0f / (1.0f - d.p);
  for (int64_t i = 0; i < n; i += 4) {
    const auto words = philox(d.seed, d.token_counter + uint64_t(t), uint64_t(d.module) | uint64_t(i / 4) << 32);
    for (int64_t j = 0; j < std::min<int64_t>(4, n - i); j++)
      out[i + j] = double(words[j]) < threshold ? T(0) : from_f32<T>(as_f32(x[i + j]) * keep);
  }
}

}  // namespace

void dropout_row(float* out, const float* x, int64_t n, int64_t t, const Dropout& d) { drop(out, x, n, t, d); }
void dropout_row(bf16* out, const bf16* x, int64_t n, int64_t t, const Dropout& d) { drop(out, x, n, t, d); }

}  // namespace lorikeet::CPU_NS
