// Draws by min_p and top_p without a top_k, over however many tokens a nucleus has. Two kernels, several blocks a row: the first sums
// masses by distance from the best score, and its last block finds the steps in which the nucleus ends and the draw falls; the second
// lists the scores of those steps, and its last block sorts them and picks. Limit: two reads of the scores, less what the parts rule
// out of the second. Masses are integers: neither the order of blocks nor their number matters.
#include <algorithm>

#include "ops.h"
#include "sampler_row.h"
#include "sampler_wide.h"

namespace lorikeet::cuda {
namespace {

/// Of one output; masses, n_found and n_done are zero between steps.
struct MassState {
  u64 masses[kBins];
  u64 list[kListSize];
  u64 mass;                     // of all scores
  u64 wanted;                   // the nucleus ends where the running mass reaches it
  u64 before_end, before_draw;  // mass of the steps before end_bin and draw_first
  float bins_per_nat;
  Part best;
  int end_bin;  // -1: nothing is cut off
  int draw_first, draw_last;
  int n_found, n_done[2];
};

/// Steps fine enough for this row: twice the mean distance of its mass, so that a step holds some hundred scores even of flat ones.
__device__ float bins_per_nat(double mass, int V) {
  const float distance = float(log(double(V) / mass));  // of the average score, in nats; mass: 1 for the best score
  if (!(distance > 0)) return 1e30f;
  return fminf(float(kBins - 1) / (2 * distance), 1e30f);
}

/// Whether this block is the last of its row to come here.
__device__ bool last_block(int& n_done, SelectShared& sh) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) sh.count = atomicAdd(&n_done, 1) == int(gridDim.x) - 1;
  __syncthreads();
  if (sh.count) __threadfence();
  return sh.count;
}

/// Adds a warp's weights to their steps; where all fall into one, as those of equal scores do, at once.
__device__ void add_warp(const MassScale& scale, float v, bool valid, SelectShared& sh) {
  const u64 w = valid ? scale.weight(v) : 0;
  const unsigned counts = __ballot_sync(kAllLanes, w > 0);
  if (counts == 0) return;
  const int bin = scale.bin(v), lead = __ffs(int(counts)) - 1, first = __shfl_sync(kAllLanes, bin, lead);
  if (!__all_sync(kAllLanes, w == 0 || bin == first)) {
    if (w > 0) add_mass(sh.low, sh.high, bin, w);
    return;
  }
  const uint32_t low = __reduce_add_sync(kAllLanes, uint32_t(w) & 0x3fffff), high = __reduce_add_sync(kAllLanes, uint32_t(w >> 22));
  if (lane_id() == lead) add_mass(sh.low, sh.high, first, (u64(high) << 22) + low);
}

/// Sums before a thread's own steps, to find where a running mass is reached.
struct RunningMass {
  static constexpr int kEach = kBins / kSelectThreads;
  u64 mass[kEach], before;

  /// Tells through sh the step where the sum reaches target, and the sums before and with it.
  __device__ int find(u64 target, u64& sum_before, u64& sum_with, SelectShared& sh) const {
    u64 sum = before;
    __syncthreads();
    for (int j = 0; j < kEach; sum += mass[j], j++)
      if (sum < target && target <= sum + mass[j]) sh.pick = threadIdx.x * kEach + j, sh.before = sum, sh.with = sum + mass[j];
    __syncthreads();
    sum_before = sh.before;
    sum_with = sh.with;
    return sh.pick;
  }
};

/// The mass at which a draw of u falls: in [1, mass].
__device__ u64 drawn(double u, u64 mass) { return min(u64(u * double(mass)) + 1, mass); }

