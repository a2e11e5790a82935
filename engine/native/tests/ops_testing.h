// What the tests of single operations share: tensors on a device with poison around them, and how an error is measured.
#pragma once
#include <cstdio>
#include <limits>

#include "check.h"
#include "operands.h"

namespace lorikeet::testing {

/// Bounds on the worst row's ||out - want|| / ||want||. A rounding to bf16 is off by at most 2^-8 of a value, so a row that is rounded once
/// by at most 2^-8 of its length; sums in fp32 lose less than 1e-5.
constexpr double kSums = 1e-5, kRoundedOnce = 0x1p-8 + kSums;
/// NF4 values are rounded before or after the product with absmax, here and in the reference, and outputs once more: three roundings of
/// random sign over a sum, 0.0016 each in the mean square, so 0.003. One of the 15,360 inputs of the longest sum lost or added is 0.008.
constexpr double kNf4 = 0.006;

/// A line for every check.
inline void expect(const std::string& what, double error, double bound) {
  std::printf("%-84s %.2e of %.2e\n", what.c_str(), error, bound);
  check(error <= bound, what + ": off by " + std::to_string(error));
}

/// `columns`: those that `want` has; empty: all. Infinity where a value is not finite.
inline double worst_row(const std::vector<float>& got, const std::vector<double>& want, int64_t cols,
                        const std::vector<int64_t>& columns = {}) {
  const int64_t width = columns.empty() ? cols : int64_t(columns.size()), rows = int64_t(want.size()) / width;
  double worst = 0;
  for (int64_t r = 0; r < rows; r++) {
    double off = 0, length = 1e-300;
    for (int64_t i = 0; i < width; i++) {
      const int64_t column = columns.empty() ? i : columns[size_t(i)];
      const double w = want[size_t(r * width + i)], d = got[size_t(r * cols + column)] - w;
      off += d * d;
      length += w * w;
    }
    worst = std::isfinite(off) ? std::max(worst, std::sqrt(off / length)) : std::numeric_limits<double>::infinity();
    if (std::isinf(worst)) break;
  }
  return worst;
}

inline std::vector<double> doubles(const std::vector<float>& v) { return {v.begin(), v.end()}; }

/// The first and the last sixteen of [0, n), and some between.
inline std::vector<int64_t> some_of(int64_t n, int64_t begin = 0) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < n; i++)
    if (i < 16 || i >= n - 16) out.push_back(begin + i);
  for (int i = 0; i < 16 && n > 32; i++) out.push_back(begin + 16 + int64_t(generator() % uint64_t(n - 32)));
  return out;
}

/// A matrix on a device between two more rows, its rows further apart than they are wide if asked: all that is not the matrix is NaN and
/// must stay the same bits. The first row begins at a multiple of 256 bytes, as all memory that cudaMalloc gives.
class DeviceRows {
 public:
  DeviceRows(Backend& device, DType dtype, int64_t rows, int64_t cols, bool spaced = true)
      : device_(device), dtype_(dtype), rows_(rows), cols_(cols), pitch_(size_t(cols) * size_of(dtype)) {
    if (spaced) pitch_ = (pitch_ + 255) / 256 * 256 + 256;
    front_ = (pitch_ + 255) / 256 * 256;
    bytes_.assign(front_ + size_t(rows + 1) * pitch_, kPoison);
    memory_ = device.allocate(bytes_.size());
    poison();
  }
  DeviceRows(Backend& device, DType dtype, const std::vector<float>& values, int64_t cols, bool spaced = true)
      : DeviceRows(device, dtype, int64_t(values.size()) / cols, cols, spaced) {
    put(values);
  }

  Tensor tensor() const { return {static_cast<char*>(memory_.data()) + front_, dtype_, rows_, cols_, int64_t(pitch_ / size_of(dtype_))}; }
  /// The only row of a vector that an operation takes by its address.
  const float* f32() const { return tensor().f32(); }

  void poison() {
    std::fill(bytes_.begin(), bytes_.end(), kPoison);
    device_.upload(memory_.data(), bytes_.data(), bytes_.size());
  }

  void put(const std::vector<float>& values) {
    for (int64_t r = 0; r < rows_; r++)
      for (int64_t c = 0; c < cols_; c++) {
        const float v = values[size_t(r * cols_ + c)];
        if (dtype_ == DType::kF32)
          std::memcpy(at(r, c), &v, 4);
        else if (const bf16 half = to_bf16(v); true)
          std::memcpy(at(r, c), &half, 2);
      }
    device_.upload(memory_.data(), bytes_.data(), bytes_.size());
  }

  /// The values, after a check that nothing else was written.
  std::vector<float> get(const std::string& what) {
    device_.download(bytes_.data(), memory_.data(), bytes_.size());
    std::vector<float> out(size_t(rows_ * cols_));
    for (int64_t r = 0; r < rows_; r++)
      for (int64_t c = 0; c < cols_; c++) {
        bf16 half;
        if (dtype_ == DType::kF32)
          std::memcpy(&out[size_t(r * cols_ + c)], at(r, c), 4);
        else
          std::memcpy(&half, at(r, c), 2), out[size_t(r * cols_ + c)] = to_f32(half);
      }
    bool kept = std::all_of(bytes_.begin(), bytes_.begin() + int64_t(front_), [](char c) { return c == kPoison; });
    for (int64_t r = 0; r <= rows_; r++)
      for (const char* c = r < rows_ ? at(r, cols_) : at(r, 0); c < at(r, 0) + pitch_; c++) kept &= *c == kPoison;
    check(kept, what + ": something was written beside the output");
    return out;
  }

 private:
  static constexpr char kPoison = char(0xff);  // a NaN of either type
  char* at(int64_t r, int64_t c) { return bytes_.data() + front_ + size_t(r) * pitch_ + size_t(c) * size_of(dtype_); }

  Backend& device_;
  DType dtype_;
  int64_t rows_, cols_;
  size_t pitch_, front_;
  std::vector<char> bytes_;
  Buffer memory_;
};

inline bool is_cuda(const Backend& device) { return device.name().starts_with("cuda"); }

/// "rmsnorm [31, 640]"
inline std::string sized(const char* what, int64_t rows, int64_t cols) {
  return std::string(what) + " [" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
}

/// The device under test. Without a GPU: null, after saying so; "cpu" as the argument lets the CPU stand in, which tests the test.
inline std::unique_ptr<Backend> device_under_test(int n_args, char** args) {
  if (n_args > 1 && std::string_view(args[1]) == "cpu") return make_cpu_backend({});
  if (!cuda_devices().empty()) return make_cuda_backend(0);
  std::printf("skipped: %s; the argument \"cpu\" runs the checks on the CPU\n", cuda_built() ? "no GPU here" : "built without CUDA");
  return nullptr;
}

}  // namespace lorikeet::testing
