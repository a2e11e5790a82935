// Which elements are dropped, as a function of seed, token, module and element alone: forward, recomputation and backward agree on any
// number of threads. Element i of token t is word i % 64 / 16 of philox(seed, token_counter + t, module | j << 32), j = i / 64 * 16 + i % 16:
// sixteen counters at a time give sixty-four neighbours. Kept where the word is at least p 2^32. Drawing costs more than dropping, so
// the bits that a forward pass has drawn are kept for its backward pass.
#include <algorithm>

#include "../core/philox.h"
#include "gemm.h"
#include "training.h"

namespace lorikeet::CPU_NS {
namespace {

/// High and low halves of sixteen products x * m.
inline void multiply(u32x16 x, uint32_t m, u32x16& high, u32x16& low) {
#if defined(__AVX512F__)
  const __m512i v = (__m512i)x, by = _mm512_set1_epi64(m);
  const __m512i even = _mm512_mul_epu32(v, by), odd = _mm512_mul_epu32(_mm512_srli_epi64(v, 32), by);
  high = (u32x16)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
  low = (u32x16)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
#else
  for (int i = 0; i < kLanes; i++) {
    const uint64_t product = uint64_t(x[i]) * m;
    high[i] = uint32_t(product >> 32);
    low[i] = uint32_t(product);
  }
#endif
}

/// philox.h's function for sixteen streams; words [4].
inline void philox16(uint64_t seed, uint64_t counter, uint32_t module, u32x16 j, u32x16* c) {
  c[0] = u32x16{} + uint32_t(counter);
  c[1] = u32x16{} + uint32_t(counter >> 32);
  c[2] = u32x16{} + module;
  c[3] = j;
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    u32x16 high0, low0, high1, low1;
    multiply(c[0], 0xD2511F53u, high0, low0);
    multiply(c[2], 0xCD9E8D57u, high1, low1);
    c[0] = high1 ^ c[1] ^ k0;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ k1;
    c[3] = low0;
  }
}

/// Bit i of the result: lane i of the mask is set.
inline uint64_t lane_bits(i32x16 mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif defined(__AVX2__)
  __m256 halves[2];
  std::memcpy(halves, &mask, 64);
  return uint64_t(uint32_t(_mm256_movemask_ps(halves[0])) | uint32_t(_mm256_movemask_ps(halves[1])) << 8);
#else
  uint64_t bits = 0;
  for (int i = 0; i < kLanes; i++) bits |= uint64_t(mask[i] & 1) << i;
  return bits;
#endif
}

/// bits [ceil(n / 64)] of token t: set where the element is kept.
void draw_row(uint64_t* bits, int64_t n, int64_t t, const Dropout& d) {
  const uint32_t threshold = uint32_t(std::min(double(d.p) * 4294967296.0, 4294967295.0));
  const u32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int64_t i = 0; i < n; i += 64) {
    u32x16 words[4];
    philox16(d.seed, d.token_counter + uint64_t(t), d.module, lanes + uint32_t(i / 4), words);
    uint64_t kept = 0;
    for (int w = 0; w < 4; w++) kept |= lane_bits((i32x16)(words[w] >= threshold)) << (w * kLanes);
    bits[i / 64] = kept;
  }
}

bool same(const Dropout& a, const Dropout& b) {
  return a.p == b.p && a.seed == b.seed && a.token_counter == b.token_counter && a.module == b.module;
}

template <class T>
void drop(T* out, const T* x, int64_t n, const uint64_t* bits, float p) {
  const float keep = 1.0f / (1.0f - p);
  const u32x16 bit = (u32x16{} + 1u) << u32x16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int64_t i = 0; i < n; i += kLanes) {
    const uint32_t kept = uint32_t(bits[i / 64] >> (i % 64)) & 0xffff;
    const f32x16 factor = select((i32x16)((bit & kept) != 0u), splat(keep), splat(0));
    if (i + kLanes <= n) store_from_f32(out + i, load_as_f32(x + i) * factor);
    else for (int64_t l = 0; i + l < n; l++) out[i + l] = from_f32<T>(as_f32(x[i + l]) * factor[l]);
  }
}

}  // namespace

const uint64_t* dropout_masks(TrainingContext& context, int64_t T, int64_t n, const Dropout& d) {
  constexpr size_t kMostKept = 64 << 20;  // bytes of all modules
  const int64_t words = (n + 63) / 64;
  DropoutMasks& masks = context.masks[d.module];
  if (masks.n_tokens == T && masks.n == n && same(masks.dropout, d)) return masks.bits.data();
  const size_t bytes = size_t(T * words) * 8, others = context.mask_bytes - masks.bits.capacity() * 8;
  const bool is_kept = others + bytes <= kMostKept;
  if (is_kept) {
    masks.n_tokens = 0;  // what it held is no more, whatever follows
    masks.bits.resize(size_t(T * words));
    context.mask_bytes = others + masks.bits.capacity() * 8;
  }
  uint64_t* bits = is_kept ? masks.bits.data() : context.arena.take<uint64_t>(T * words);
#pragma omp parallel for if (T > 4)
  for (int64_t t = 0; t < T; t++) draw_row(bits + t * words, n, t, d);
  if (is_kept) masks = {d, T, n, std::move(masks.bits)};
  return bits;
}

void dropout_row(float* out, const float* x, int64_t n, const uint64_t* bits, float p) { drop(out, x, n, bits, p); }
void dropout_row(bf16* out, const bf16* x, int64_t n, const uint64_t* bits, float p) { drop(out, x, n, bits, p); }

}  // namespace lorikeet::CPU_NS
