// One block a token.
#include "decode_ends.h"

namespace lorikeet::cuda {
namespace {

constexpr int kThreads = 256, kMostVectors = 6;  // of four elements a thread: H up to 6,144

__device__ void fill_rope(float* table, int position, int half, float theta, float scaling) {
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    // In double, as the CPU has it: an angle of 32,768 radians has few bits left in float.
    const double angle = double(position) / scaling * pow(double(theta), -double(i) / half);
    double sine, cosine;
    sincos(angle, &sine, &cosine);
    table[i] = float(cosine);
    table[half + i] = float(sine);
  }
}

__global__ void begin_kernel(const __grid_constant__ BeginArgs p) {
  allow_next_kernel();
  const int t = blockIdx.x, id = p.step->token_ids[t], group = p.step->group_of[t], position = max(p.step->positions[t], 0);
  if (t == 0)
    for (int i = threadIdx.x; i < p.n_counters; i += blockDim.x) p.counters[i] = 0;
  const nv_bf16* row = p.embedding + int64_t(id) * p.hidden;
  if (group >= 0) {
    const DeviceGroup& g = p.step->groups[group];
    for (int i = 0; i < g.n_row_ids; i++)
      if (g.row_ids[i] == id) row = g.rows + int64_t(i) * p.hidden;
  }
  for (int i = threadIdx.x; i < p.hidden; i += blockDim.x) p.x[int64_t(t) * p.hidden + i] = __bfloat162float(row[i]) * p.embed_scale;
  fill_rope(p.rope_local + int64_t(t) * p.head_dim, position, p.head_dim / 2, p.theta_local, 1.0f);
  fill_rope(p.rope_global + int64_t(t) * p.head_dim, position, p.head_dim / 2, p.theta_global, p.scaling_global);
}

/// ROWS: of output blockIdx.x, as a row; else of token blockIdx.x, as fragments, and the stream is kept.
template <bool ROWS>
__global__ void norm_kernel(nv_bf16* out, const __grid_constant__ NormArgs p, const DecodeStep* step) {
  __shared__ float shared[32];
  allow_next_kernel();
  const int token = ROWS ? step->out_tokens[blockIdx.x] : blockIdx.x, n_vectors = p.hidden / 4;
  wait_for_last_kernel();
  if (token < 0) return;
  float* x = p.x + int64_t(token) * p.hidden;
  float y_factor = 0;
  if (p.y) {
    float sum = 0;
    for (int i = threadIdx.x; i < p.hidden / 8; i += kThreads) sum += p.y_squares[int64_t(token) * (p.hidden / 8) + i];
    y_factor = rsqrtf(block_sum(sum, shared) / float(p.hidden) + p.eps);
  }
  float4 kept[kMostVectors];
  float square = 0;
#pragma unroll
  for (int j = 0; j < kMostVectors; j++) {
    const int i = threadIdx.x + j * kThreads;
    if (i >= n_vectors) break;
    float4 v = reinterpret_cast<const float4*>(x)[i];
    if (p.y) {
      const float4 y = reinterpret_cast<const float4*>(p.y + int64_t(token) * p.hidden)[i],
                   w = reinterpret_cast<const float4*>(p.post_w)[i];
      v.x += y.x * y_factor * (1.0f + w.x);
      v.y += y.y * y_factor * (1.0f + w.y);
      v.z += y.z * y_factor * (1.0f + w.z);
      v.w += y.w * y_factor * (1.0f + w.w);
      if (!ROWS) reinterpret_cast<float4*>(x)[i] = v;
    }
    kept[j] = v;
    square += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
  }
  const float factor = rsqrtf(block_sum(square, shared) / float(p.hidden) + p.eps);
#pragma unroll
  for (int j = 0; j < kMostVectors; j++) {
    const int i = threadIdx.x + j * kThreads;
    if (i >= n_vectors) break;
    const float4 w = reinterpret_cast<const float4*>(p.next_w)[i], v = kept[j];
    const uint32_t low = pack_bf16(v.x * factor * (1.0f + w.x), v.y * factor * (1.0f + w.y)),
                   high = pack_bf16(v.z * factor * (1.0f + w.z), v.w * factor * (1.0f + w.w));
    if constexpr (ROWS) {
      reinterpret_cast<uint2*>(out + int64_t(blockIdx.x) * p.hidden)[i] = {low, high};
    } else {
      *reinterpret_cast<uint32_t*>(out + fragment_place(token, i * 4, p.hidden / 64)) = low;
      *reinterpret_cast<uint32_t*>(out + fragment_place(token, i * 4 + 2, p.hidden / 64)) = high;
    }
  }
}

}  // namespace

void begin_decode(const BeginArgs& p, cudaStream_t stream) {
  launch_overlapped(false, begin_kernel, dim3(unsigned(p.n_tokens)), kThreads, 0, stream, p);
}

void norm_to_fragments(nv_bf16* fragments, const NormArgs& p, bool overlaps, cudaStream_t stream) {
  launch_overlapped(overlaps, norm_kernel<false>, dim3(unsigned(p.n_tokens)), kThreads, 0, stream, fragments, p, nullptr);
}

void norm_to_rows(nv_bf16* rows, int n_outputs, const NormArgs& p, const DecodeStep* step, bool overlaps, cudaStream_t stream) {
  launch_overlapped(overlaps, norm_kernel<true>, dim3(unsigned(n_outputs)), kThreads, 0, stream, rows, p, step);
}

}  // namespace lorikeet::cuda
