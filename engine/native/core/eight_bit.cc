#include "eight_bit.h"

#include <algorithm>
#include <cmath>

#include "nf4.h"

namespace lorikeet {
namespace {

float requantise(const std::array<float, 256>& map, const float* values, int64_t n, uint8_t* codes) {
  float absmax = 0;
  for (int64_t i = 0; i < n; i++) absmax = std::max(absmax, std::fabs(values[i]));
  for (int64_t i = 0; i < n; i++) codes[i] = nearest_code(map, absmax == 0 ? 0.0f : values[i] / absmax);
  return absmax;
}

}  // namespace

uint8_t nearest_code(const std::array<float, 256>& map, float x) {
  const auto above = std::lower_bound(map.begin() + 1, map.end() - 1, x);  // first entry >= x, within [1, 255]
  const size_t i = size_t(above - map.begin());
  return uint8_t(std::fabs(x - map[i - 1]) <= std::fabs(x - map[i]) ? i - 1 : i);
}

void adamw_8bit(float* p, const float* g, EightBitMoment m, EightBitMoment v, int64_t n, const AdamW& o) {
  const std::array<float, 256>&m_map = dynamic_quant_map(true), &v_map = dynamic_quant_map(false);
  const float rate = float(double(o.lr) / (1.0 - std::pow(double(o.beta1), double(o.step))));
  const float correction = float(std::sqrt(1.0 - std::pow(double(o.beta2), double(o.step))));
#pragma omp parallel for
  for (int64_t block = 0; block < (n + kStateBlock - 1) / kStateBlock; block++) {
    const int64_t begin = block * kStateBlock, size = std::min(kStateBlock, n - begin);
    float avg[kStateBlock], square[kStateBlock];
    for (int64_t i = 0; i < size; i++) {
      const float gradient = g[begin + i] * o.gradient_scale;
      avg[i] = m_map[m.codes[begin + i]] * m.absmax[block] * o.beta1 + (1.0f - o.beta1) * gradient;
      square[i] = v_map[v.codes[begin + i]] * v.absmax[block] * o.beta2 + (1.0f - o.beta2) * gradient * gradient;
      const float decayed = p[begin + i] * (1.0f - o.lr * o.weight_decay);
      p[begin + i] = decayed - rate * (avg[i] / (std::sqrt(square[i]) / correction + o.eps));
    }
    m.absmax[block] = requantise(m_map, avg, size, m.codes + begin);
    v.absmax[block] = requantise(v_map, square, size, v.codes + begin);
  }
}

}  // namespace lorikeet
