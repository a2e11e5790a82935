// How the blocks of a resident kernel hand results to each other without a barrier: every word of the memory between them is empty until
// its writer has put a value there, and whoever needs it reads until it is no longer empty. One store and one load are the whole way; a
// counter would add a fence and another round trip. Empty is a NaN that no instruction produces (theirs is 0x7fffffff, of bf16 0x7fff).
#pragma once
#include "device.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

constexpr uint32_t kEmptyWord = 0xffffffffu;
constexpr int kMostLooks = 1 << 22;  // a second or more: the writer is gone, and an error is better than a kernel without end

__device__ inline uint32_t look(const void* from) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from));
  return v;
}
__device__ inline uint4 look4(const void* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}
__device__ inline float2 look2(const void* from) {
  float2 v;
  asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(from));
  return v;
}
/// A lane's N words, 2 or a multiple of 4, in vectors that lie beside those of the other lanes.
template <int N>
__device__ inline void look_at(uint32_t (&v)[N], const float* from, int lane) {
  if constexpr (N == 2) {
    const float2 f = look2(from + lane * 2);
    v[0] = __float_as_uint(f.x), v[1] = __float_as_uint(f.y);
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const uint4 f = look4(from + i * kWarp + lane * 4);
      v[i] = f.x, v[i + 1] = f.y, v[i + 2] = f.z, v[i + 3] = f.w;
    }
  }
}
__device__ inline bool is_empty(uint32_t v) { return v == kEmptyWord; }
__device__ inline bool is_empty(const float2& v) { return is_empty(__float_as_uint(v.x)) || is_empty(__float_as_uint(v.y)); }
__device__ inline bool is_empty(const uint4& v) { return max(max(v.x, v.y), max(v.z, v.w)) == kEmptyWord; }

__device__ inline void give_up_after(int& looks) {
  if (++looks > kMostLooks) __trap();
  __nanosleep(40);
}

/// A warp looks until no lane has found an empty word: f() looks and says so. All lanes go round together, so they stay together.
template <class F>
__device__ inline void look_until_full(F f) {
  for (int looks = 0; __any_sync(0xffffffffu, f()); give_up_after(looks)) {
  }
}

/// N words, word i at from + i * stride.
template <int N>
__device__ inline void await(float (&v)[N], const float* from, int stride) {
  look_until_full([&] {
    bool empty = false;
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = __uint_as_float(look(from + i * stride));
#pragma unroll
    for (int i = 0; i < N; i++) empty |= is_empty(__float_as_uint(v[i]));
    return empty;
  });
}

__device__ inline void publish(void* to, uint32_t v) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(v) : "memory"); }
__device__ inline void publish(void* to, float v) { publish(to, __float_as_uint(v)); }
__device__ inline void publish(void* to, float2 v) {
  asm volatile("st.relaxed.gpu.global.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(v.x), "f"(v.y) : "memory");
}

}  // namespace lorikeet::cuda
#endif
