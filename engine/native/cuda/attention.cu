// Attention over paged keys: rows of one token here, longer ones in attention_prefill.cu. One block a (row, kv head); each warp takes keys
// in turn for all query heads of the group, with a running softmax of its own in registers; the warps' parts are merged in shared memory.
// A row never sees the other rows.
#include <algorithm>

#include "kv_pool.h"
#include "ops.h"

namespace lorikeet::cuda {
namespace {

constexpr int kWarps = 8;

struct Shape {
  int n_heads, n_kv_heads, D, window;
  float scale;
  bool sliding;
};

template <int G, int PER_LANE>
__global__ void attention_kernel(nv_bf16* out, int64_t out_stride, const nv_bf16* q, int64_t q_stride, KvView pool, Shape s,
                                 const DeviceRow* rows, const int32_t* table) {
  extern __shared__ float shared[];  // [kWarps][G][D] weighted sums, then [kWarps][G][2] max and sum
  const DeviceRow row = rows[blockIdx.x];
  if (row.end - row.begin > 1) return;
  const int t = row.begin, kv_head = blockIdx.y, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, D = s.D;
  const int position = row.position, first = s.window ? max(0, position - s.window + 1) : 0;
  float query[G][PER_LANE], acc[G][PER_LANE], top[G], sum[G];
  for (int g = 0; g < G; g++) {
    top[g] = -INFINITY;
    sum[g] = 0;
    for (int j = 0; j < PER_LANE; j++) {
      query[g][j] = __bfloat162float(q[t * q_stride + (kv_head * G + g) * D + lane + j * kWarp]) * s.scale;
      acc[g][j] = 0;
    }
  }
  for (int p = first + warp; p <= position; p += kWarps) {
    const nv_bf16* keys = pool.keys(block_of(row, table, s.sliding, p), kv_head) + p % kBlockTokens * D;
    const nv_bf16* values = keys + kBlockTokens * D;
    float key[PER_LANE], value[PER_LANE];
    for (int j = 0; j < PER_LANE; j++) {
      key[j] = __bfloat162float(keys[lane + j * kWarp]);
      value[j] = __bfloat162float(values[lane + j * kWarp]);
    }
    for (int g = 0; g < G; g++) {
      float dot = 0;
      for (int j = 0; j < PER_LANE; j++) dot += query[g][j] * key[j];
      const float score = warp_sum(dot), high = fmaxf(top[g], score), shrink = __expf(top[g] - high), weight = __expf(score - high);
      top[g] = high;
      sum[g] = sum[g] * shrink + weight;
      for (int j = 0; j < PER_LANE; j++) acc[g][j] = acc[g][j] * shrink + weight * value[j];
    }
  }
  float* stats = shared + kWarps * G * D;
  for (int g = 0; g < G; g++) {
    for (int j = 0; j < PER_LANE; j++) shared[(warp * G + g) * D + lane + j * kWarp] = acc[g][j];
    if (lane == 0) {
      stats[(warp * G + g) * 2] = top[g];
      stats[(warp * G + g) * 2 + 1] = sum[g];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < G * D; i += blockDim.x) {
    const int g = i / D, d = i % D;
    float high = -INFINITY, total = 0, value = 0;
    for (int w = 0; w < kWarps; w++) high = fmaxf(high, stats[(w * G + g) * 2]);
    for (int w = 0; w < kWarps; w++) {
      const float by = __expf(stats[(w * G + g) * 2] - high);  // a warp without keys has -inf: 0
      total += stats[(w * G + g) * 2 + 1] * by;
      value += shared[(w * G + g) * D + d] * by;
    }
    out[t * out_stride + (kv_head * G + g) * D + d] = __float2bfloat16(value / total);
  }
}

template <int G, int PER_LANE>
void launch(Tensor out, Tensor q, const Backend::AttentionArgs& a, const StepData& step, cudaStream_t stream) {
  const size_t shared = size_t(kWarps) * G * (a.head_dim + 2) * 4;
  static const cudaError_t raised = cudaFuncSetAttribute(attention_kernel<G, PER_LANE>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                         int(kWarps * G * (PER_LANE * kWarp + 2) * 4));
  check(raised, "attention's shared memory");
  attention_kernel<G, PER_LANE><<<dim3(unsigned(step.n_rows), unsigned(a.n_kv_heads)), kWarps * kWarp, shared, stream>>>(
      nv(out.b16()), out.stride, nv(q.b16()), q.stride, view(*a.pool, a.layer),
      {a.n_heads, a.n_kv_heads, a.head_dim, a.window, a.scale, a.sliding}, step.rows, a.sliding ? step.sliding_table : step.global_table);
}

template <int G>
void by_head_dim(Tensor out, Tensor q, const Backend::AttentionArgs& a, const StepData& step, cudaStream_t stream) {
  switch (a.head_dim) {
    case 64:
      return launch<G, 2>(out, q, a, step, stream);
    case 128:
      return launch<G, 4>(out, q, a, step, stream);
    case 256:
      return launch<G, 8>(out, q, a, step, stream);
    default:
      throw Error("UNSUPPORTED", "head_dim " + std::to_string(a.head_dim) + " on CUDA: 64, 128 and 256 are built");
  }
}

}  // namespace

std::unique_ptr<KvPool> make_kv_pool_cuda(int n_blocks, int n_layers, int n_kv_heads, int head_dim) {
  auto pool = std::make_unique<KvPoolCuda>();
  pool->n_blocks = n_blocks;
  pool->n_layers = n_layers;
  pool->n_kv_heads = n_kv_heads;
  pool->head_dim = head_dim;
  pool->bytes = size_t(n_blocks) * n_layers * n_kv_heads * 2 * kBlockTokens * head_dim * 2;
  pool->buffer = allocate_device(pool->bytes);
  return pool;
}

void attention_cuda(Tensor out, Tensor q, const Backend::AttentionArgs& a, const StepData& step, cudaStream_t stream) {
  if (step.n_query_tiles[0] > 0) attention_prefill_cuda(out, q, a, step, stream);
  if (std::ranges::none_of(a.rows, [](const BatchRow& row) { return row.length() == 1; })) return;
  switch (a.n_heads / a.n_kv_heads) {
    case 1:
      by_head_dim<1>(out, q, a, step, stream);
      break;
    case 2:
      by_head_dim<2>(out, q, a, step, stream);
      break;
    case 4:
      by_head_dim<4>(out, q, a, step, stream);
      break;
    case 8:
      by_head_dim<8>(out, q, a, step, stream);
      break;
    default:
      throw Error("UNSUPPORTED", std::to_string(a.n_heads / a.n_kv_heads) + " query heads to a key-value head on CUDA");
  }
  check_launch("attention");
}

}  // namespace lorikeet::cuda
