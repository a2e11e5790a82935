// AdamW whose two moments are 8-bit codes with one scale for 256 values, as bitsandbytes' blockwise optimizer keeps them.
// Source: bitsandbytes backends/triton/kernels_optim.py.
#pragma once
#include <array>
#include <cstdint>

#include "training_ops.h"

namespace lorikeet {

constexpr int64_t kStateBlock = 256;
/// Tensors with fewer values keep 32-bit moments.
constexpr int64_t kMin8BitSize = 4096;

/// Index of the entry nearest to x; the lower one where two are equally near.
uint8_t nearest_code(const std::array<float, 256>& map, float x);

struct EightBitMoment {
  uint8_t* codes;  // [n]
  float* absmax;   // [ceil(n / 256)]
};

/// One step over n values, host memory. Same arithmetic as TrainingOps::adamw on the dequantised moments.
void adamw_8bit(float* parameter, const float* gradient, EightBitMoment exp_avg, EightBitMoment exp_avg_sq, int64_t n, const AdamW& options);

}  // namespace lorikeet
