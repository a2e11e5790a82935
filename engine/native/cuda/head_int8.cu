// An int8 head: rows in 8 bits with a scale each, hidden states in 15, so that the integer sums are exact and
//   |score - exact| <= ||x|| * error[n] + ||x - x'|| * norm_max,
// by Cauchy-Schwarz. error[n] = ||w[n] - codes[n] scale[n]|| + what fp32 sums on tensor cores may lose, see kSumLoss.
#include "head_tile.h"
#include "ops.h"

namespace lorikeet::cuda {
namespace {

constexpr int kRowWarps = 8, kHiddenThreads = 256;

// Per mma of 16 columns: 17 terms, each cut at 2^-23 of the largest, and the result rounded. No term exceeds ||w|| ||x||.
constexpr float kSumLoss = 18 * 0x1p-23f, kScoreRounding = 16 * 0x1p-24f;

/// One warp a row.
__global__ void quantise_rows_kernel(int8_t* codes, CodeMeta* meta, uint32_t* norm_max, const nv_bf16* weights, int64_t V, int H) {
  const int64_t row = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= V) return;
  const nv_bf16* w = weights + row * H;
  float largest = 0, squares = 0, off_squares = 0;
  for (int i = lane; i < H; i += kWarp) {
    const float v = __bfloat162float(w[i]);
    largest = fmaxf(largest, fabsf(v));
    squares += v * v;
  }
  largest = warp_max(largest);
  squares = warp_sum(squares);
  const bool finite = isfinite(squares);
  const float scale = finite ? largest / 127 : 0;
  for (int i = lane; i < H; i += kWarp) {
    const float v = __bfloat162float(w[i]);
    const int q = scale > 0 ? max(-127, min(127, __float2int_rn(v / scale))) : 0;
    codes[row * H + i] = int8_t(q);
    const float off = fmaf(-float(q), scale, v);
    off_squares += off * off;
  }
  off_squares = warp_sum(off_squares);
  if (lane != 0) return;
  const float norm = sqrtf(squares) * 1.001f;
  const float loss = (float(H) / 16 * kSumLoss + kScoreRounding) * norm;
  meta[row] = {scale, finite ? sqrtf(off_squares) * 1.001f + loss : INFINITY};  // a row that is not finite is always a candidate
  if (finite) atomicMax(norm_max, __float_as_uint(norm));
}

/// One block an output: [high, low] planes of H each.
__global__ void quantise_hidden_kernel(int8_t* planes, HiddenMeta* meta, const nv_bf16* hidden, int64_t stride, int H, float limit,
                                       const float* norm_max) {
  __shared__ float shared[kWarp];
  __shared__ float largest_of[kWarp];
  const nv_bf16* x = hidden + blockIdx.x * stride;
  float largest = 0, squares = 0, off_squares = 0;
  for (int i = threadIdx.x; i < H; i += blockDim.x) {
    const float v = __bfloat162float(x[i]);
    largest = fmaxf(largest, fabsf(v));
    squares += v * v;
  }
  largest = warp_max(largest);
  if (threadIdx.x % kWarp == 0) largest_of[threadIdx.x / kWarp] = largest;
  squares = block_sum(squares, shared);
  for (int w = 0; w < int(blockDim.x / kWarp); w++) largest = fmaxf(largest, largest_of[w]);
  const bool finite = isfinite(squares);
  const float scale = finite && largest > 0 ? largest / limit : 1;
  int8_t* high = planes + int64_t(blockIdx.x) * 2 * H;
  for (int i = threadIdx.x; i < H; i += blockDim.x) {
    const float v = __bfloat162float(x[i]);
    const int q = finite ? __float2int_rn(v / scale) : 0, upper = (q + 64) >> 7;
    high[i] = int8_t(upper);
    high[H + i] = int8_t(q - upper * 128);
    const float off = fmaf(-float(q), scale, v);
    off_squares += off * off;
  }
  off_squares = block_sum(off_squares, shared);
  if (threadIdx.x == 0) meta[blockIdx.x] = {scale, sqrtf(squares) * 1.001f, sqrtf(off_squares) * 1.001f * *norm_max * 1.01f, finite};
}

/// Largest quantised element: the integer sum, 127 * limit * H, must stay within 31 bits.
float hidden_limit(int64_t H) { return float(std::min<int64_t>(16256, (int64_t(1) << 31) / (128 * H))); }

}  // namespace

void quantise_head(HeadCuda& head, cudaStream_t stream) {
  head.codes = allocate_device(size_t(head.rows * head.cols));
  head.code_meta = allocate_device(size_t(head.rows) * sizeof(CodeMeta));
  head.norm_max = allocate_device(4);
  quantise_rows_kernel<<<unsigned(ceil_div<int64_t>(head.rows, kRowWarps)), kRowWarps * kWarp, 0, stream>>>(
      static_cast<int8_t*>(head.codes.data()), static_cast<CodeMeta*>(head.code_meta.data()), static_cast<uint32_t*>(head.norm_max.data()),
      head.weights, head.rows, int(head.cols));
  check_launch("quantisation of the head");
  check(cudaStreamSynchronize(stream), "quantisation of the head");
  head.bytes += head.codes.bytes() + head.code_meta.bytes();
}

void score_int8(Tensor values, Tensor hidden, const HeadCuda& head, int64_t first, SamplerScratch& scratch, cudaStream_t stream) {
  const int H = int(head.cols);
  quantise_hidden_kernel<<<unsigned(hidden.rows), kHiddenThreads, 0, stream>>>(
      static_cast<int8_t*>(scratch.hidden8.data()) + first * 2 * H, static_cast<HiddenMeta*>(scratch.hidden_meta.data()) + first,
      nv(hidden.b16()), hidden.stride, H, hidden_limit(H), static_cast<const float*>(head.norm_max.data()));
  score_codes(values, head, first, scratch, stream);
}

}  // namespace lorikeet::cuda
