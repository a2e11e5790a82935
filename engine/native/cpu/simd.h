// Sixteen floats at a time on every instruction set: GCC vector extensions, which the compiler splits where registers are
// narrower, and intrinsics only where an instruction matters. Each file of cpu/ is compiled once per instruction set, in a
// namespace of its own (CPU_NS), so inline functions of different sets never meet.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../core/tensor.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef CPU_NS
#define CPU_NS cpu_scalar
#endif

namespace lorikeet::CPU_NS {

using f32x16 = float __attribute__((vector_size(64)));
using i32x16 = int32_t __attribute__((vector_size(64)));
using u32x16 = uint32_t __attribute__((vector_size(64)));

constexpr int kLanes = 16;

/// Elements that one multiplication takes together: pairs in bf16, single ones in f32.
template <class T>
constexpr int kPair = sizeof(T) == 2 ? 2 : 1;

inline f32x16 load(const float* p) { f32x16 v; std::memcpy(&v, p, 64); return v; }
inline void store(float* p, f32x16 v) { std::memcpy(p, &v, 64); }
inline f32x16 splat(float v) { return f32x16{} + v; }
inline f32x16 select(i32x16 mask, f32x16 a, f32x16 b) { return mask ? a : b; }
inline f32x16 max(f32x16 a, f32x16 b) { return select(a > b, a, b); }

/// The one order in which lanes are summed: halves, quarters, eighths, pairs. Every kernel that reduces must agree with it.
inline float reduce_add(f32x16 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float a[8], b[4];
  for (int i = 0; i < 8; i++) a[i] = v[i] + v[i + 8];
  for (int i = 0; i < 4; i++) b[i] = a[i] + a[i + 4];
  return (b[0] + b[2]) + (b[1] + b[3]);
#endif
}

inline float reduce_max(f32x16 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float m = v[0];
  for (int i = 1; i < 16; i++) m = v[i] > m ? v[i] : m;
  return m;
#endif
}

/// Sixteen bf16 values as floats.
inline f32x16 load_bf16(const bf16* p) {
#if defined(__AVX512F__)
  const __m256i h = _mm256_loadu_si256((const __m256i*)p);
  return (f32x16)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
#else
  u32x16 bits;
  for (int i = 0; i < 16; i++) bits[i] = uint32_t(p[i]) << 16;
  return (f32x16)bits;
#endif
}

inline void store_bf16(bf16* p, f32x16 v) {
#if defined(__AVX512BF16__)
  const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(p, &h, 32);
#else
  for (int i = 0; i < 16; i++) p[i] = to_bf16(v[i]);
#endif
}

/// acc[i] += a[2i] * b[2i] + a[2i+1] * b[2i+1] over 32 bf16 values.
inline f32x16 dot_bf16(f32x16 acc, const bf16* a, const bf16* b) {
#if defined(__AVX512BF16__)
  return (f32x16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_loadu_si512(a), (__m512bh)_mm512_loadu_si512(b));
#else
  u32x16 x, y;
  std::memcpy(&x, a, 64);
  std::memcpy(&y, b, 64);
  acc += (f32x16)(x & 0xffff0000u) * (f32x16)(y & 0xffff0000u);
  return acc + (f32x16)(x << 16) * (f32x16)(y << 16);
#endif
}

/// The same with one pair of b for all lanes: acc[i] += a[2i] * b[0] + a[2i+1] * b[1].
inline f32x16 dot_bf16_pair(f32x16 acc, const bf16* a, const bf16* pair) {
#if defined(__AVX512BF16__)
  uint32_t both;
  std::memcpy(&both, pair, 4);
  return (f32x16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_loadu_si512(a), (__m512bh)_mm512_set1_epi32(int(both)));
#else
  u32x16 x;
  std::memcpy(&x, a, 64);
  acc += (f32x16)(x & 0xffff0000u) * to_f32(pair[1]);
  return acc + (f32x16)(x << 16) * to_f32(pair[0]);
#endif
}

/// e^x to 2 ulp for x <= 88; 0 below -87.3. Cody-Waite reduction and a degree-6 polynomial (coefficients of Cephes expf).
inline f32x16 exp(f32x16 x) {
  const i32x16 underflow = x < -87.3f;
  const f32x16 clamped = select(underflow, splat(0), select(x > 88.0f, splat(88.0f), x));
  const f32x16 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const f32x16 n = (clamped * 1.44269504088896341f + magic) - magic;
  f32x16 r = clamped - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  f32x16 p = splat(1.9875691500E-4f);
  p = p * r + 1.3981999507E-3f;
  p = p * r + 8.3334519073E-3f;
  p = p * r + 4.1665795894E-2f;
  p = p * r + 1.6666665459E-1f;
  p = p * r + 5.0000001201E-1f;
  p = p * r * r + r + 1.0f;
  const i32x16 exponent = __builtin_convertvector(n, i32x16) + 127;
  return select(underflow, splat(0), p * (f32x16)(exponent << 23));
}

/// 1 - 2 / (e^2x + 1); beyond 10 it is 1 in fp32.
inline f32x16 tanh(f32x16 x) {
  const f32x16 limit = select(x > 10.0f, splat(10.0f), select(x < -10.0f, splat(-10.0f), x));
  return 1.0f - 2.0f / (exp(2.0f * limit) + 1.0f);
}

}  // namespace lorikeet::CPU_NS
