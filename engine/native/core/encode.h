// fp32 values as the element types of files that we write.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace lorikeet {

enum class FileEncoding : uint8_t { kF32, kBF16, kF16, kQ8_0 };

// "F32", "BF16", "F16", "Q8_0"; nullopt for any other.
std::optional<FileEncoding> file_encoding(std::string_view name);
// Bytes of n values; Q8_0 takes multiples of 32.
int64_t encoded_bytes(FileEncoding encoding, int64_t n);
// Ties to even; beyond the range of fp16 becomes an infinity. Q8_0 as ggml's reference quantiser writes it.
void encode(FileEncoding encoding, const float* values, int64_t n, uint8_t* out);   // [n] -> [encoded_bytes]

uint16_t f32_to_f16(float f);

}  // namespace lorikeet
