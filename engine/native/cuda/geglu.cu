// Four elements a thread; read-bound.
#include "ops.h"

namespace lorikeet::cuda {
namespace {

__global__ void geglu_kernel(nv_bf16* out, const float* gate_up, int n, int64_t out_stride, int64_t in_stride) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i >= n) return;
  const float* row = gate_up + blockIdx.y * in_stride;
  const float4 g = *reinterpret_cast<const float4*>(row + i), u = *reinterpret_cast<const float4*>(row + n + i);
  const auto f = [](float gate, float up) {
    const float inner = 0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);
    return 0.5f * gate * (1.0f + tanhf(inner)) * up;
  };
  nv_bf16* to = out + blockIdx.y * out_stride + i;
  reinterpret_cast<__nv_bfloat162*>(to)[0] = __floats2bfloat162_rn(f(g.x, u.x), f(g.y, u.y));
  reinterpret_cast<__nv_bfloat162*>(to)[1] = __floats2bfloat162_rn(f(g.z, u.z), f(g.w, u.w));
}

}  // namespace

void geglu_cuda(Tensor out, Tensor gate_up, cudaStream_t stream) {
  constexpr int kThreads = 128;
  const dim3 grid(unsigned(ceil_div<int64_t>(out.cols, kThreads * 4)), unsigned(out.rows));
  geglu_kernel<<<grid, kThreads, 0, stream>>>(nv(out.b16()), gate_up.f32(), int(out.cols), out.stride, gate_up.stride);
  check_launch("geglu");
}

}  // namespace lorikeet::cuda
