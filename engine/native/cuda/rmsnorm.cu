// One block a token, a float4 a thread at a time; every row is read twice, the second time from cache.
#include "ops.h"

namespace lorikeet::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float mean_square_rsqrt(const float* x, int n, float eps, float* shared) {
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[i] * x[i];
  return rsqrtf(block_sum(sum, shared) / float(n) + eps);
}

__global__ void rmsnorm_kernel(nv_bf16* out, const float* x, const float* w, int n, int64_t out_stride, int64_t x_stride, float eps) {
  __shared__ float shared[32];
  const float* row = x + blockIdx.x * x_stride;
  const float scale = mean_square_rsqrt(row, n, eps, shared);
  nv_bf16* to = out + blockIdx.x * out_stride;
  for (int i = threadIdx.x; i < n; i += blockDim.x) to[i] = __float2bfloat16(row[i] * scale * (1.0f + w[i]));
}

__global__ void residual_rmsnorm_kernel(nv_bf16* out, float* x, const float* y, const float* post_w, const float* next_w, int n, int64_t out_stride,
                                        int64_t x_stride, int64_t y_stride, float eps) {
  __shared__ float shared[32];
  float* xs = x + blockIdx.x * x_stride;
  const float* ys = y + blockIdx.x * y_stride;
  const float y_scale = mean_square_rsqrt(ys, n, eps, shared);
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float v = xs[i] + ys[i] * y_scale * (1.0f + post_w[i]);
    xs[i] = v;
    sum += v * v;
  }
  const float scale = rsqrtf(block_sum(sum, shared) / float(n) + eps);
  nv_bf16* to = out + blockIdx.x * out_stride;
  for (int i = threadIdx.x; i < n; i += blockDim.x) to[i] = __float2bfloat16(xs[i] * scale * (1.0f + next_w[i]));
}

}  // namespace

void rmsnorm_cuda(Tensor out, Tensor x, const float* w, float eps, cudaStream_t stream) {
  rmsnorm_kernel<<<unsigned(x.rows), kThreads, 0, stream>>>(nv(out.b16()), x.f32(), w, int(x.cols), out.stride, x.stride, eps);
  check_launch("rmsnorm");
}

void residual_rmsnorm_cuda(Tensor out, Tensor x, Tensor y, const float* post_w, const float* next_w, float eps, cudaStream_t stream) {
  residual_rmsnorm_kernel<<<unsigned(x.rows), kThreads, 0, stream>>>(nv(out.b16()), x.f32(), y.f32(), post_w, next_w, int(x.cols), out.stride, x.stride,
                                                                     y.stride, eps);
  check_launch("residual_rmsnorm");
}

}  // namespace lorikeet::cuda
