// Random operands of the operations of backend.h, and the values that they stand for.
#pragma once
#include <algorithm>
#include <cmath>
#include <random>

#include "../core/backend.h"
#include "../core/nf4.h"
#include "../core/parallel.h"

namespace lorikeet::testing {

inline std::mt19937 generator(7);

inline std::vector<float> normal(int64_t n, float sigma = 1) {
  std::normal_distribution<float> d(0, sigma);
  std::vector<float> out = std::vector<float>(size_t(n));
  for (float& v : out) v = d(generator);
  return out;
}

inline std::vector<bf16> halves(const std::vector<float>& v) {
  std::vector<bf16> out(v.size());
  for (size_t i = 0; i < v.size(); i++) out[i] = to_bf16(v[i]);
  return out;
}

inline std::vector<float> rounded(std::vector<float> v) {
  for (float& x : v) x = bf16_round(x);
  return v;
}

inline HostTensor host_tensor(const std::vector<float>& values, std::vector<int64_t> shape) {
  return {FileDtype::kF32, std::move(shape), values.data(), nullptr};
}

inline const char* format_name(WeightFormat f) { return f == WeightFormat::kNF4 ? "nf4" : f == WeightFormat::kBF16 ? "bf16" : "f32"; }

/// A weight in one of the formats, and the values that it stands for. NF4: equally likely codes, which is near what quantising normal
/// numbers gives and takes no time.
struct TestMatrix {
  std::vector<uint8_t> packed;
  std::vector<float> absmax, values;  // values [rows * cols]
  std::vector<bf16> b16;
  HostMatrix matrix;

  TestMatrix(WeightFormat format, int64_t rows, int64_t cols, float sigma = 0.05f) {
    const int64_t n = rows * cols;
    matrix = {format, rows, cols, nullptr, nullptr, nullptr};
    if (format == WeightFormat::kNF4) {
      constexpr float kCodeRms = 0.5172f;
      packed.resize(size_t(n / 2));
      absmax.resize(size_t(n / kNF4Block));
      const unsigned seed = generator();
      parallel_pieces(n / 2, 1 << 20, [&](int64_t begin, int64_t end) {
        std::mt19937 draw(seed + unsigned(begin >> 20));
        for (int64_t i = begin; i < end; i++) packed[size_t(i)] = uint8_t(draw());
      });
      std::uniform_real_distribution<float> scale(0.8f * sigma / kCodeRms, 1.2f * sigma / kCodeRms);
      for (float& v : absmax) v = scale(generator);
      b16.resize(size_t(n));
      nf4_dequantize_bf16(packed.data(), absmax.data(), n, b16.data());
      matrix.data = packed.data();
      matrix.absmax = absmax.data();
    } else if (format == WeightFormat::kBF16) {
      b16.resize(size_t(n));
      const unsigned seed = generator();
      parallel_pieces(n, 1 << 20, [&](int64_t begin, int64_t end) {
        std::mt19937 draw(seed + unsigned(begin >> 20));
        std::normal_distribution<float> value(0, sigma);
        for (int64_t i = begin; i < end; i++) b16[size_t(i)] = to_bf16(value(draw));
      });
      matrix.data = b16.data();
    } else {
      values = normal(n, sigma);
      matrix.data = values.data();
      return;
    }
    values.resize(size_t(n));
    std::transform(b16.begin(), b16.end(), values.begin(), to_f32);
  }
  TestMatrix(const TestMatrix&) = delete;
};

}  // namespace lorikeet::testing
