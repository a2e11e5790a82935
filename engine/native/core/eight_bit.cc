#include "eight_bit.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace lorikeet {
namespace {

/// Decade i of seven has midpoints of 2^i (signed) or 2^(i+1) equal parts of [0.1, 1]; then 0 and 1.
std::array<float, 256> make_dynamic_map(bool is_signed) {
  std::vector<float> values{0.0f, 1.0f};
  for (int i = 0; i < 7; i++) {
    const int n = 1 << (is_signed ? i : i + 1);
    std::vector<float> bounds(n + 1);
    const float step = (1.0f - 0.1f) / float(n);
    // torch.linspace counts from the nearer end.
    for (int j = 0; j <= n; j++) bounds[j] = j < (n + 1) / 2 ? 0.1f + step * float(j) : 1.0f - step * float(n - j);
    for (int j = 0; j < n; j++) {
      const float mean = float(std::pow(10.0, i - 6)) * ((bounds[j] + bounds[j + 1]) / 2.0f);
      values.push_back(mean);
      if (is_signed) values.push_back(-mean);
    }
  }
  std::sort(values.begin(), values.end());
  std::array<float, 256> map{};
  std::copy(values.begin(), values.end(), map.begin());
  return map;
}

float requantise(const std::array<float, 256>& map, const float* values, int64_t n, uint8_t* codes) {
  float absmax = 0;
  for (int64_t i = 0; i < n; i++) absmax = std::max(absmax, std::fabs(values[i]));
  for (int64_t i = 0; i < n; i++) codes[i] = nearest_code(map, absmax == 0 ? 0.0f : values[i] / absmax);
  return absmax;
}

}  // namespace

const std::array<float, 256>& dynamic_map(bool is_signed) {
  static const std::array<float, 256> maps[] = {make_dynamic_map(false), make_dynamic_map(true)};
  return maps[is_signed];
}

uint8_t nearest_code(const std::array<float, 256>& map, float x) {
  const auto above = std::lower_bound(map.begin() + 1, map.end() - 1, x);  // first entry >= x, within [1, 255]
  const size_t i = size_t(above - map.begin());
  return uint8_t(std::fabs(x - map[i - 1]) <= std::fabs(x - map[i]) ? i - 1 : i);
}

void adamw_8bit(float* p, const float* g, EightBitMoment m, EightBitMoment v, int64_t n, const AdamW& o) {
  const std::array<float, 256>&m_map = dynamic_map(true), &v_map = dynamic_map(false);
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
