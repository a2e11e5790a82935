#include "encode.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "float_types.h"
#include "parallel.h"

namespace lorikeet {
namespace {

constexpr int64_t kQ8Block = 32;
constexpr int64_t kQ8Bytes = 34;           // fp16 scale, 32 int8
constexpr int64_t kPiece = 1 << 16;        // values that one thread takes at a time

void encode_q8(const float* x, uint8_t* out) {
  float largest = 0;
  for (int i = 0; i < kQ8Block; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float d = largest / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
  const uint16_t scale = f32_to_f16(d);
  std::memcpy(out, &scale, 2);
  for (int i = 0; i < kQ8Block; ++i) out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::round(x[i] * inverse)));
}

void encode_piece(FileEncoding encoding, const float* values, int64_t n, uint8_t* out) {
  switch (encoding) {
    case FileEncoding::kF32: std::memcpy(out, values, static_cast<size_t>(n) * 4); return;
    case FileEncoding::kQ8_0:
      for (int64_t b = 0; b < n / kQ8Block; ++b) encode_q8(values + b * kQ8Block, out + b * kQ8Bytes);
      return;
    default:
      for (int64_t i = 0; i < n; ++i) {
        const uint16_t half = encoding == FileEncoding::kBF16 ? f32_to_bf16(values[i]) : f32_to_f16(values[i]);
        std::memcpy(out + 2 * i, &half, 2);
      }
  }
}

}  // namespace

std::optional<FileEncoding> file_encoding(std::string_view name) {
  if (name == "F32") return FileEncoding::kF32;
  if (name == "BF16") return FileEncoding::kBF16;
  if (name == "F16") return FileEncoding::kF16;
  if (name == "Q8_0") return FileEncoding::kQ8_0;
  return std::nullopt;
}

int64_t encoded_bytes(FileEncoding encoding, int64_t n) {
  if (encoding == FileEncoding::kQ8_0) return n / kQ8Block * kQ8Bytes;
  return n * (encoding == FileEncoding::kF32 ? 4 : 2);
}

void encode(FileEncoding encoding, const float* values, int64_t n, uint8_t* out) {
  parallel_pieces(n, kPiece, [&](int64_t begin, int64_t end) {
    encode_piece(encoding, values + begin, end - begin, out + encoded_bytes(encoding, begin));
  });
}

uint16_t f32_to_f16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);   // rounds to 65536 or beyond
  if (magnitude < 0x38800000u) {                                                // subnormal: a multiple of 2^-24
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(scaled)));
  }
  const uint32_t rounded = magnitude + 0x0fffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace lorikeet
