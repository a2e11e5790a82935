// The greedy choice of an int8 head: one block an output finds the rows that could still win within the bounds and scores them from
// the bf16 rows, sixteen a warp, by the very instructions of the bf16 head, so that the choice is that head's, near ties included.
#include "head_tile.h"
#include "ops.h"

namespace lorikeet::cuda {
namespace {

constexpr int kThreads = 512, kRescoreWarps = kThreads / kWarp, kCandidates = 2048;
constexpr int kAhead = 4;  // steps in flight

struct RescoreArgs {
  int32_t* ids;
  const float* values;
  int64_t stride, V;
  int H, n_parts;
  const float2* bounds;
  const CodeMeta* code_meta;
  const HiddenMeta* hidden_meta;
  const nv_bf16 *weights, *hidden;
  int64_t hidden_stride;
  OutputList list;
};

/// What at least one row's exact score reaches for sure.
__device__ float sure_score(const float2* bounds, int n_parts, float* shared) {
  float sure = -INFINITY;
  for (int p = threadIdx.x; p < n_parts; p += kThreads) sure = fmaxf(sure, bounds[p].x);
  sure = warp_max(sure);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = sure;
  __syncthreads();
  return warp_max(threadIdx.x % kWarp < kRescoreWarps ? shared[threadIdx.x % kWarp] : -INFINITY);
}

/// Best exact score among sixteen candidates; the last fills spare places.
__device__ u64 best_of_tile(const RescoreArgs& a, const nv_bf16* hidden, const int32_t* candidates, int n) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4, row_bytes = a.H * 2;
  const int upper_id = candidates[min(g, n - 1)], lower_id = candidates[min(g + 8, n - 1)];
  const auto* upper = reinterpret_cast<const char*>(a.weights + int64_t(upper_id) * a.H) + t * 16;
  const auto* lower = reinterpret_cast<const char*>(a.weights + int64_t(lower_id) * a.H) + t * 16;
  const auto* x = reinterpret_cast<const char*>(hidden) + t * 16;
  float sums[4] = {};
  for (int at = 0; at < row_bytes; at += kAhead * kStepBytes) {
    uint4 u[kAhead], l[kAhead], h[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; i++) {
      const int from = min(at + i * kStepBytes, row_bytes - kStepBytes);
      u[i] = load_stream(upper + from);
      l[i] = load_stream(lower + from);
      h[i] = *reinterpret_cast<const uint4*>(x + from);
    }
#pragma unroll
    for (int i = 0; i < kAhead; i++)
      if (at + i * kStepBytes < row_bytes) step(sums, u[i], l[i], h[i]);
  }
  const u64 one = packed(order_key(sums[0]), sums[0] != sums[0] ? -1 : upper_id);
  const u64 other = packed(order_key(sums[2]), sums[2] != sums[2] ? -1 : lower_id);
  return warp_larger(larger(one, other));
}

__global__ void __launch_bounds__(kThreads) rescore_kernel(RescoreArgs a) {
  __shared__ int32_t candidates[kCandidates];
  __shared__ float shared[kWarp];
  __shared__ u64 best_of_warp[kWarp];
  __shared__ int count;
  const int s = a.list[blockIdx.x], lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const float2* bounds = a.bounds + int64_t(s) * a.n_parts;
  const HiddenMeta x = a.hidden_meta[s];
  if (threadIdx.x == 0) count = 0;
  const float sure = sure_score(bounds, a.n_parts, shared);
  for (int begin = warp * kWarp; begin < a.n_parts; begin += kThreads) {
    unsigned hits = __ballot_sync(kAllLanes, begin + lane < a.n_parts && bounds[min(begin + lane, a.n_parts - 1)].y >= sure);
    for (; hits; hits &= hits - 1) {
      const int64_t first = int64_t(begin + __ffs(int(hits)) - 1) * kPartWidth;
      for (int64_t r = first + lane; r < min(first + kPartWidth, a.V); r += kWarp) {
        const CodeMeta code = a.code_meta[r];
        if (!(a.values[s * a.stride + r] + (x.norm * code.error + x.constant) >= sure)) continue;
        const int at = atomicAdd(&count, 1);
        if (at >= kCandidates) continue;
        candidates[at] = int32_t(r);
        for (int b = 0; b < a.H * 2; b += 128)  // on its way while the others are looked for
          asm volatile("prefetch.global.L2 [%0];" ::"l"(reinterpret_cast<const char*>(a.weights + r * a.H) + b));
      }
    }
  }
  __syncthreads();
  if (!x.finite || count == 0 || count > kCandidates) {
    if (threadIdx.x == 0) answer(a.ids, s, kRescoreFailed);
    return;
  }
  u64 best = 0;
  for (int at = warp * kTileRows; at < count; at += kRescoreWarps * kTileRows)
    best = larger(best, best_of_tile(a, a.hidden + s * a.hidden_stride, candidates + at, min(kTileRows, count - at)));
  if (lane == 0) best_of_warp[warp] = best;
  __syncthreads();
  best = warp_larger(lane < kRescoreWarps ? best_of_warp[lane] : 0);
  if (threadIdx.x == 0) answer(a.ids, s, unpacked(best).id);
}

}  // namespace

void choose_bounded(Tensor values, Tensor hidden, const HeadCuda& head, OutputList list, SamplerScratch& scratch, cudaStream_t stream) {
  const RescoreArgs args{scratch.ids(),
                         values.f32(),
                         values.stride,
                         head.rows,
                         int(head.cols),
                         parts_of(head.rows),
                         static_cast<const float2*>(scratch.bounds.data()),
                         static_cast<const CodeMeta*>(head.code_meta.data()),
                         static_cast<const HiddenMeta*>(scratch.hidden_meta.data()),
                         head.weights,
                         nv(hidden.b16()),
                         hidden.stride,
                         list};
  rescore_kernel<<<unsigned(list.n), kThreads, 0, stream>>>(args);
  check_launch("re-scoring");
}

}  // namespace lorikeet::cuda
