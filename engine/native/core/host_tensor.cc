#include "host_tensor.h"

#include <cstring>

#include "error.h"
#include "float_types.h"

namespace lorikeet {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return out + "]";
}

const char* dtype_name(FileDtype dtype) {
  static constexpr const char* kNames[] = {"I64", "U64", "F64", "I32", "U32", "F32", "I16", "U16",
                                           "F16", "BF16", "I8", "U8", "F8_E4M3", "F8_E5M2", "BOOL"};
  return kNames[static_cast<int>(dtype)];
}

int64_t dtype_bytes(FileDtype dtype) {
  static constexpr int8_t kBytes[] = {8, 8, 8, 4, 4, 4, 2, 2, 2, 2, 1, 1, 1, 1, 1};
  return kBytes[static_cast<int>(dtype)];
}

int64_t HostTensor::numel() const {
  if (empty()) return 0;
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

void to_float(FileDtype dtype, const void* data, int64_t n, float* out) {
  const auto* half = static_cast<const uint16_t*>(data);
  switch (dtype) {
    case FileDtype::kF32:
      if (n > 0) std::memcpy(out, data, static_cast<size_t>(n) * 4);
      return;
    case FileDtype::kBF16:
      for (int64_t i = 0; i < n; ++i) out[i] = bf16_to_f32(half[i]);
      return;
    case FileDtype::kF16:
      for (int64_t i = 0; i < n; ++i) out[i] = f16_to_f32(half[i]);
      return;
    default: throw Error("FILE_INVALID", std::string("a tensor of dtype ") + dtype_name(dtype) + " where F32, BF16 or F16 is needed");
  }
}

void to_float(const HostTensor& tensor, float* out) { to_float(tensor.dtype, tensor.data, tensor.numel(), out); }

std::vector<float> to_float(const HostTensor& tensor) {
  std::vector<float> out(static_cast<size_t>(tensor.numel()));
  to_float(tensor, out.data());
  return out;
}

}  // namespace lorikeet
