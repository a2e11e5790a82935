// A tensor as it lies in a file or a host buffer: dtype, shape, bytes and what keeps them alive. No arithmetic.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace lorikeet {

// Every dtype of the safetensors format that fills whole bytes, widest first.
enum class FileDtype : uint8_t { kI64, kU64, kF64, kI32, kU32, kF32, kI16, kU16, kF16, kBF16, kI8, kU8, kF8E4M3, kF8E5M2, kBool };

std::string shape_text(const std::vector<int64_t>& shape);   // "[2, 128]"
const char* dtype_name(FileDtype dtype);   // "F32", "BF16", ... as safetensors spells it
int64_t dtype_bytes(FileDtype dtype);
inline bool is_float(FileDtype d) { return d == FileDtype::kF32 || d == FileDtype::kBF16 || d == FileDtype::kF16; }

struct HostTensor {
  FileDtype dtype = FileDtype::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;              // row-major, little-endian; aligned to the dtype
  std::shared_ptr<const void> owner;       // keeps `data` alive

  bool empty() const { return data == nullptr; }
  int64_t numel() const;
  int64_t bytes() const { return numel() * dtype_bytes(dtype); }
};

// out[i] = element i of an F32, BF16 or F16 tensor, exact.
void to_float(const HostTensor& tensor, float* out);        // out [numel]
std::vector<float> to_float(const HostTensor& tensor);
void to_float(FileDtype dtype, const void* data, int64_t n, float* out);

}  // namespace lorikeet
