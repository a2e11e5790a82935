// What the fused kernels of decode share: the step as it lies on the device, and activations in the order of mma's B operand.
#pragma once
#include "device.h"
#if defined(__CUDACC__)
#include "mma_sm80.h"
#endif

namespace lorikeet::cuda {

constexpr int kDecodeTokens = 64;  // most rows of a fused step
constexpr int kRowsInShared = 2;   // up to so many, a product's input is computed in its own prologue
constexpr int kDecodeRank = 64;    // highest rank of an adapter in a fused step
constexpr int kShrinkPieces = 4;   // most parts of K that one shrink is divided into
constexpr int kModulesOfSite = 3;  // q, k, v share one input

/// One LoRA pair on the device; a == null where the module is not adapted.
struct DevicePair {
  const uint4* a = nullptr;             // bf16 tiles of 16 ranks x 64 inputs in mma's A order: [rank tile][K / 64][4 steps][32 lanes]
  const nv_bf16* b = nullptr;           // [n_out][rank_tiles * 16]
  const float* column_scale = nullptr;  // [n_out] or null
  float scale = 0;
  int rank_tiles = 0;
};

/// The tokens [begin, end) of one adapter.
struct DeviceGroup {
  const DevicePair* pairs;  // [layers][modules]
  const int32_t* row_ids;   // tokens with an embedding of their own
  const nv_bf16* rows;      // [n_row_ids][H]
  int n_row_ids;
  int begin, end;
};

/// The step's data at addresses that never change: a captured graph reads them.
struct DecodeStep {
  int32_t token_ids[kDecodeTokens];
  int32_t positions[kDecodeTokens];   // -1: padding
  int32_t out_tokens[kDecodeTokens];  // token of output s, -1: padding
  int32_t group_of[kDecodeTokens];    // adapter group of a token, -1: base
  DeviceRow rows[kDecodeTokens];
  DeviceGroup groups[kDecodeTokens];
  int32_t n_groups, rank_tiles;  // rank_tiles: of the highest rank
  int32_t set, used_splits[2], used_adapters;  // of the resident kernel's exchange: whose turn it is, and what the other set last held
};

/// Activations [T, K] bf16 as B fragments: for eight tokens and 64 columns two uint4 a lane, see fragment_place.
inline size_t fragment_bytes(int64_t tokens, int64_t K) { return size_t(ceil_div<int64_t>(tokens, 8) * 8 * K) * 2; }

#if defined(__CUDACC__)
/// Offset, in bf16 elements, of (token, k) among fragments; even k, so that a pair lies in one word.
__device__ inline int64_t fragment_place(int token, int k, int k_tiles) {
  const int step = k % 64 / 16, in_step = k % 16, lane = token % 8 * 4 + in_step % 8 / 2;
  const int64_t vector = ((int64_t(token / 8) * k_tiles + k / 64) * 2 + step / 2) * kWarp + lane;
  return vector * 8 + (step % 2 * 2 + in_step / 8) * 2 + (k & 1);
}

/// Programmatic dependent launch (9.0): the next kernel may start, and this one waits for what the last one wrote.
__device__ inline void allow_next_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_last_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void mma_bf16(float* c, const uint32_t* a, const uint32_t* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

/// Bytes of shared memory that one block may have.
inline int most_shared() {
  static const int bytes = [] {
    int device = 0, most = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return most;
  }();
  return bytes;
}

/// All shared memory that the device has, for a kernel that sizes it at launch. One carve-out for the fused kernels: two of different ones
/// cannot share a multiprocessor. `cached`: the kernel reads its input again and again, and wants the rest as cache.
template <auto KERNEL>
void allow_shared(bool cached = false) {
  static const cudaError_t allowed = [cached] {
    if (!cached) cudaFuncSetAttribute(KERNEL, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    cudaFuncAttributes attributes;
    const cudaError_t status = cudaFuncGetAttributes(&attributes, KERNEL);
    return status
               ? status
               : cudaFuncSetAttribute(KERNEL, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared() - int(attributes.sharedSizeBytes));
  }();
  check(allowed, "shared memory of a kernel");
}

/// A launch that may overlap the end of the kernel before it (where the device can), inside or outside a capture.
template <class... Parameters, class... Arguments>
void launch_overlapped(bool overlaps, void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t shared, cudaStream_t stream,
                       Arguments... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlaps ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), "launch");
}

}  // namespace lorikeet::cuda
