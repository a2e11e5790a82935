// Consecutive elements of f32 or bf16 rows as floats, in loads and stores of up to 16 bytes. Addresses are multiples of their size.
#pragma once
#include "device.h"

namespace lorikeet::cuda {

template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T v[N];
};

template <int N>
__device__ inline void load(float (&v)[N], const float* from) {
  const auto pack = *reinterpret_cast<const Pack<float, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; i++) v[i] = pack.v[i];
}

template <int N>
__device__ inline void load(float (&v)[N], const nv_bf16* from) {
  const auto pack = *reinterpret_cast<const Pack<uint16_t, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; i++) v[i] = __uint_as_float(uint32_t(pack.v[i]) << 16);
}

template <int N>
__device__ inline void store(float* to, const float (&v)[N]) {
  Pack<float, N> pack;
#pragma unroll
  for (int i = 0; i < N; i++) pack.v[i] = v[i];
  *reinterpret_cast<Pack<float, N>*>(to) = pack;
}

template <int N>
__device__ inline void store(nv_bf16* to, const float (&v)[N]) {
  Pack<uint16_t, N> pack;
#pragma unroll
  for (int i = 0; i < N; i++) pack.v[i] = __bfloat16_as_ushort(__float2bfloat16(v[i]));
  *reinterpret_cast<Pack<uint16_t, N>*>(to) = pack;
}

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(nv_bf16 v) { return __bfloat162float(v); }
__device__ inline void store(float* to, float v) { *to = v; }
__device__ inline void store(nv_bf16* to, float v) { *to = __float2bfloat16(v); }

/// Calls f with a pointer of the tensor's own type.
template <class F>
void by_dtype(const Tensor& t, F f) {
  if (t.dtype == DType::kF32)
    f(static_cast<float*>(t.data));
  else
    f(static_cast<nv_bf16*>(t.data));
}

}  // namespace lorikeet::cuda
