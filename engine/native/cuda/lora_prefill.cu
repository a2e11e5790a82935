// shrink: one block 32 tokens x 16 ranks of a run; its eight warps share the columns of x and add their sums through shared memory.
// expand: one block 64 tokens x 256 outputs, a warp 16 x 128. All runs and parts of a product in one launch each. Operands go from global
// memory into registers: a product does not care for the order of the inner index, so a lane takes 16 (shrink) or 8 bytes (expand) of a row
// at once and both operands agree on it. Works against memory bandwidth: x once, out read and written.
#include <algorithm>

#include "lora_prefill.h"
#include "mma_sm80.h"
#include "vectors.h"

namespace lorikeet::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kShrinkTokens = 32, kRanks = 16, kExpandTokens = 64, kExpandColumns = 256;

__device__ uint4 load_or_zero(const nv_bf16* row, int column, bool valid) {
  return valid ? *reinterpret_cast<const uint4*>(row + column) : uint4{0, 0, 0, 0};
}

__global__ void __launch_bounds__(kWarps* kWarp)
    shrink_kernel(nv_bf16* shrunk, const nv_bf16* x, int64_t x_stride, int n_in, const __grid_constant__ LongRuns runs) {
  __shared__ float sums[kWarps][kShrinkTokens][kRanks];
  const LongRun& run = runs.run[blockIdx.z];
  const int first = run.begin + int(blockIdx.x) * kShrinkTokens, rank0 = int(blockIdx.y) * kRanks;
  if (first >= run.end || rank0 >= run.padded_rank) return;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  float acc[2][2][4] = {};  // [16 tokens][8 ranks]
#pragma unroll 2
  for (int k = warp * 32; k < n_in; k += kWarps * 32) {
    uint4 tokens[4], ranks[2];  // rows g + 8 i
#pragma unroll
    for (int i = 0; i < 4; i++) tokens[i] = load_or_zero(x + (first + g + 8 * i) * x_stride, k + t * 8, first + g + 8 * i < run.end);
#pragma unroll
    for (int i = 0; i < 2; i++) ranks[i] = load_or_zero(run.a + int64_t(rank0 + g + 8 * i) * n_in, k + t * 8, rank0 + g + 8 * i < run.rank);
#pragma unroll
    for (int m = 0; m < 2; m++) {
      const uint4 low = tokens[2 * m], high = tokens[2 * m + 1];
      const uint32_t first_half[4] = {low.x, high.x, low.y, high.y}, second_half[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
      for (int n = 0; n < 2; n++) {
        mma_m16n8k16(acc[m][n], first_half, ranks[n].x, ranks[n].y);
        mma_m16n8k16(acc[m][n], second_half, ranks[n].z, ranks[n].w);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) sums[warp][m * 16 + g + i / 2 * 8][n * 8 + t * 2 + i % 2] = acc[m][n][i];
  __syncthreads();
  for (int e = threadIdx.x; e < kShrinkTokens * kRanks; e += kWarps * kWarp) {
    const int token = e / kRanks, r = e % kRanks;
    if (first + token >= run.end) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; w++) sum += sums[w][token][r];
    shrunk[run.shrunk_at + int64_t(first - run.begin + token) * run.padded_rank + rank0 + r] = __float2bfloat16(sum);
  }
}

/// Adds to eight neighbouring outputs of one token.
template <class T>
__device__ void add_to(T* to, const float (&sum)[8], const LongRun& run, int column) {
  float y[8];
  load(y, to);
#pragma unroll
  for (int i = 0; i < 8; i++) y[i] += run.scale * sum[i];
  if (run.column_scale) {
    float by[8];
    load(by, run.column_scale + column);
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] *= by[i];
  }
  store(to, y);
}

/// Column 2 c + e of mma's tile j is output 8 c + 2 j + e of 32: so a lane's sums of four tiles are eight neighbours.
template <class T>
__global__ void __launch_bounds__(kWarps* kWarp)
    expand_kernel(T* out, int64_t out_stride, const nv_bf16* shrunk, const __grid_constant__ LongRuns runs) {
  const LongRun& run = runs.run[blockIdx.z];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int first = run.begin + int(blockIdx.y) * kExpandTokens + warp % 4 * 16, low = first + g, high = first + g + 8;
  const int column0 = int(blockIdx.x) * kExpandColumns + warp / 4 * (kExpandColumns / 2);
  if (first >= run.end || column0 >= run.n_out) return;
  const nv_bf16* h = shrunk + run.shrunk_at + int64_t(low - run.begin) * run.padded_rank + t * 4;
#pragma unroll 2
  for (int column = column0; column < min(column0 + kExpandColumns / 2, run.n_out); column += 32) {
    float acc[4][4] = {};
    for (int r = 0; r < run.padded_rank; r += 16) {
      const uint2 p = low < run.end ? *reinterpret_cast<const uint2*>(h + r) : uint2{0, 0};
      const uint2 q = high < run.end ? *reinterpret_cast<const uint2*>(h + 8 * run.padded_rank + r) : uint2{0, 0};
      const uint32_t tokens[4] = {p.x, q.x, p.y, q.y};
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int n = column + g / 2 * 8 + 2 * j + g % 2;
        const uint2 b = n < run.n_out ? *reinterpret_cast<const uint2*>(run.b + int64_t(n) * run.padded_rank + r + t * 4) : uint2{0, 0};
        mma_m16n8k16(acc[j], tokens, b.x, b.y);
      }
    }
    const int own = column + t * 8;
    if (own >= run.n_out) continue;
    const float low_sum[8] = {acc[0][0], acc[0][1], acc[1][0], acc[1][1], acc[2][0], acc[2][1], acc[3][0], acc[3][1]};
    const float high_sum[8] = {acc[0][2], acc[0][3], acc[1][2], acc[1][3], acc[2][2], acc[2][3], acc[3][2], acc[3][3]};
    if (low < run.end) add_to(out + low * out_stride + run.column + own, low_sum, run, own);
    if (high < run.end) add_to(out + high * out_stride + run.column + own, high_sum, run, own);
  }
}

}  // namespace

void lora_prefill_cuda(Tensor out, Tensor x, const LongRuns& runs, int n_runs, nv_bf16* shrunk, cudaStream_t stream) {
  int longest = 0, rank = 0, n_out = 0;
  for (int i = 0; i < n_runs; i++) {
    longest = std::max(longest, runs.run[i].end - runs.run[i].begin);
    rank = std::max(rank, runs.run[i].padded_rank);
    n_out = std::max(n_out, runs.run[i].n_out);
  }
  const dim3 shrink_grid(unsigned(ceil_div(longest, kShrinkTokens)), unsigned(rank / kRanks), unsigned(n_runs));
  const dim3 expand_grid(unsigned(ceil_div(n_out, kExpandColumns)), unsigned(ceil_div(longest, kExpandTokens)), unsigned(n_runs));
  shrink_kernel<<<shrink_grid, kWarps * kWarp, 0, stream>>>(shrunk, nv(x.b16()), x.stride, int(x.cols), runs);
  by_dtype(out, [&](auto* to) { expand_kernel<<<expand_grid, kWarps * kWarp, 0, stream>>>(to, out.stride, shrunk, runs); });
  check_launch("lora of long runs");
}

}  // namespace lorikeet::cuda