/// By the row's last block: where the nucleus ends, and where the draw may fall whatever the last step adds to the nucleus.
__device__ void find_steps(MassState& state, const SampleRow& p, SelectShared& sh) {
  RunningMass run;
  u64 mine = 0, total, ignored;
  for (int j = 0; j < RunningMass::kEach; j++) {
    u64& mass = state.masses[threadIdx.x * RunningMass::kEach + j];
    mine += run.mass[j] = __ldcg(&mass);
    mass = 0;
  }
  run.before = exclusive_scan(mine, total, sh.words);
  u64 least = total, most = total, before_end = 0, before_draw;
  int end = -1;
  if (p.top_p < 1) {
    least = min(max(u64(ceil(double(p.top_p) * double(total))), 1ull), total);
    end = run.find(least, before_end, most, sh);
  }
  const int draw_last = run.find(drawn(p.u, most), ignored, ignored, sh);
  const int draw_first = run.find(drawn(p.u, least), before_draw, ignored, sh);
  if (threadIdx.x != 0) return;
  state.mass = total;
  state.wanted = least;
  state.before_end = before_end;
  state.before_draw = before_draw;
  state.end_bin = end;
  state.draw_first = draw_first;
  state.draw_last = draw_last;
  state.n_done[0] = 0;
}

__global__ void __launch_bounds__(kSelectThreads) mass_kernel(RowArgs a, MassState* states) {
  __shared__ SelectShared sh;
  const RowView row = view_row(a, nullptr, a.list[blockIdx.y], sh);
  MassState& state = states[row.options.output];
  if (threadIdx.x == 0 && blockIdx.x == 0) state.best = row.best;
  if (row.best.id < 0) return;
  const MassScale scale{row.best.score, row.options.inverse, row.options.min_p, bins_per_nat(row_mass(row, true, sh), a.V)};
  if (threadIdx.x == 0 && blockIdx.x == 0) state.bins_per_nat = scale.bins_per_nat;
  for (int i = threadIdx.x; i < kBins; i += kSelectThreads) sh.low[i] = sh.high[i] = 0;
  __syncthreads();
  constexpr int kPiece = kSelectThreads * 4;
  for (int begin = blockIdx.x * 2 * kPiece; begin < a.V; begin += gridDim.x * 2 * kPiece) {
    float v[4], w[4];
    const int i = begin + threadIdx.x * 4;
    row.scores.load4(v, i);
    row.scores.load4(w, i + kPiece);
    for (int j = 0; j < 4; j++) add_warp(scale, v[j], i + j < a.V, sh);
    for (int j = 0; j < 4; j++) add_warp(scale, w[j], i + kPiece + j < a.V, sh);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kSelectThreads)
    if (const u64 mass = u64(sh.high[i]) << 32 | sh.low[i]) atomicAdd(&state.masses[i], mass);
  if (last_block(state.n_done[0], sh)) find_steps(state, row.options, sh);
}

/// Lists a warp's scores that are in a step looked for; order does not matter.
__device__ void list_warp(MassState& state, const MassScale& scale, const float (&v)[4], int first, int V) {
  for (int j = 0; j < 4; j++) {
    const int bin = scale.bin(v[j]);
    const bool in_step = bin == state.end_bin || (bin >= state.draw_first && bin <= state.draw_last);
    const bool taken = in_step && first + j < V && scale.weight(v[j]) > 0;
    const unsigned mask = __ballot_sync(kAllLanes, taken);
    if (mask == 0) continue;
    int at = 0;
    if (lane_id() == 0) at = atomicAdd(&state.n_found, __popc(mask));
    at = __shfl_sync(kAllLanes, at, 0) + __popc(mask & ((1u << lane_id()) - 1));
    if (taken && at < kListSize) state.list[at] = u64(~order_key(v[j])) << 32 | uint32_t(first + j);
  }
}

/// From the sorted list of n: the nucleus' exact mass, then the score where the draw falls.
__device__ int pick(const MassState& state, const MassScale& scale, double u, int n, SelectShared& sh) {
  constexpr int kEach = kListSize / kSelectThreads;
  u64 w[kEach], mine = 0, mine_before = 0, listed, listed_before;
  int bins[kEach];
  for (int j = 0; j < kEach; j++) {
    const int i = threadIdx.x * kEach + j;
    const float score = list_score(sh.list[min(i, n - 1)]);
    w[j] = i < n ? scale.weight(score) : 0;
    bins[j] = scale.bin(score);
    mine += w[j];
    if (bins[j] < state.end_bin) mine_before += w[j];
  }
  exclusive_scan(mine_before, listed_before, sh.words);
  const u64 before = exclusive_scan(mine, listed, sh.words);
  if (threadIdx.x == 0) sh.before = state.mass, sh.pick = 0;
  __syncthreads();
  u64 sum = before - listed_before + state.before_end;
  for (int j = 0; j < kEach; sum += w[j], j++)
    if (bins[j] == state.end_bin && sum < state.wanted && state.wanted <= sum + w[j]) sh.before = sum + w[j];
  __syncthreads();
  const u64 target = drawn(u, sh.before);
  sum = before + state.before_draw;
  for (int j = 0; j < kEach; sum += w[j], j++)
    if (bins[j] <= state.draw_last && sum < target && target <= sum + w[j]) sh.pick = threadIdx.x * kEach + j;
  __syncthreads();
  return list_id(sh.list[sh.pick]);
}

