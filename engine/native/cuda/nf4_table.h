// Two NF4 codes of a byte as a pair of bf16, in shared memory: a copy of the table for every lane, so a warp's looks never meet in a bank.
#pragma once
#include "../core/nf4.h"
#include "device.h"

namespace lorikeet::cuda {

constexpr int kNf4TableBytes = 256 * kWarp * 4;

#if defined(__CUDACC__)
static __constant__ float nf4_code[16] = {kNF4Code[0],  kNF4Code[1],  kNF4Code[2],  kNF4Code[3], kNF4Code[4],  kNF4Code[5],
                                          kNF4Code[6],  kNF4Code[7],  kNF4Code[8],  kNF4Code[9], kNF4Code[10], kNF4Code[11],
                                          kNF4Code[12], kNF4Code[13], kNF4Code[14], kNF4Code[15]};

/// table[byte * 32 + lane]: low nibble in the lower half. All threads of the block, four copies a store; a barrier must follow.
__device__ inline void build_nf4_table(uint32_t* table) {
  for (int i = threadIdx.x; i < 256 * kWarp / 4; i += blockDim.x) {
    const int byte = i / (kWarp / 4);
    const __nv_bfloat162 pair = __floats2bfloat162_rn(nf4_code[byte & 15], nf4_code[byte >> 4]);
    const uint32_t word = *reinterpret_cast<const uint32_t*>(&pair);
    reinterpret_cast<uint4*>(table)[i] = uint4{word, word, word, word};
  }
}

/// The pair of byte i of a word: its place in the table is byte * 128, and the lane's own four bytes.
__device__ inline uint32_t look_up(const char* table, uint32_t word, int i) {
  const uint32_t lane = threadIdx.x % kWarp * 4, at = (i == 0 ? word << 7 : word >> (8 * i - 7)) & 0x7f80;
  return *reinterpret_cast<const uint32_t*>(table + (at | lane));
}
#endif

}  // namespace lorikeet::cuda
