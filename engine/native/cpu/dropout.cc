// Which elements are dropped, as a function of seed, token, module and element alone: forward, recomputation and backward agree on any
// number of threads. Element i of token t is word i % 64 / 16 of philox(seed, token_counter + t, module | j << 32), j = i / 64 * 16 + i % 16:
// sixteen counters at a time give sixty-four neighbours. Kept where the word is at least p 2^32.
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

template <class T>
void drop(T* out, const T* x, int64_t n, int64_t t, const Dropout& d) {
  const uint32_t threshold = uint32_t(std::min(double(d.p) * 4294967296.0, 4294967295.0));
  const float keep = 1.0f / (1.0f - d.p);
  const u32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int64_t i = 0; i < n; i += 64) {
    u32x16 words[4];
    philox16(d.seed, d.token_counter + uint64_t(t), d.module, lanes + uint32_t(i / 4), words);
    for (int64_t w = 0; w < 4 && i + w * kLanes < n; w++) {
      const int64_t at = i + w * kLanes;
      const f32x16 factor = select((i32x16)(words[w] < threshold), splat(0), splat(keep));
      if (at + kLanes <= n) store_from_f32(out + at, load_as_f32(x + at) * factor);
      else for (int64_t l = 0; at + l < n; l++) out[at + l] = from_f32<T>(as_f32(x[at + l]) * factor[l]);
    }
  }
}

}  // namespace

void dropout_row(float* out, const float* x, int64_t n, int64_t t, const Dropout& d) { drop(out, x, n, t, d); }
void dropout_row(bf16* out, const bf16* x, int64_t n, int64_t t, const Dropout& d) { drop(out, x, n, t, d); }

}  // namespace lorikeet::CPU_NS
