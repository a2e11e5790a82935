// Data, tolerances and references that the tests of training operations share.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <random>

#include "../core/backend.h"
#include "check.h"

namespace lorikeet::testing {

using Values = std::vector<double>;

inline std::mt19937 generator(11);

inline std::vector<float> normal(int64_t n, float sigma = 1) {
  std::normal_distribution<float> d(0, sigma);
  std::vector<float> out(n);
  for (float& v : out) v = d(generator);
  return out;
}

inline std::vector<float> rounded(std::vector<float> v) {
  for (float& x : v) x = bf16_round(x);
  return v;
}

inline Values doubles(const std::vector<float>& v) { return Values(v.begin(), v.end()); }

/// A matrix in the activations' dtype. Its values must be exact there.
struct Rows {
  std::vector<float> values;
  std::vector<bf16> halves;
  DType dtype;
  int64_t cols;

  Rows(DType act, std::vector<float> v, int64_t cols_) : values(std::move(v)), dtype(act), cols(cols_) {
    if (act == DType::kBF16)
      for (float x : values) halves.push_back(to_bf16(x));
  }
  Rows(DType act, int64_t rows, int64_t cols_) : Rows(act, std::vector<float>(rows * cols_), cols_) {}
  Tensor tensor() {
    return {dtype == DType::kBF16 ? (void*)halves.data() : (void*)values.data(), dtype, int64_t(values.size()) / cols, cols, cols};
  }
  std::vector<float> read() const {
    if (dtype == DType::kF32) return values;
    std::vector<float> out;
    for (bf16 h : halves) out.push_back(to_f32(h));
    return out;
  }
};

inline Tensor view(std::vector<float>& v, int64_t cols) { return {v.data(), DType::kF32, cols ? int64_t(v.size()) / cols : 0, cols, cols}; }

inline double largest(const Values& v) {
  double scale = 1e-30;
  for (double x : v) scale = std::max(scale, std::fabs(x));
  return scale;
}

constexpr double kNoise = 1e-2;  // gradients are of order one where they are not nothing, as of a score with one key

/// Largest difference over the largest entry wanted.
inline double worst(const std::vector<float>& got, const Values& want, double floor = 1e-30) {
  double off = 0;
  for (size_t i = 0; i < want.size(); i++) {
    if (std::isnan(got[i])) return 1e30;
    off = std::max(off, std::fabs(got[i] - want[i]));
  }
  return off / std::max(floor, largest(want));
}

/// Tolerances: sums of exact products in fp32; operands rounded once to bf16 inside an op; several roundings one after another.
constexpr double kSum = 1e-5, kRounded = 6e-3, kRoundedTwice = 1.5e-2;

struct Setting {
  std::string name;
  std::unique_ptr<Backend> backend;
  TrainingOps* ops;
  DType act;
  bool half() const { return act == DType::kBF16; }
  double rounded_tolerance(double of_bf16) const { return half() ? of_bf16 : kSum; }
};

/// One named input of a function under test, and the gradient that an op gave for it, per setting.
using Forward = std::function<Values(const std::vector<Values>&)>;

/// Gradient of sum(out * dout) by input `which`, at some of its elements (all of a small one), by central differences in double.
struct Differences {
  std::vector<int64_t> at;
  Values want;

  Differences(const Forward& forward, std::vector<Values> inputs, size_t which, const std::vector<float>& dout, int n_samples = 24) {
    const int64_t n = int64_t(inputs[which].size());
    if (n <= n_samples) {
      at.resize(n);
      std::iota(at.begin(), at.end(), 0);
    } else {
      at = {0, n - 1};
      while (int(at.size()) < n_samples) at.push_back(int64_t(generator() % uint64_t(n)));
    }
    for (int64_t i : at) {
      const double x = inputs[which][i], h = 1e-4;
      const auto value = [&](double v) {
        inputs[which][i] = v;
        const Values out = forward(inputs);
        double sum = 0;
        for (size_t j = 0; j < out.size(); j++) sum += out[j] * dout[j];
        return sum;
      };
      const double high = value(x + h), low = value(x - h);
      inputs[which][i] = x;
      want.push_back((high - low) / (2 * h));
    }
  }

  void compare(const std::string& what, const std::vector<float>& got, double tolerance) const {
    double off = 0, scale = std::max(kNoise, largest(want));
    for (float g : got) scale = std::max(scale, double(std::fabs(g)));
    for (size_t i = 0; i < at.size(); i++) off = std::max(off, std::isnan(got[at[i]]) ? 1e30 : std::fabs(got[at[i]] - want[i]));
    check(off / scale < tolerance, what + " differs from differences by " + std::to_string(off / scale));
  }
};

/// Runs `op` on every setting, twice: the same bytes each time, and every element near the first setting's (scalar fp32, checked above).
inline void on_every_setting(std::vector<Setting>& settings, const std::string& what, double of_bf16,
                      const std::function<std::vector<std::vector<float>>(Setting&)>& op,
                      const std::function<void(Setting&, const std::vector<std::vector<float>>&)>& compare) {
  std::vector<std::vector<float>> plain;
  for (Setting& s : settings) {
    const auto first = op(s), second = op(s);
    for (size_t i = 0; i < first.size(); i++)
      check(first[i].empty() || std::memcmp(first[i].data(), second[i].data(), first[i].size() * 4) == 0,
            s.name + " " + what + ": the same bytes twice");
    if (plain.empty()) plain = first;
    for (size_t i = 0; i < first.size(); i++) {
      const double off = worst(first[i], doubles(plain[i]), kNoise);
      check(off < s.rounded_tolerance(of_bf16),
            s.name + " " + what + " result " + std::to_string(i) + " differs from plain code by " + std::to_string(off));
    }
    compare(s, first);
  }
}

/// fp32 first, of each the plain code first: what the others are compared with.
inline std::vector<Setting> every_setting() {
  std::vector<Setting> settings;
  std::vector<std::string> isas = cpu_isas();
  std::reverse(isas.begin(), isas.end());
  for (const bool fp32 : {true, false})
    for (const std::string& isa : isas) {
      auto backend = make_cpu_backend({isa, 2, fp32});
      TrainingOps* ops = backend->training();
      settings.push_back({isa + (fp32 ? " fp32" : " bf16"), std::move(backend), ops, fp32 ? DType::kF32 : DType::kBF16});
    }
  return settings;
}

}  // namespace lorikeet::testing