/// Warps take parts and read those whose best score reaches the steps looked for.
__global__ void __launch_bounds__(kSelectThreads) pick_kernel(RowArgs a, MassState* states) {
  __shared__ SelectShared sh;
  const SampleRow& p = a.rows[a.list[blockIdx.y]];
  MassState& state = states[p.output];
  const Part best = state.best;
  if (best.id < 0) {
    if (blockIdx.x == 0) answer_row(a, p, best.id);
    return;
  }
  const MassScale scale{best.score, p.inverse, p.min_p, state.bins_per_nat};
  const ScoreRow row{a.values + p.output * a.stride, a.V, a.wide};
  const Part* parts = a.parts + int64_t(p.output) * a.n_parts;
  const int last_step = max(state.end_bin, state.draw_last), n_warps = gridDim.x * kSelectWarps;
  for (int begin = blockIdx.x * kSelectWarps + warp_id(); begin < a.n_parts; begin += kWarp * n_warps) {
    const int part = begin + lane_id() * n_warps;
    unsigned hits = __ballot_sync(kAllLanes, part < a.n_parts && scale.bin(parts[min(part, a.n_parts - 1)].score) <= last_step);
    while (hits) {  // two parts at a time: their loads overlap
      const int one = (begin + (__ffs(int(hits)) - 1) * n_warps) * kPartWidth + lane_id() * 4;
      hits &= hits - 1;
      const int other = hits ? (begin + (__ffs(int(hits)) - 1) * n_warps) * kPartWidth + lane_id() * 4 : a.V;
      hits &= hits - 1;
      float v[4], w[4];
      row.load4(v, one);
      row.load4(w, other);
      list_warp(state, scale, v, one, a.V);
      list_warp(state, scale, w, other, a.V);
    }
  }
  if (!last_block(state.n_done[1], sh)) return;
  const int n = __ldcg(&state.n_found);
  for (int i = threadIdx.x; i < min(n, kListSize); i += kSelectThreads) sh.list[i] = __ldcg(&state.list[i]);
  __syncthreads();
  if (threadIdx.x == 0) state.n_found = state.n_done[1] = 0;
  int id;
  if (n > 0 && n <= kListSize) {
    sort_list(n, sh);
    id = pick(state, scale, p.u, n, sh);
  } else {
    id = WideRow(row, p, best.score, sh).draw();
  }
  answer_row(a, p, id);
}

/// Blocks of a row: few rows alone must fill the device.
int blocks_of_row(int n_rows, int V) { return std::clamp(std::min(512 / n_rows, ceil_div(V, kSelectThreads * 8)), 1, 32); }

}  // namespace

size_t mass_state_bytes() { return sizeof(MassState); }

void choose_by_mass(Tensor values, OutputList list, const SampleRow* rows, const ScoreChange* changes, SamplerScratch& scratch,
                    cudaStream_t stream) {
  const RowArgs args = row_args(values, list, rows, changes, scratch);
  auto* states = static_cast<MassState*>(scratch.mass_states.data());
  const dim3 grid(unsigned(blocks_of_row(list.n, args.V)), unsigned(list.n));
  mass_kernel<<<grid, kSelectThreads, 0, stream>>>(args, states);
  pick_kernel<<<grid, kSelectThreads, 0, stream>>>(args, states);
  check_launch("draws by mass");
}

}  // namespace lorikeet::cuda
