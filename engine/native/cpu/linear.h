// The CPU's layout of a frozen weight, and the dot products that every matrix product of this backend is made of.
#pragma once
#include <memory>
#include <vector>

#include "../core/backend.h"
#include "../core/nf4.h"
#include "simd.h"

namespace lorikeet::CPU_NS {

constexpr int kGroup = 4;            // rows that are multiplied together
constexpr int64_t kBlock = 64;       // weights of one absmax
constexpr int64_t kBlockBytes = 32;

/// NF4 in groups of kGroup rows, block by block, so that a pass over a group reads memory in order:
/// codes [n/4][K/64][4][32] (low nibble = element j, high nibble = element 32 + j of the block), absmax [n/4][K/64][4].
/// Other formats are row-major.
struct LinearCpu : Linear {
  WeightFormat format = WeightFormat::kBF16;
  const void* data = nullptr;     // codes, bf16 [n, K] or f32 [n, K]
  const float* absmax = nullptr;
  Buffer owned;                   // data (and absmax) where they are ours
  std::shared_ptr<const void> mapped;

  const uint8_t* codes(int64_t group) const { return static_cast<const uint8_t*>(data) + group * (cols / kBlock) * kGroup * kBlockBytes; }
  const float* scales(int64_t group) const { return absmax + group * (cols / kBlock) * kGroup; }
};

std::unique_ptr<Linear> make_linear_cpu(std::span<const HostMatrix> parts, bool fp32);

/// Rows [begin, end) of a weight as plain row-major values: in place where they lie so, else expanded into scratch.
/// begin and end are multiples of kGroup.
const bf16* rows_bf16(const LinearCpu& w, int64_t begin, int64_t end, std::vector<bf16>& scratch);
const float* rows_f32(const LinearCpu& w, int64_t begin, int64_t end, std::vector<float>& scratch);

void linear_cpu(Tensor out, Tensor x, const LinearCpu& w, std::span<const LoraPart> adapters = {});

#if defined(__AVX512BF16__)
/// Thirty-two elements twice (low and high nibbles) of one block, as bf16 exactly as bitsandbytes rounds them: the block's
/// sixteen possible values are rounded once and looked up. vpermw reads five index bits, so the table stands twice.
struct Nf4Block {
  __m512bh low, high;
  Nf4Block(const uint8_t* codes, float absmax) {
    const __m512 values = _mm512_mul_ps(_mm512_loadu_ps(kNF4Code), _mm512_set1_ps(absmax));
    const __m512i table = _mm512_broadcast_i64x4((__m256i)_mm512_cvtneps_pbh(values));
    const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)codes));
    low = (__m512bh)_mm512_permutexvar_epi16(words, table);
    high = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table);
  }
};
#endif

/// Sixty-four weights of one block, rounded to bf16 as bitsandbytes rounds them.
inline void expand_block(const uint8_t* codes, float absmax, bf16* out) {
#if defined(__AVX512BF16__)
  const Nf4Block block(codes, absmax);
  _mm512_storeu_si512(out, (__m512i)block.low);
  _mm512_storeu_si512(out + 32, (__m512i)block.high);
#else
  bf16 table[16];
  for (int i = 0; i < 16; i++) table[i] = to_bf16(kNF4Code[i] * absmax);
  for (int j = 0; j < 32; j++) {
    out[j] = table[codes[j] & 15];
    out[32 + j] = table[codes[j] >> 4];
  }
#endif
}

inline void expand_block(const uint8_t* codes, float absmax, float* out) {
  float table[16];
  for (int i = 0; i < 16; i++) table[i] = to_f32(to_bf16(kNF4Code[i] * absmax));
  for (int j = 0; j < 32; j++) {
    out[j] = table[codes[j] & 15];
    out[32 + j] = table[codes[j] >> 4];
  }
}

#if defined(LORIKEET_HAS_AMX)
/// linear_amx.cc: bf16 products on tiles.
bool amx_allowed();
void linear_amx(Tensor out, Tensor x, const LinearCpu& w, std::span<const LoraPart> adapters);
#endif

