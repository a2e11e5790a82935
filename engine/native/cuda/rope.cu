// Rotary positions. qk_norm_rope_append: one block a token, one warp a head at a time; a lane holds D / 32 elements of each half.
#include "kv_pool.h"
#include "ops.h"

namespace lorikeet::cuda {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr int kPerLane = kMaxHeadDim / 2 / kWarp;  // elements of one half

__global__ void rope_table_kernel(float* table, int64_t stride, const int32_t* positions, int half, float theta, float scaling) {
  const int i = threadIdx.x;
  if (i >= half) return;
  // In double, as the CPU has it: an angle of 32,768 radians has few bits left in float.
  const double angle = double(positions[blockIdx.x]) / scaling * pow(double(theta), -double(i) / half);
  table[blockIdx.x * stride + i] = float(cos(angle));
  table[blockIdx.x * stride + half + i] = float(sin(angle));
}

/// out = rope(rmsnorm(x, w)) of one head by one warp.
__device__ void norm_rope(nv_bf16* out, const float* x, const float* w, const float* rope, int D, float eps) {
  const int lane = threadIdx.x % kWarp, half = D / 2;
  float a[kPerLane], b[kPerLane], sum = 0;
  for (int j = 0; j < kPerLane; j++) {
    const int i = lane + j * kWarp;
    a[j] = i < half ? x[i] : 0;
    b[j] = i < half ? x[half + i] : 0;
    sum += a[j] * a[j] + b[j] * b[j];
  }
  const float r = rsqrtf(warp_sum(sum) / float(D) + eps);
  for (int j = 0; j < kPerLane; j++) {
    const int i = lane + j * kWarp;
    if (i >= half) continue;
    const float p = a[j] * r * (1.0f + w[i]), q = b[j] * r * (1.0f + w[half + i]), cos = rope[i], sin = rope[half + i];
    out[i] = __float2bfloat16(p * cos - q * sin);
    out[half + i] = __float2bfloat16(q * cos + p * sin);
  }
}

struct Shape {
  int n_heads, n_kv_heads, D;
  float eps;
  bool sliding;
};

__global__ void append_kernel(nv_bf16* q, int64_t q_stride, const float* qkv, int64_t qkv_stride, const float* rope, int64_t rope_stride,
                              const float* q_norm, const float* k_norm, KvView pool, Shape s, const DeviceRow* rows, const int32_t* row_of_token,
                              const int32_t* positions, const int32_t* table) {
  const int t = blockIdx.x, warp = threadIdx.x / kWarp, n_warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  const float* in = qkv + t * qkv_stride;
  const float* angles = rope + t * rope_stride;
  const int position = positions[t], offset = position % kBlockTokens;
  const int block = block_of(rows[row_of_token[t]], table, s.sliding, position);
  for (int h = warp; h < s.n_heads + 2 * s.n_kv_heads; h += n_warps) {
    const float* x = in + h * s.D;
    if (h < s.n_heads) {
      norm_rope(q + t * q_stride + h * s.D, x, q_norm, angles, s.D, s.eps);
    } else if (h < s.n_heads + s.n_kv_heads) {
      norm_rope(pool.keys(block, h - s.n_heads) + offset * s.D, x, k_norm, angles, s.D, s.eps);
    } else {
      nv_bf16* values = pool.keys(block, h - s.n_heads - s.n_kv_heads) + kBlockTokens * s.D + offset * s.D;
      for (int i = lane; i < s.D; i += kWarp) values[i] = __float2bfloat16(x[i]);
    }
  }
}

}  // namespace

void rope_table_cuda(Tensor table, const StepData& step, float theta, float scaling, cudaStream_t stream) {
  const int half = int(table.cols / 2);
  rope_table_kernel<<<unsigned(table.rows), unsigned(half), 0, stream>>>(table.f32(), table.stride, step.positions, half, theta, scaling);
  check_launch("rope_table");
}

void qk_norm_rope_append_cuda(Tensor q, const Backend::QkvArgs& a, const StepData& step, cudaStream_t stream) {
  if (a.head_dim > kMaxHeadDim || a.head_dim % kWarp) throw Error("UNSUPPORTED", "head_dim " + std::to_string(a.head_dim) + " on CUDA");
  constexpr int kThreads = 192;  // six warps: the heads of one token of Gemma 3 270m and 1b
  append_kernel<<<unsigned(q.rows), kThreads, 0, stream>>>(nv(q.b16()), q.stride, a.qkv.f32(), a.qkv.stride, a.rope.f32(), a.rope.stride, a.q_norm, a.k_norm,
                                                           view(*a.pool, a.layer), {a.n_heads, a.n_kv_heads, a.head_dim, a.eps, a.sliding}, step.rows,
                                                           step.row_of_token, step.positions, a.sliding ? step.sliding_table : step.global_table);
  check_launch("qk_norm_rope_append");
}

}  // namespace lorikeet::cuda
