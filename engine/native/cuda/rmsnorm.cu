// One block a token with the row in registers, two float4 a thread: every byte is read once. Works against memory bandwidth:
// 6 H bytes a token for rmsnorm, 14 H for residual_rmsnorm.
#include "ops.h"

namespace lorikeet::cuda {
namespace {

constexpr int kPerThread = 2;  // float4s: thread i holds i and i + blockDim

__device__ float dot(float4 a) { return a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w; }

/// y * scale * (1 + w)
__device__ float4 normed(float4 y, float scale, float4 w) {
  return {y.x * scale * (1.0f + w.x), y.y * scale * (1.0f + w.y), y.z * scale * (1.0f + w.z), y.w * scale * (1.0f + w.w)};
}

/// A thread's part of a row of n4 float4s, zeros beyond it.
struct Part {
  float4 v[kPerThread];
  __device__ Part(const float* row, int n4) {
#pragma unroll
    for (int j = 0; j < kPerThread; j++) {
      const int i = int(threadIdx.x + j * blockDim.x);
      v[j] = i < n4 ? reinterpret_cast<const float4*>(row)[i] : float4{0, 0, 0, 0};
    }
  }
  __device__ void store(float* row, int n4) const {
#pragma unroll
    for (int j = 0; j < kPerThread; j++)
      if (const int i = int(threadIdx.x + j * blockDim.x); i < n4) reinterpret_cast<float4*>(row)[i] = v[j];
  }
  /// rsqrt(mean of squares + eps) over the block's row.
  __device__ float scale(int n4, float eps, float* shared) const {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kPerThread; j++) sum += dot(v[j]);
    return rsqrtf(block_sum(sum, shared) / float(4 * n4) + eps);
  }
};

__device__ void store_normed(nv_bf16* out, const Part& x, float scale, const Part& w, int n4) {
#pragma unroll
  for (int j = 0; j < kPerThread; j++) {
    const int i = int(threadIdx.x + j * blockDim.x);
    if (i >= n4) continue;
    const float4 y = normed(x.v[j], scale, w.v[j]);
    __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(y.x, y.y), __floats2bfloat162_rn(y.z, y.w)};
    reinterpret_cast<uint2*>(out)[i] = *reinterpret_cast<uint2*>(pair);
  }
}

__global__ void __launch_bounds__(1024)
    rmsnorm_kernel(nv_bf16* out, const float* x, const float* w, int n4, int64_t out_stride, int64_t x_stride, float eps) {
  __shared__ float shared[32];
  const Part row(x + blockIdx.x * x_stride, n4), weight(w, n4);
  store_normed(out + blockIdx.x * out_stride, row, row.scale(n4, eps, shared), weight, n4);
}

__global__ void __launch_bounds__(1024)
    residual_rmsnorm_kernel(nv_bf16* out, float* x, const float* y, const float* post_w, const float* next_w, int n4, int64_t out_stride,
                            int64_t x_stride, int64_t y_stride, float eps) {
  __shared__ float shared[32];
  Part row(x + blockIdx.x * x_stride, n4);
  const Part added(y + blockIdx.x * y_stride, n4), post(post_w, n4), next(next_w, n4);
  const float y_scale = added.scale(n4, eps, shared);
#pragma unroll
  for (int j = 0; j < kPerThread; j++) {
    const float4 more = normed(added.v[j], y_scale, post.v[j]);
    row.v[j] = {row.v[j].x + more.x, row.v[j].y + more.y, row.v[j].z + more.z, row.v[j].w + more.w};
  }
  row.store(x + blockIdx.x * x_stride, n4);
  store_normed(out + blockIdx.x * out_stride, row, row.scale(n4, eps, shared), next, n4);
}

/// Threads of a block for rows of n floats. @throws Error UNSUPPORTED
unsigned threads_for(int64_t n) {
  const int64_t threads = ceil_div<int64_t>(ceil_div<int64_t>(n / 4, kPerThread), kWarp) * kWarp;
  if (n % 4 != 0 || threads > 1024)
    throw Error("UNSUPPORTED", "hidden_size " + std::to_string(n) + " on CUDA: a multiple of 4 up to " +
                                   std::to_string(1024 * 4 * kPerThread) + " is built");
  return unsigned(threads);
}

}  // namespace

void rmsnorm_cuda(Tensor out, Tensor x, const float* w, float eps, cudaStream_t stream) {
  rmsnorm_kernel<<<unsigned(x.rows), threads_for(x.cols), 0, stream>>>(nv(out.b16()), x.f32(), w, int(x.cols / 4), out.stride, x.stride,
                                                                       eps);
  check_launch("rmsnorm");
}

void residual_rmsnorm_cuda(Tensor out, Tensor x, Tensor y, const float* post_w, const float* next_w, float eps, cudaStream_t stream) {
  residual_rmsnorm_kernel<<<unsigned(x.rows), threads_for(x.cols), 0, stream>>>(nv(out.b16()), x.f32(), y.f32(), post_w, next_w,
                                                                                int(x.cols / 4), out.stride, x.stride, y.stride, eps);
  check_launch("residual_rmsnorm");
}

}  // namespace lorikeet::cuda
