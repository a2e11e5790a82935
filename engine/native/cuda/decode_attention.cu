// One block a (split of the keys, kv head, token): see attend().
#include "decode_attention.h"
#include "decode_keys.h"

namespace lorikeet::cuda {
namespace {

constexpr int kWarps = 8, kMostGroupWidth = 1024;

template <int D, int G>
__global__ void __launch_bounds__(kWarps* kWarp, 2) attention_kernel(const __grid_constant__ DecodeAttentionArgs p) {
  extern __shared__ __align__(16) char raw[];
  allow_next_kernel();
  attend<D, G, kWarps>(*reinterpret_cast<AttentionShared<D, G, kWarps>*>(raw), p, blockIdx.x, blockIdx.y, blockIdx.z,
                       [] { wait_for_last_kernel(); });
}

__global__ void combine_kernel(nv_bf16* fragments, const __grid_constant__ DecodeAttentionArgs p) {
  allow_next_kernel();
  wait_for_last_kernel();
  const int t = blockIdx.x, K = p.n_heads * p.head_dim;
  for (int i = threadIdx.x * 4; i < K; i += blockDim.x * 4) {
    const float4 v = merge_splits(p.part_sums + int64_t(t) * p.n_splits * K + i, p.part_stats + t * p.n_splits * p.n_heads + i / p.head_dim,
                                  p.n_splits, K, p.n_heads);
    *reinterpret_cast<uint32_t*>(fragments + fragment_place(t, i, K / 64)) = pack_bf16(v.x, v.y);
    *reinterpret_cast<uint32_t*>(fragments + fragment_place(t, i + 2, K / 64)) = pack_bf16(v.z, v.w);
  }
}

template <int D, int G>
void launch(const DecodeAttentionArgs& p, bool overlaps, cudaStream_t stream) {
  allow_shared<attention_kernel<D, G>>();
  launch_overlapped(overlaps, attention_kernel<D, G>,
                    dim3(unsigned(p.n_splits), unsigned(p.n_kv_heads), unsigned(p.n_tokens)), kWarps * kWarp,
                    sizeof(AttentionShared<D, G, kWarps>), stream, p);
}

template <int D>
void by_group(const DecodeAttentionArgs& p, bool overlaps, cudaStream_t stream) {
  switch (p.n_heads / p.n_kv_heads) {
    case 1:
      return launch<D, 1>(p, overlaps, stream);
    case 2:
      return launch<D, 2>(p, overlaps, stream);
    case 4:
      return launch<D, 4>(p, overlaps, stream);
    default:
      if constexpr (D * 8 <= kMostGroupWidth) return launch<D, 8>(p, overlaps, stream);
  }
}

}  // namespace

bool decode_attention_has(int n_heads, int n_kv_heads, int head_dim) {
  const int group = n_heads / n_kv_heads;
  return (head_dim == 64 || head_dim == 128 || head_dim == 256) && (group == 1 || group == 2 || group == 4 || group == 8) &&
         group * head_dim <= kMostGroupWidth;
}

void decode_attention(const DecodeAttentionArgs& p, bool overlaps, cudaStream_t stream) {
  switch (p.head_dim) {
    case 64:
      return by_group<64>(p, overlaps, stream);
    case 128:
      return by_group<128>(p, overlaps, stream);
    default:
      return by_group<256>(p, overlaps, stream);
  }
}

void combine_attention(nv_bf16* fragments, const DecodeAttentionArgs& p, bool overlaps, cudaStream_t stream) {
  allow_shared<combine_kernel>();
  launch_overlapped(overlaps, combine_kernel, dim3(unsigned(p.n_tokens)), 256, 0, stream, fragments, p);
}

}  // namespace lorikeet::cuda
