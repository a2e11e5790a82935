// Log-probabilities of raw scores: normaliser, alternatives, the target's. One block a row. Limit: latency.
#include "ops.h"
#include "sampler_row.h"

namespace lorikeet::cuda {
namespace {

/// The n best, one after another: for thousands of equal scores, which no list holds.
__device__ void best_one_by_one(const ScoreRow& row, int n, SelectShared& sh) {
  u64 last = ~0ull;
  for (int k = 0; k < n; k++) {
    u64 best = 0;
    for (int i = threadIdx.x; i < row.V; i += kSelectThreads) {
      const u64 v = packed(order_key(row.values[i]), i);
      if (v < last) best = larger(best, v);
    }
    best = warp_larger(best);
    __syncthreads();
    if (lane_id() == 0) sh.words[warp_id()] = best;
    __syncthreads();
    last = warp_larger(lane_id() < kSelectWarps ? sh.words[lane_id()] : 0);
    if (threadIdx.x == 0) sh.list[k] = u64(~uint32_t(last >> 32)) << 32 | uint32_t(unpacked(last).id);
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kSelectThreads) describe_kernel(RowArgs a) {
  __shared__ SelectShared sh;
  extern __shared__ uint32_t keys[];
  const RowView row = view_row(a, keys, a.list[blockIdx.x], sh);
  const SampleRow& p = row.options;
  if (row.best.id < 0) return;  // NaN: the host says so by the id
  const double normaliser = double(row.best.score) + log(row_mass(row, false, sh));
  if (threadIdx.x == 0) {
    a.normalisers[p.output] = normaliser;
    if (p.target >= 0) a.logprobs[p.output] = float(double(row.scores.values[p.target]) - normaliser);
  }
  if (p.n_logprobs == 0) return;
  const uint32_t low = threshold(row.keys, row.n_parts, p.n_logprobs, order_key(row.best.score), sh);
  const int found = gather(row.scores, row.keys, row.n_parts, low, sh), n = min(p.n_logprobs, row.scores.V);
  if (found <= kListSize)
    sort_list(found, sh);
  else
    best_one_by_one(row.scores, n, sh);
  if (int(threadIdx.x) >= n) return;
  const int64_t at = int64_t(p.output) * kMaxAlternatives + threadIdx.x;
  a.top_ids[at] = list_id(sh.list[threadIdx.x]);
  a.top_logprobs[at] = float(double(list_score(sh.list[threadIdx.x])) - normaliser);
}

}  // namespace

void describe_rows(Tensor values, OutputList list, const SampleRow* rows, SamplerScratch& scratch, cudaStream_t stream) {
  const RowArgs args = row_args(values, list, rows, nullptr, scratch);
  describe_kernel<<<unsigned(list.n), kSelectThreads, size_t(args.n_parts) * 4, stream>>>(args);
  check_launch("log-probabilities");
}

}  // namespace lorikeet::cuda
