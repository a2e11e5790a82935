// Sixteen rows of a head against up to eight hidden states on a tensor core. A lane reads 16 consecutive bytes of two rows, and the
// same 16 of a hidden state: the sum runs over all columns, so their order within an instruction is free. For head_*.cu.
#pragma once
#include "head.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

constexpr int kTileRows = 16, kTileOutputs = 8, kStepBytes = 64;  // of each row in a step

__device__ inline uint4 load_stream(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

__device__ inline void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ inline void mma(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// A step: sums[row, output] += 64 bytes of rows g and g + 8 (lane 4g + t has bytes [16t, 16t + 16)) times those of output g.
/// sums: c[0], c[1] = row g, outputs 2t and 2t + 1; c[2], c[3] = row g + 8.
template <class Sum>
__device__ inline void step(Sum (&c)[4], uint4 upper, uint4 lower, uint4 x) {
  mma(c, upper.x, lower.x, upper.y, lower.y, x.x, x.y);
  mma(c, upper.z, lower.z, upper.w, lower.w, x.z, x.w);
}

/// Bytes from one hidden state to the next in shared memory: 64 more than a multiple of 128, so that eight lanes meet no bank twice.
__host__ __device__ inline int hidden_pitch(int row_bytes) { return row_bytes + (row_bytes % 128 == 0 ? 64 : 0); }

}  // namespace lorikeet::cuda
#endif
