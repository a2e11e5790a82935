// Buffer owns device memory, Tensor is a two-dimensional view of it. Every tensor of the model is [rows, cols].
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "error.h"
#include "float_types.h"

namespace lorikeet {

enum class DType : uint8_t { kF32, kBF16 };

constexpr size_t size_of(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

/// bfloat16 as its bits: the upper half of a float.
using bf16 = uint16_t;

inline float to_f32(bf16 value) { return bf16_to_f32(value); }
inline bf16 to_bf16(float value) { return f32_to_bf16(value); }

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  int64_t stride = 0;  // elements from one row to the next

  float* f32(int64_t row = 0) const { return static_cast<float*>(data) + row * stride; }
  bf16* b16(int64_t row = 0) const { return static_cast<bf16*>(data) + row * stride; }
  void* row(int64_t row) const { return static_cast<char*>(data) + row * stride * int64_t(size_of(dtype)); }

  Tensor row_range(int64_t begin, int64_t end) const { return {row(begin), dtype, end - begin, cols, stride}; }
  Tensor col_range(int64_t begin, int64_t end) const {
    return {static_cast<char*>(data) + begin * int64_t(size_of(dtype)), dtype, rows, end - begin, stride};
  }
};

/// @throws Error SHAPE_MISMATCH naming the tensor, what was expected and what came.
inline void expect_shape(const char* name, const Tensor& t, int64_t rows, int64_t cols) {
  if (t.rows == rows && t.cols == cols) return;
  throw Error("SHAPE_MISMATCH", std::string(name) + ": expected [" + std::to_string(rows) + ", " + std::to_string(cols) + "], got [" +
                                    std::to_string(t.rows) + ", " + std::to_string(t.cols) + "]");
}

inline void expect_dtype(const char* name, const Tensor& t, DType dtype) {
  if (t.dtype != dtype) throw Error("SHAPE_MISMATCH", std::string(name) + ": wrong dtype");
}

/// Device memory with a release of its own.
class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, size_t bytes, void (*release)(void*, size_t)) : data_(data), bytes_(bytes), release_(release) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept { swap(other); return *this; }
  ~Buffer() { if (data_) release_(data_, bytes_); }

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
  }
  void* data_ = nullptr;
  size_t bytes_ = 0;
  void (*release_)(void*, size_t) = nullptr;
};

}  // namespace lorikeet
