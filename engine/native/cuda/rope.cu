// Rotary positions. qk_norm_rope_append: one warp a head of a token, D / 32 elements a lane. Works against memory bandwidth: 4 bytes an
// element of bf16, 6 of f32, and the token's row of the table.
#include "kv_pool.h"
#include "ops.h"
#include "vectors.h"

namespace lorikeet::cuda {
namespace {

constexpr int kWarps = 8;

__global__ void rope_table_kernel(float* table, int64_t stride, const int32_t* positions, int half, float theta, float scaling) {
  const int i = threadIdx.x;
  if (i >= half) return;
  // In double: an angle of 32,768 radians has few bits left in float, in which the CPU computes it as transformers does.
  const double angle = double(positions[blockIdx.x]) / scaling * pow(double(theta), -double(i) / half);
  table[blockIdx.x * stride + i] = float(cos(angle));
  table[blockIdx.x * stride + half + i] = float(sin(angle));
}

struct Shape {
  int n_heads, n_kv_heads, n_tokens;
  float eps;
  bool sliding;
};

/// HALF = D / 64: a lane holds elements HALF * lane and the next of both halves of its head.
template <int HALF, class T>
__global__ void append_kernel(nv_bf16* q, int64_t q_stride, const T* qkv, int64_t qkv_stride, const float* rope, int64_t rope_stride,
                              const float* q_norm, const float* k_norm, KvView pool, Shape s, const DeviceRow* rows,
                              const int32_t* row_of_token, const int32_t* positions, const int32_t* table) {
  constexpr int D = HALF * 64;
  const int n_heads = s.n_heads + 2 * s.n_kv_heads, unit = int(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  const int t = unit / n_heads, h = unit % n_heads, kv_head = (h - s.n_heads) % s.n_kv_heads, i = lane * HALF;
  if (t >= s.n_tokens) return;
  const bool is_query = h < s.n_heads, is_value = h >= s.n_heads + s.n_kv_heads;
  nv_bf16* out = q + t * q_stride + h * D;
  if (!is_query) {
    const int position = positions[t];
    out = pool.keys(block_of(rows[row_of_token[t]], table, s.sliding, position), kv_head) +
          (is_value * kBlockTokens + position % kBlockTokens) * D;
  }
  float a[HALF], b[HALF];
  load(a, qkv + t * qkv_stride + h * D + i);
  load(b, qkv + t * qkv_stride + h * D + D / 2 + i);
  if (!is_value) {
    const float* norm = is_query ? q_norm : k_norm;
    float w[HALF], v[HALF], cos[HALF], sin[HALF], sum = 0;
    load(w, norm + i);
    load(v, norm + D / 2 + i);
    load(cos, rope + t * rope_stride + i);
    load(sin, rope + t * rope_stride + D / 2 + i);
#pragma unroll
    for (int j = 0; j < HALF; j++) sum += a[j] * a[j] + b[j] * b[j];
    const float r = rsqrtf(warp_sum(sum) / float(D) + s.eps);
#pragma unroll
    for (int j = 0; j < HALF; j++) {
      const float x = a[j] * r * (1.0f + w[j]), y = b[j] * r * (1.0f + v[j]);
      a[j] = x * cos[j] - y * sin[j];
      b[j] = y * cos[j] + x * sin[j];
    }
  }
  store(out + i, a);
  store(out + D / 2 + i, b);
}

template <int HALF>
void append(Tensor q, const Backend::QkvArgs& a, const StepData& step, cudaStream_t stream) {
  const Shape shape{a.n_heads, a.n_kv_heads, int(a.qkv.rows), a.eps, a.sliding};
  const unsigned blocks = unsigned(ceil_div<int64_t>(a.qkv.rows * (a.n_heads + 2 * a.n_kv_heads), kWarps));
  by_dtype(a.qkv, [&](auto* qkv) {
    append_kernel<HALF><<<blocks, kWarps * kWarp, 0, stream>>>(
        nv(q.b16()), q.stride, qkv, a.qkv.stride, a.rope.f32(), a.rope.stride, a.q_norm, a.k_norm, view(*a.pool, a.layer), shape, step.rows,
        step.row_of_token, step.positions, a.sliding ? step.sliding_table : step.global_table);
  });
  check_launch("qk_norm_rope_append");
}

}  // namespace

void rope_table_cuda(Tensor table, const StepData& step, float theta, float scaling, cudaStream_t stream) {
  const int half = int(table.cols / 2);
  rope_table_kernel<<<unsigned(table.rows), unsigned(half), 0, stream>>>(table.f32(), table.stride, step.positions, half, theta, scaling);
  check_launch("rope_table");
}

void qk_norm_rope_append_cuda(Tensor q, const Backend::QkvArgs& a, const StepData& step, cudaStream_t stream) {
  switch (a.head_dim) {
    case 64:
      return append<1>(q, a, step, stream);
    case 128:
      return append<2>(q, a, step, stream);
    case 256:
      return append<4>(q, a, step, stream);
    default:
      throw Error("UNSUPPORTED", "head_dim " + std::to_string(a.head_dim) + " on CUDA: 64, 128 and 256 are built");
  }
}

}  // namespace lorikeet::cuda
