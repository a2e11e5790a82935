// Bit-exactness rests on IEEE products and sums kept apart: no fused multiply-add, whatever the build's flags are.
#pragma GCC optimize("fp-contract=off")

#include "nf4.h"

#include <algorithm>
#include <cmath>

#include "float_types.h"

namespace lorikeet {
namespace {

// bitsandbytes takes the nearest code of s = w * (1 / absmax), the lower one on a tie, comparing distances rounded to fp32. Both
// distances are monotonic in s, so that the choice between two neighbours has one exact boundary: the last s that stays below.
std::array<float, 15> make_boundaries() {
  std::array<float, 15> boundaries{};
  for (size_t k = 0; k < 15; ++k) {
    const float low = kNF4Code[k], high = kNF4Code[k + 1];
    const auto stays = [&](float s) { return std::fabs(s - low) <= std::fabs(s - high); };
    float s = (low + high) / 2;
    while (!stays(s)) s = std::nextafter(s, low);
    while (stays(std::nextafter(s, high))) s = std::nextafter(s, high);
    boundaries[k] = s;
  }
  return boundaries;
}

// Codes of one block. NaN (from 0 * inf in an all-zero block) lies above no boundary: code 0.
__attribute__((target_clones("avx512f", "avx2", "default")))
void nearest_codes(const float* __restrict weight, float inverse, const float* __restrict boundaries, int32_t* __restrict codes) {
  float scaled[kNF4Block];
  for (int64_t i = 0; i < kNF4Block; ++i) {
    scaled[i] = weight[i] * inverse;
    codes[i] = 0;
  }
  for (int k = 0; k < 15; ++k) {
    for (int64_t i = 0; i < kNF4Block; ++i) codes[i] += scaled[i] > boundaries[k] ? 1 : 0;
  }
}

// Decade i of seven holds the midpoints of 2^i equal parts of [0.1, 1] (2^(i+1) without a sign); then 0 and 1.
std::array<float, 256> make_dynamic_map(bool is_signed) {
  std::array<float, 256> map{};
  size_t n = 0;
  map[n++] = 0.0f;
  map[n++] = 1.0f;
  for (int i = 0; i < 7; ++i) {
    const int steps = (1 << (is_signed ? i : i + 1)) + 1;
    const float step = (1.0f - 0.1f) / static_cast<float>(steps - 1);
    // torch.linspace counts from the nearer end, with fused multiply-adds.
    const auto edge = [&](int j) {
      return j < steps / 2 ? static_cast<float>(0.1f + double{step} * j) : static_cast<float>(1.0 - double{step} * (steps - 1 - j));
    };
    const auto scale = static_cast<float>(std::pow(10.0, i - 6));
    for (int j = 0; j + 1 < steps; ++j) {
      const float mean = scale * ((edge(j) + edge(j + 1)) / 2.0f);
      map[n++] = mean;
      if (is_signed) map[n++] = -mean;
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

std::array<float, 256> make_nested_map() {
  std::array<float, 256> map = make_dynamic_map(true);
  map[0] = -1.0f;
  return map;
}

// Partial sums as torch's cascade sum keeps them (ATen/native/cpu/SumKernel.cpp, row_sum over vectors of 8 floats).
constexpr int64_t kLanes = 8;
using Lanes = std::array<float, kLanes>;

void add(Lanes& to, const float* from) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

// Sum of n_rows rows of four vectors, [n_rows, 4, 8].
std::array<Lanes, 4> cascade_rows(const float* x, int64_t n_rows) {
  constexpr int kLevels = 4;
  int log2 = 0;
  while ((int64_t{1} << log2) < n_rows) ++log2;
  const int power = std::max(4, log2 / kLevels);
  const int64_t step = int64_t{1} << power;
  std::array<std::array<Lanes, 4>, kLevels> acc{};
  int64_t i = 0;
  while (i + step <= n_rows) {
    for (int64_t j = 0; j < step; ++j, ++i) {
      for (size_t k = 0; k < 4; ++k) add(acc[0][k], x + (i * 4 + static_cast<int64_t>(k)) * kLanes);
    }
    for (int level = 1; level < kLevels; ++level) {
      for (size_t k = 0; k < 4; ++k) {
        add(acc[level][k], acc[level - 1][k].data());
        acc[level - 1][k] = {};
      }
      if ((i & ((step - 1) << (level * power))) != 0) break;
    }
  }
  for (; i < n_rows; ++i) {
    for (size_t k = 0; k < 4; ++k) add(acc[0][k], x + (i * 4 + static_cast<int64_t>(k)) * kLanes);
  }
  for (int level = 1; level < kLevels; ++level) {
    for (size_t k = 0; k < 4; ++k) add(acc[0][k], acc[level][k].data());
  }
  return acc[0];
}

// x.mean() as torch computes it on one x86 thread.
float torch_mean(const float* x, int64_t n) {
  const int64_t n_vectors = n / kLanes;
  auto partial = cascade_rows(x, n_vectors / 4);
  for (int64_t i = n_vectors / 4 * 4; i < n_vectors; ++i) add(partial[0], x + i * kLanes);
  for (size_t k = 1; k < 4; ++k) add(partial[0], partial[k].data());
  float sum = 0;
  for (int64_t i = n_vectors * kLanes; i < n; ++i) sum += x[i];
  for (const float lane : partial[0]) sum += lane;
  return sum / static_cast<float>(n);
}

// Nearest entry of the sorted map; the lower one on a tie. NaN (0 / 0, where every absmax is the mean) gives entry 0.
uint8_t nearest_entry(const std::array<float, 256>& map, float x) {
  if (std::isnan(x)) return 0;
  const auto above = std::upper_bound(map.begin(), map.end(), x);
  size_t i = above == map.begin() ? 0 : static_cast<size_t>(above - map.begin()) - 1;
  if (i < 255 && std::fabs(x - map[i + 1]) < std::fabs(x - map[i])) ++i;
  return static_cast<uint8_t>(i);
}

}  // namespace

void nf4_quantize(const float* weight, int64_t n, uint8_t* packed, float* absmax) {
  static const std::array<float, 15> boundaries = make_boundaries();
  int32_t codes[kNF4Block];
  for (int64_t block = 0; block < n / kNF4Block; ++block) {
    const float* w = weight + block * kNF4Block;
    float largest = 0;
    for (int64_t i = 0; i < kNF4Block; ++i) largest = std::max(largest, std::fabs(w[i]));
    absmax[block] = largest;
    nearest_codes(w, 1.0f / largest, boundaries.data(), codes);
    uint8_t* out = packed + block * kNF4Block / 2;
    for (int64_t i = 0; i < kNF4Block / 2; ++i) out[i] = static_cast<uint8_t>(codes[2 * i] << 4 | codes[2 * i + 1]);
  }
}

void nf4_dequantize(const uint8_t* packed, const float* absmax, int64_t n, float* out) {
  for (int64_t i = 0; i < n / 2; ++i) {
    const float scale = absmax[2 * i / kNF4Block];
    out[2 * i] = kNF4Code[packed[i] >> 4] * scale;
    out[2 * i + 1] = kNF4Code[packed[i] & 15] * scale;
  }
}

void nf4_dequantize_bf16(const uint8_t* packed, const float* absmax, int64_t n, uint16_t* out) {
  uint16_t value[16];
  for (int64_t block = 0; block < n / kNF4Block; ++block) {
    for (int k = 0; k < 16; ++k) value[k] = f32_to_bf16(kNF4Code[k] * absmax[block]);
    const uint8_t* in = packed + block * kNF4Block / 2;
    for (int64_t i = 0; i < kNF4Block / 2; ++i) {
      *out++ = value[in[i] >> 4];
      *out++ = value[in[i] & 15];
    }
  }
}

const std::array<float, 256>& dynamic_quant_map(bool is_signed) {
  static const std::array<float, 256> maps[] = {make_dynamic_map(false), make_dynamic_map(true)};
  return maps[is_signed];
}

const std::array<float, 256>& nested_quant_map() {
  static const std::array<float, 256> map = make_nested_map();
  return map;
}

DoubleQuant double_quantize(const float* absmax, int64_t n) {
  DoubleQuant out;
  out.map = nested_quant_map();
  out.offset = n == 0 ? 0 : torch_mean(absmax, n);
  out.q8.resize(static_cast<size_t>(n));
  for (int64_t start = 0; start < n; start += kNestedBlock) {
    const int64_t end = std::min(n, start + kNestedBlock);
    float largest = 0;
    for (int64_t i = start; i < end; ++i) largest = std::max(largest, std::fabs(absmax[i] - out.offset));
    out.nested_absmax.push_back(largest);
    for (int64_t i = start; i < end; ++i) {
      out.q8[static_cast<size_t>(i)] = nearest_entry(out.map, (absmax[i] - out.offset) / largest);
    }
  }
  return out;
}

void double_dequantize(const uint8_t* q8, const float* nested_absmax, const float* map, float offset, int64_t n, float* absmax) {
  for (int64_t i = 0; i < n; ++i) {
    const float product = map[q8[i]] * nested_absmax[i / kNestedBlock];
    absmax[i] = product + offset;
  }
}

}  // namespace lorikeet
