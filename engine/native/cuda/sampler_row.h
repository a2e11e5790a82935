// What a block that works on one row of scores knows of it, and the masses that the row's parts hold. For sampler_*.cu.
#pragma once
#include "sampler_select.h"

namespace lorikeet::cuda {

struct RowArgs {
  const float* values;
  int64_t stride;
  bool wide;
  int V, n_parts;
  const Part* parts;
  const float2* sums;
  const SampleRow* rows;
  const ScoreChange* changes;
  const float* saved;
  double* normalisers;
  int32_t *ids, *top_ids;
  float *logprobs, *top_logprobs;
  OutputList list;
};

RowArgs row_args(Tensor values, OutputList list, const SampleRow* rows, const ScoreChange* changes, SamplerScratch& scratch);

#if defined(__CUDACC__)
/// What a block knows of its row.
struct RowView {
  const SampleRow& options;
  ScoreRow scores;
  const Part* parts;
  const float2* sums;
  int n_parts;
  uint32_t* keys;  // [n_parts] shared
  Part best;
};

/// Row r. keys may be null where none are needed.
__device__ inline RowView view_row(const RowArgs& a, uint32_t* keys, int r, SelectShared& sh) {
  const SampleRow& options = a.rows[r];
  const int64_t s = options.output;
  const Part* parts = a.parts + s * a.n_parts;
  if (keys)
    for (int p = threadIdx.x; p < a.n_parts; p += kSelectThreads) keys[p] = order_key(parts[p].score);
  const Part best = unpacked(best_of_parts(parts, a.n_parts, sh.words));
  __syncthreads();
  return {options, {a.values + s * a.stride, a.V, a.wide}, parts, a.sums + s * a.n_parts, a.n_parts, keys, best};
}

/// Parts [begin, end) of a thread: consecutive, so that a scan over threads runs in order of ids.
__device__ inline void own_parts(const RowView& row, int& begin, int& end) {
  const int each = (row.n_parts + kSelectThreads - 1) / kSelectThreads;
  begin = min(row.n_parts, int(threadIdx.x) * each);
  end = min(row.n_parts, begin + each);
}

/// Mass of a part relative to the row's best score: of the scores as they stand, or by temperature.
__device__ inline double part_mass(const RowView& row, int p, bool by_temperature) {
  const float2 sum = row.sums[p];
  const float best = row.parts[p].score;
  if (best == -INFINITY) return 0;
  if (!by_temperature) return double(sum.x) * exp(double(best) - double(row.best.score));
  return double(sum.y) * exp(double(best - row.best.score) * row.options.inverse);
}

__device__ inline double row_mass(const RowView& row, bool by_temperature, SelectShared& sh) {
  int begin, end;
  own_parts(row, begin, end);
  double mine = 0, total;
  for (int p = begin; p < end; p++) mine += part_mass(row, p, by_temperature);
  exclusive_scan(mine, total, sh.doubles);
  return total;
}

/// The row's token, and its log-probability before the request's own changes.
__device__ inline void answer_row(const RowArgs& a, const SampleRow& p, int id) {
  if (threadIdx.x == 0) answer(a.ids, p.output, id);
  if (id < 0 || p.n_logprobs < 0) return;
  if (threadIdx.x == 0) a.logprobs[p.output] = float(double(a.values[p.output * a.stride + id]) - a.normalisers[p.output]);
  __syncthreads();
  for (int c = p.change_begin + int(threadIdx.x); c < p.change_end; c += kSelectThreads)
    if (a.changes[c].id == id) a.logprobs[p.output] = float(double(a.saved[c]) - a.normalisers[p.output]);
}
#endif

}  // namespace lorikeet::cuda