/// Element types of a dot product: how many elements one step takes, and the step.
struct DotBf16 {
  using T = bf16;
  static constexpr int kStep = 32;
  static f32x16 step(f32x16 acc, const T* w, const T* x) { return dot_bf16(acc, w, x); }
};
struct DotF32 {
  using T = float;
  static constexpr int kStep = 16;
  static f32x16 step(f32x16 acc, const T* w, const T* x) { return acc + load(w) * load(x); }
};

/// Sums of four accumulators at once, each in reduce_add's order. By value: accumulators stay in registers.
inline void reduce_add4(f32x16 acc0, f32x16 acc1, f32x16 acc2, f32x16 acc3, float* out) {
#if defined(__AVX512F__)
  const __m512 a = (__m512)acc0, b = (__m512)acc1, c = (__m512)acc2, d = (__m512)acc3;
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  __m512 q = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  q = _mm512_add_ps(q, _mm512_permute_ps(q, 0x4e));
  q = _mm512_add_ps(q, _mm512_permute_ps(q, 0xb1));
  const __m512i pick = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(pick, q)));
#else
  out[0] = reduce_add(acc0);
  out[1] = reduce_add(acc1);
  out[2] = reduce_add(acc2);
  out[3] = reduce_add(acc3);
#endif
}

/// out[m][r] = w[r] . x[m] for kGroup rows and M tokens over K elements. The sum of each output is one chain over K,
/// whatever M is: that is what makes a row independent of its batch.
template <class Dot, int M>
inline void dot_tile(const typename Dot::T* w, int64_t w_stride, const typename Dot::T* x, int64_t x_stride, int64_t K, float* out,
                     int64_t out_stride) {
  f32x16 acc[M][kGroup];  // loops are unrolled whole, or accumulators would live in memory before and after
#pragma GCC unroll 6
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int r = 0; r < kGroup; r++) acc[m][r] = f32x16{};
  for (int64_t k = 0; k < K; k += Dot::kStep) {
#pragma GCC unroll 6
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
      for (int r = 0; r < kGroup; r++) acc[m][r] = Dot::step(acc[m][r], w + r * w_stride + k, x + m * x_stride + k);
  }
#pragma GCC unroll 6
  for (int m = 0; m < M; m++) reduce_add4(acc[m][0], acc[m][1], acc[m][2], acc[m][3], out + m * out_stride);
}

/// One row's product with one token, by the chain of sums that its group has.
template <class Dot>
inline float dot_row_alone(const typename Dot::T* w, const typename Dot::T* x, int64_t K) {
  float out[kGroup];
  dot_tile<Dot, 1>(w, 0, x, 0, K, out, 0);
  return out[0];
}

/// dot_tile for any number of tokens; `w` should stay in cache over the calls.
template <class Dot>
inline void dot_rows(const typename Dot::T* w, int64_t w_stride, const typename Dot::T* x, int64_t x_stride, int64_t n_tokens, int64_t K,
                     float* out, int64_t out_stride) {
  int64_t t = 0;
  for (; t + 6 <= n_tokens; t += 6) dot_tile<Dot, 6>(w, w_stride, x + t * x_stride, x_stride, K, out + t * out_stride, out_stride);
  const auto* xt = x + t * x_stride;
  float* ot = out + t * out_stride;
  switch (n_tokens - t) {
    case 1: return dot_tile<Dot, 1>(w, w_stride, xt, x_stride, K, ot, out_stride);
    case 2: return dot_tile<Dot, 2>(w, w_stride, xt, x_stride, K, ot, out_stride);
    case 3: return dot_tile<Dot, 3>(w, w_stride, xt, x_stride, K, ot, out_stride);
    case 4: return dot_tile<Dot, 4>(w, w_stride, xt, x_stride, K, ot, out_stride);
    case 5: return dot_tile<Dot, 5>(w, w_stride, xt, x_stride, K, ot, out_stride);
    default: return;
  }
}

}  // namespace lorikeet::CPU_NS
