// The weight encodings of GGUF files, turned back into fp32 exactly as ggml's reference code does.
#pragma once

#include <cstdint>
#include <string_view>

namespace lorikeet {

// Numbers as in the file format.
enum class GgmlType : uint32_t {
  kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ5_0 = 6, kQ5_1 = 7, kQ8_0 = 8, kQ4_K = 12, kQ5_K = 13, kQ6_K = 14, kBF16 = 30
};

struct GgmlTypeInfo {
  GgmlType type;
  const char* name;                        // "Q4_K"
  int64_t block;                           // elements of a block: 1, 32 or 256
  int64_t bytes;                           // bytes of a block
};

const GgmlTypeInfo* ggml_type_info(uint32_t type);            // nullptr when not one of those above
const GgmlTypeInfo* ggml_type_info(std::string_view name);

// raw [n / block * bytes] -> out [n]; n is a multiple of the block.
void ggml_dequantize(GgmlType type, const uint8_t* raw, int64_t n, float* out);

}  // namespace lorikeet
