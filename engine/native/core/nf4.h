// NF4 with blocks of 64 and its double quantisation, bit for bit as bitsandbytes' CPU code computes them.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace lorikeet {

constexpr int64_t kNF4Block = 64;          // weights that share one absmax
constexpr int64_t kNestedBlock = 256;      // absmax values that share one nested absmax

// Source: bitsandbytes functional.py, get_4bit_type("nf4").
inline constexpr float kNF4Code[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

// packed[j] = code(w[2j]) << 4 | code(w[2j+1]); absmax[b] = max |w| of block b. n is a multiple of 64.
void nf4_quantize(const float* weight, int64_t n, uint8_t* packed, float* absmax);   // [n] -> [n/2], [n/64]

// w[i] = kNF4Code[code i] * absmax[i/64], the product in fp32.
void nf4_dequantize(const uint8_t* packed, const float* absmax, int64_t n, float* out);        // [n/2], [n/64] -> [n]
// The same rounded to bf16, subnormals kept.
void nf4_dequantize_bf16(const uint8_t* packed, const float* absmax, int64_t n, uint16_t* out);

struct DoubleQuant {
  std::vector<uint8_t> q8;                 // [n]
  std::vector<float> nested_absmax;        // [ceil(n/256)]
  std::array<float, 256> map{};
  float offset = 0;                        // mean of absmax
};

// absmax[i] ~ map[q8[i]] * nested_absmax[i/256] + offset
DoubleQuant double_quantize(const float* absmax, int64_t n);
void double_dequantize(const uint8_t* q8, const float* nested_absmax, const float* map, float offset, int64_t n, float* absmax);

// bitsandbytes' dynamic 8-bit types: 256 rising values in (-1, 1] or [0, 1], dense around zero.
const std::array<float, 256>& dynamic_quant_map(bool is_signed);
// The signed 8-bit map of nested absmax as a CPU quantiser stores it: entry 0 is -1.0.
const std::array<float, 256>& nested_quant_map();

}  // namespace lorikeet
