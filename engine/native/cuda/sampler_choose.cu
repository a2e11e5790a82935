// Draws and log-probabilities: one block a row, which reads the row's parts (16 KB) and of the scores (1 MB) only what the parts point
// at. Limit: latency, some 10 to 20 us however many rows there are.
#include "ops.h"
#include "sampler_select.h"
#include "sampler_wide.h"

namespace lorikeet::cuda {
namespace {

constexpr int kIncomplete = -2;
constexpr int kNucleus = 256, kLargeNucleus = 1280;  // scores at least that a nucleus is looked for among

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

__device__ RowView view_row(const RowArgs& a, uint32_t* keys, SelectShared& sh) {
  const SampleRow& options = a.rows[a.list[blockIdx.x]];
  const int64_t s = options.output;
  const Part* parts = a.parts + s * a.n_parts;
  for (int p = threadIdx.x; p < a.n_parts; p += kSelectThreads) keys[p] = order_key(parts[p].score);
  const Part best = unpacked(best_of_parts(parts, a.n_parts, sh.words));
  __syncthreads();
  return {options, {a.values + s * a.stride, a.V, a.wide}, parts, a.sums + s * a.n_parts, a.n_parts, keys, best};
}

/// Parts [begin, end) of a thread: consecutive, so that a scan over threads runs in order of ids.
__device__ void own_parts(const RowView& row, int& begin, int& end) {
  const int each = (row.n_parts + kSelectThreads - 1) / kSelectThreads;
  begin = min(row.n_parts, int(threadIdx.x) * each);
  end = min(row.n_parts, begin + each);
}

/// Mass of a part relative to the row's best score: of the scores as they stand, or by temperature.
__device__ double part_mass(const RowView& row, int p, bool by_temperature) {
  const float2 sum = row.sums[p];
  const float best = row.parts[p].score;
  if (best == -INFINITY) return 0;
  if (!by_temperature) return double(sum.x) * exp(double(best) - double(row.best.score));
  return double(sum.y) * exp(double(best - row.best.score) * row.options.inverse);
}

__device__ double row_mass(const RowView& row, bool by_temperature, SelectShared& sh) {
  int begin, end;
  own_parts(row, begin, end);
  double mine = 0, total;
  for (int p = begin; p < end; p++) mine += part_mass(row, p, by_temperature);
  exclusive_scan(mine, total, sh.doubles);
  return total;
}

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

/// Draws from the n sorted entries of the list. everything: mass of the whole row, or < 0 where the list is all that counts.
/// kIncomplete: min_p and top_p reach beyond the list.
__device__ int draw_from_list(const SampleRow& p, int n, double everything, SelectShared& sh) {
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
  const bool lacks_tail = everything >= 0 && cut == n;
  const double whole = lacks_tail ? everything : total;
  if (lacks_tail && total < (p.top_p < 1 ? double(p.top_p) : 1.0) * whole) return kIncomplete;
  const double limit = p.top_p < 1 ? double(p.top_p) * whole : INFINITY;
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
  const int V = row.scores.V;
  const double everything = p.top_k > 0 ? -1 : row_mass(row, true, sh);
  for (int k : {p.top_k > 0 ? p.top_k : kNucleus, kLargeNucleus}) {
    if (k > kLargeNucleus) break;
    const uint32_t low = threshold(row.keys, row.n_parts, k, order_key(row.best.score), sh);
    const int found = gather(row.scores, row.keys, row.n_parts, low, sh);
    if (found > kListSize) break;
    sort_list(found, sh);
    const int n = p.top_k > 0 ? min(found, p.top_k) : found;
    const int id = draw_from_list(p, n, n == V ? -1 : everything, sh);
    __syncthreads();
    if (id != kIncomplete) return id;
  }
  return WideRow(row.scores, p, row.best.score, sh).draw();
}

__global__ void __launch_bounds__(kSelectThreads) choose_kernel(RowArgs a) {
  __shared__ SelectShared sh;
  extern __shared__ uint32_t keys[];
  const RowView row = view_row(a, keys, sh);
  const SampleRow& p = row.options;
  int id = row.best.id;
  if (id >= 0 && p.inverse > 0) id = p.top_k <= 0 && p.top_p >= 1 && p.min_p <= 0 ? draw_from_all(row, sh) : draw_from_best(row, sh);
  if (threadIdx.x == 0) a.ids[p.output] = id;
  if (id < 0 || p.n_logprobs < 0) return;
  // The score before the request's own changes.
  if (threadIdx.x == 0) a.logprobs[p.output] = float(double(row.scores.values[id]) - a.normalisers[p.output]);
  __syncthreads();
  for (int c = p.change_begin + int(threadIdx.x); c < p.change_end; c += kSelectThreads)
    if (a.changes[c].id == id) a.logprobs[p.output] = float(double(a.saved[c]) - a.normalisers[p.output]);
}

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
  const RowView row = view_row(a, keys, sh);
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

template <class Kernel>
void launch(Kernel kernel, Tensor values, OutputList list, const SampleRow* rows, const ScoreChange* changes, SamplerScratch& scratch,
            cudaStream_t stream) {
  const int n_parts = parts_of(values.cols);
  if (sizeof(SelectShared) + size_t(n_parts) * 4 > 48 * 1024)
    throw Error("UNSUPPORTED", "sampling on CUDA: a vocabulary of " + std::to_string(values.cols));
  const bool wide = values.stride % 4 == 0 && reinterpret_cast<uintptr_t>(values.data) % 16 == 0;
  const RowArgs args{values.f32(),
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
  kernel<<<unsigned(list.n), kSelectThreads, size_t(n_parts) * 4, stream>>>(args);
}

}  // namespace

void describe_rows(Tensor values, OutputList list, const SampleRow* rows, SamplerScratch& scratch, cudaStream_t stream) {
  launch(describe_kernel, values, list, rows, nullptr, scratch, stream);
  check_launch("log-probabilities");
}

void choose_rows(Tensor values, OutputList list, const SampleRow* rows, const ScoreChange* changes, SamplerScratch& scratch,
                 cudaStream_t stream) {
  launch(choose_kernel, values, list, rows, changes, scratch, stream);
  check_launch("draws");
}

}  // namespace lorikeet::cuda
