// Draws by temperature alone, and from the top_k best: one block a row, which reads the row's parts (16 KB) and of the scores (1 MB)
// only what the parts point at. Limit: latency, some 10 to 20 us however many rows there are.
#include "ops.h"
#include "sampler_row.h"
#include "sampler_wide.h"

namespace lorikeet::cuda {
namespace {

constexpr int kLargestTopK = 1280;  // whose list is tried before the whole row is walked

/// Temperature alone: ids in their own order, no choice of candidates.
__device__ int draw_from_all(const RowView& row, SelectShared& sh) {
  int begin, end;
  own_parts(row, begin, end);
  double mine = 0, total;
  for (int p = begin; p < end; p++) mine += part_mass(row, p, true);
  double before = exclusive_scan(mine, total, sh.doubles);
  const double target = row.options.u * total;
  if (threadIdx.x == 0) sh.pick = row.n_parts, sh.last = -1;
  __syncthreads();
  for (int p = begin; p < end; p++) {
    const double mass = part_mass(row, p, true);
    if (mass > 0 && before + mass > target) {
      atomicMin(&sh.pick, p);
      break;
    }
    before += mass;
  }
  __syncthreads();
  const int part = sh.pick;
  if (part == row.n_parts) return row.best.id;        // rounding: u is next to 1
  if (begin <= part && part < end) sh.kept = before;  // its thread has stopped there
  __syncthreads();
  if (warp_id() == 0) {
    const int first = part * kPartWidth + lane_id() * 4;
    float v[4];
    double w[4], sum = 0;
    row.scores.load4(v, first);
    for (int j = 0; j < 4; j++) sum += w[j] = exp(double(v[j] - row.best.score) * row.options.inverse);
    double upto = sum;
    for (int o = 1; o < kWarp; o *= 2) {
      const double other = __shfl_up_sync(kAllLanes, upto, o);
      if (lane_id() >= o) upto += other;
    }
    double at = sh.kept + upto - sum;
    int found = row.scores.V, last = -1;
    for (int j = 3; j >= 0; j--)
      if (w[j] > 0 && last < 0) last = first + j;
    for (int j = 0; j < 4 && found == row.scores.V; j++) {
      at += w[j];
      if (w[j] > 0 && at > target) found = first + j;
    }
    found = int(__reduce_min_sync(kAllLanes, unsigned(found)));
    last = __reduce_max_sync(kAllLanes, last);
    if (lane_id() == 0) sh.last = found < row.scores.V ? found : last;
  }
  __syncthreads();
  return sh.last;
}

/// Draws from the n sorted entries of the list.
__device__ int draw_from_list(const SampleRow& p, int n, SelectShared& sh) {
  constexpr int kEach = kListSize / kSelectThreads;
  const int first = threadIdx.x * kEach;
  const float top = list_score(sh.list[0]);
  if (threadIdx.x == 0) sh.cut = n, sh.last = 0, sh.pick = n;
  __syncthreads();
  double w[kEach], mine = 0, total;
  for (int j = 0; j < kEach; j++) {
    w[j] = 0;
    if (first + j >= n) continue;
    const float score = list_score(sh.list[first + j]);
    w[j] = score == top ? 1.0 : exp(double(score - top) / p.temperature);
    if (p.min_p > 0 && w[j] < p.min_p && first + j > 0) atomicMin(&sh.cut, first + j);
  }
  __syncthreads();
  const int cut = sh.cut;
  for (int j = 0; j < kEach; j++) mine += first + j < cut ? w[j] : 0;
  const double begin = exclusive_scan(mine, total, sh.doubles);
  const double limit = p.top_p < 1 ? double(p.top_p) * total : INFINITY;
  double before = begin;
  int last = -1;
  for (int j = 0; j < kEach && first + j < cut && (before < limit || first + j == 0); j++) {
    last = first + j;
    before += w[j];
  }
  if (last >= 0) atomicMax(&sh.last, last);
  __syncthreads();
  if (last == sh.last) sh.kept = before;
  __syncthreads();
  const double target = p.u * sh.kept;
  before = begin;
  for (int j = 0; j < kEach && first + j <= sh.last; j++) {
    before += w[j];
    if (before <= target) continue;
    atomicMin(&sh.pick, first + j);
    break;
  }
  __syncthreads();
  return list_id(sh.list[min(sh.pick, sh.last)]);
}

__device__ int draw_from_best(const RowView& row, SelectShared& sh) {
  const SampleRow& p = row.options;
  if (p.top_k <= kLargestTopK) {
    const uint32_t low = threshold(row.keys, row.n_parts, p.top_k, order_key(row.best.score), sh);
    const int found = gather(row.scores, row.keys, row.n_parts, low, sh);
    if (found <= kListSize) {
      sort_list(found, sh);
      return draw_from_list(p, min(found, p.top_k), sh);
    }
  }
  return WideRow(row.scores, p, row.best.score, sh).draw();
}

__global__ void __launch_bounds__(kSelectThreads) choose_kernel(RowArgs a) {
  __shared__ SelectShared sh;
  extern __shared__ uint32_t keys[];
  const RowView row = view_row(a, keys, a.list[blockIdx.x], sh);
  const SampleRow& p = row.options;
  int id = row.best.id;
  if (id >= 0 && p.inverse > 0) id = p.top_k > 0 ? draw_from_best(row, sh) : draw_from_all(row, sh);
  answer_row(a, p, id);
}

}  // namespace

RowArgs row_args(Tensor values, OutputList list, const SampleRow* rows, const ScoreChange* changes, SamplerScratch& scratch) {
  const int n_parts = parts_of(values.cols);
  if (sizeof(SelectShared) + size_t(n_parts) * 4 > 48 * 1024)
    throw Error("UNSUPPORTED", "sampling on CUDA: a vocabulary of " + std::to_string(values.cols));
  const bool wide = values.stride % 4 == 0 && reinterpret_cast<uintptr_t>(values.data) % 16 == 0;
  return {values.f32(),
          values.stride,
          wide,
          int(values.cols),
          n_parts,
          static_cast<const Part*>(scratch.parts.data()),
          static_cast<const float2*>(scratch.sums.data()),
          rows,
          changes,
          static_cast<const float*>(scratch.saved.data()),
          static_cast<double*>(scratch.normalisers.data()),
          scratch.ids(),
          scratch.top_ids(),
          scratch.logprobs(),
          scratch.top_logprobs(),
          list};
}

void choose_rows(Tensor values, OutputList list, const SampleRow* rows, const ScoreChange* changes, SamplerScratch& scratch,
                 cudaStream_t stream) {
  const RowArgs args = row_args(values, list, rows, changes, scratch);
  choose_kernel<<<unsigned(list.n), kSelectThreads, size_t(args.n_parts) * 4, stream>>>(args);
  check_launch("draws");
}

}  // namespace lorikeet::cuda
