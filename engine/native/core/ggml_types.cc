// Bit-exactness rests on products and sums kept apart: no fused multiply-add, whatever the build's flags are.
#pragma GCC optimize("fp-contract=off")

#include "ggml_types.h"

#include <cstring>

#include "float_types.h"

namespace lorikeet {
namespace {

constexpr GgmlTypeInfo kTypes[] = {
    {GgmlType::kF32, "F32", 1, 4},        {GgmlType::kF16, "F16", 1, 2},        {GgmlType::kBF16, "BF16", 1, 2},
    {GgmlType::kQ4_0, "Q4_0", 32, 18},    {GgmlType::kQ4_1, "Q4_1", 32, 20},    {GgmlType::kQ5_0, "Q5_0", 32, 22},
    {GgmlType::kQ5_1, "Q5_1", 32, 24},    {GgmlType::kQ8_0, "Q8_0", 32, 34},    {GgmlType::kQ4_K, "Q4_K", 256, 144},
    {GgmlType::kQ5_K, "Q5_K", 256, 176},  {GgmlType::kQ6_K, "Q6_K", 256, 210},
};

uint16_t load16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, 2);
  return value;
}

uint32_t load32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

float half(const uint8_t* p) { return f16_to_f32(load16(p)); }

// Blocks of 32: fp16 d, q4 [16]; element j is the low nibble of byte j, element j + 16 the high one.
void q4_0(const uint8_t* p, float* out) {
  const float d = half(p);
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<float>((p[2 + j] & 15) - 8) * d;
    out[j + 16] = static_cast<float>((p[2 + j] >> 4) - 8) * d;
  }
}

// fp16 d, fp16 m, q4 [16]
void q4_1(const uint8_t* p, float* out) {
  const float d = half(p), m = half(p + 2);
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<float>(p[4 + j] & 15) * d + m;
    out[j + 16] = static_cast<float>(p[4 + j] >> 4) * d + m;
  }
}

// Bit j of `high` is bit 4 of element j.
int q5(uint8_t nibble, uint32_t high, int element) { return nibble | static_cast<int>(high >> element & 1) << 4; }

// fp16 d, u32 high bits, q4 [16]
void q5_0(const uint8_t* p, float* out) {
  const float d = half(p);
  const uint32_t high = load32(p + 2);
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<float>(q5(p[6 + j] & 15, high, j) - 16) * d;
    out[j + 16] = static_cast<float>(q5(p[6 + j] >> 4, high, j + 16) - 16) * d;
  }
}

// fp16 d, fp16 m, u32 high bits, q4 [16]
void q5_1(const uint8_t* p, float* out) {
  const float d = half(p), m = half(p + 2);
  const uint32_t high = load32(p + 4);
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<float>(q5(p[8 + j] & 15, high, j)) * d + m;
    out[j + 16] = static_cast<float>(q5(p[8 + j] >> 4, high, j + 16)) * d + m;
  }
}

// fp16 d, i8 [32]
void q8_0(const uint8_t* p, float* out) {
  const float d = half(p);
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(static_cast<int8_t>(p[2 + j])) * d;
}

// Sub-block `j` of eight: its 6-bit scale and minimum out of the 12 bytes that K-quants pack them into.
void scale_and_min(const uint8_t* s, int j, float& scale, float& minimum) {
  const int low = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
  const int high = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4;
  scale = static_cast<float>(low);
  minimum = static_cast<float>(high);
}

// Blocks of 256: fp16 d, fp16 dmin, scales [12], q4 [128]; 32 bytes hold two sub-blocks, low nibbles first.
void q4_k(const uint8_t* p, float* out) {
  const float d = half(p), dmin = half(p + 2);
  for (int j = 0; j < 8; ++j) {
    float scale, minimum;
    scale_and_min(p + 4, j, scale, minimum);
    const float step = d * scale, offset = dmin * minimum;
    const uint8_t* q = p + 16 + j / 2 * 32;
    for (int i = 0; i < 32; ++i) out[j * 32 + i] = step * static_cast<float>(j % 2 == 0 ? q[i] & 15 : q[i] >> 4) - offset;
  }
}

// fp16 d, fp16 dmin, scales [12], high bits [32] (bit j of byte i: element i of sub-block j), q4 [128]
void q5_k(const uint8_t* p, float* out) {
  const float d = half(p), dmin = half(p + 2);
  for (int j = 0; j < 8; ++j) {
    float scale, minimum;
    scale_and_min(p + 4, j, scale, minimum);
    const float step = d * scale, offset = dmin * minimum;
    const uint8_t* q = p + 48 + j / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int nibble = j % 2 == 0 ? q[i] & 15 : q[i] >> 4;
      out[j * 32 + i] = step * static_cast<float>(nibble | (p[16 + i] >> j & 1) << 4) - offset;
    }
  }
}

// q low nibbles [128], high bit pairs [64], i8 scales [16], fp16 d. Each half of 128 elements: four runs of 32.
void q6_k(const uint8_t* p, float* out) {
  const float d = half(p + 208);
  for (int n = 0; n < 2; ++n) {
    const uint8_t *low = p + n * 64, *high = p + 128 + n * 32;
    for (int run = 0; run < 4; ++run) {
      for (int i = 0; i < 32; ++i) {
        const uint8_t byte = low[i + run % 2 * 32];
        const int nibble = run < 2 ? byte & 15 : byte >> 4;
        const int q = (nibble | (high[i] >> (2 * run) & 3) << 4) - 32;
        const auto scale = static_cast<float>(static_cast<int8_t>(p[192 + n * 8 + run * 2 + i / 16]));
        out[n * 128 + run * 32 + i] = d * scale * static_cast<float>(q);
      }
    }
  }
}

void plain(GgmlType type, const uint8_t* p, float* out) {
  if (type == GgmlType::kF32) std::memcpy(out, p, 4);
  else *out = type == GgmlType::kF16 ? half(p) : bf16_to_f32(load16(p));
}

}  // namespace

const GgmlTypeInfo* ggml_type_info(uint32_t type) {
  for (const GgmlTypeInfo& info : kTypes) {
    if (static_cast<uint32_t>(info.type) == type) return &info;
  }
  return nullptr;
}

const GgmlTypeInfo* ggml_type_info(std::string_view name) {
  for (const GgmlTypeInfo& info : kTypes) {
    if (name == info.name) return &info;
  }
  return nullptr;
}

void ggml_dequantize(GgmlType type, const uint8_t* raw, int64_t n, float* out) {
  const GgmlTypeInfo& info = *ggml_type_info(static_cast<uint32_t>(type));
  for (int64_t i = 0; i < n / info.block; ++i, raw += info.bytes, out += info.block) {
    switch (type) {
      case GgmlType::kQ4_0: q4_0(raw, out); break;
      case GgmlType::kQ4_1: q4_1(raw, out); break;
      case GgmlType::kQ5_0: q5_0(raw, out); break;
      case GgmlType::kQ5_1: q5_1(raw, out); break;
      case GgmlType::kQ8_0: q8_0(raw, out); break;
      case GgmlType::kQ4_K: q4_k(raw, out); break;
      case GgmlType::kQ5_K: q5_k(raw, out); break;
      case GgmlType::kQ6_K: q6_k(raw, out); break;
      default: plain(type, raw, out);
    }
  }
}

}  // namespace lorikeet
