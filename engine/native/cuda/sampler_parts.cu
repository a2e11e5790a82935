// Parts of finished scores, the best of a row's parts, and a request's own changes to its scores. Limit: a read of the scores.
#include "ops.h"
#include "sampler.h"

namespace lorikeet::cuda {
namespace {

constexpr int kPartWarps = 4, kPartsPerWarp = 4, kBestThreads = 512, kChangeThreads = 256;

/// Best of 128 scores of a warp, four consecutive ones a lane from id `first`; every lane gets it.
__device__ u64 warp_best(const float (&v)[4], int first) {
  int at = 0;
  uint32_t key = order_key(v[0]);
  for (int j = 1; j < 4; j++) {
    const uint32_t other = order_key(v[j]);
    if (other > key) key = other, at = j;
  }
  const uint32_t best = __reduce_max_sync(kAllLanes, key);
  const int lane = __ffs(int(__ballot_sync(kAllLanes, key == best))) - 1;  // lower lanes have lower ids
  return packed(best, __shfl_sync(kAllLanes, first + at, lane));
}

/// Sum over the warp's scores of exp((v - best) * scale), 0 where all are -inf.
__device__ float warp_mass(const float (&v)[4], float best, float scale) {
  if (best == -INFINITY) return 0;
  float sum = 0;
  for (int j = 0; j < 4; j++) sum += v[j] == best ? 1.0f : expf((v[j] - best) * scale);
  return warp_sum(sum);
}

/// One warp, four parts, whose loads are all in flight before the first is used.
template <bool kSums>
__global__ void parts_kernel(Part* parts, float2* sums, const float* values, int64_t stride, bool wide, int V, int n_parts, OutputList list,
                             const SampleRow* rows, const int32_t* row_of_output) {
  const int s = list[blockIdx.y], lane = threadIdx.x % kWarp;
  const int first = (blockIdx.x * kPartWarps + threadIdx.x / kWarp) * kPartsPerWarp;
  const ScoreRow row{values + s * stride, V, wide};
  float v[kPartsPerWarp][4];
  for (int p = 0; p < kPartsPerWarp; p++) row.load4(v[p], (first + p) * kPartWidth + lane * 4);
  const int r = kSums ? row_of_output[s] : -1;
  const float inverse = r >= 0 ? rows[r].inverse : 0;
  for (int p = 0; p < kPartsPerWarp; p++) {
    const int part = first + p;
    if (part >= n_parts) return;
    const Part best = unpacked(warp_best(v[p], part * kPartWidth + lane * 4));
    float2 sum{0, 0};
    if (kSums && r >= 0) {
      sum.x = warp_mass(v[p], best.score, 1);
      sum.y = inverse == 1 ? sum.x : warp_mass(v[p], best.score, inverse);
    }
    if (lane != 0) continue;
    parts[int64_t(s) * n_parts + part] = best;
    if (kSums && r >= 0) sums[int64_t(s) * n_parts + part] = sum;
  }
}

/// The last stage of a greedy choice: one block an output.
__global__ void best_kernel(int32_t* ids, const Part* parts, int n_parts, OutputList list) {
  __shared__ u64 shared[kWarp];
  const int s = list[blockIdx.x];
  const u64 best = best_of_parts(parts + int64_t(s) * n_parts, n_parts, shared);
  if (threadIdx.x == 0) answer(ids, s, unpacked(best).id);
}

/// One block a row. A NaN stays: it is the model's, and no request may hide it.
__global__ void change_kernel(float* values, int64_t stride, float* saved, OutputList list, const SampleRow* rows,
                              const ScoreChange* changes) {
  const SampleRow& row = rows[list[blockIdx.x]];
  float* scores = values + row.output * stride;
  for (int i = row.change_begin + int(threadIdx.x); i < row.change_end; i += blockDim.x) {
    const ScoreChange c = changes[i];
    const float raw = scores[c.id];
    saved[i] = raw;
    if (raw != raw) continue;
    float v = raw;
    if (c.repeated) v = v > 0 ? __fdiv_rn(v, row.repetition_penalty) : __fmul_rn(v, row.repetition_penalty);
    v = __fadd_rn(__fsub_rn(v, c.minus), c.plus);
    scores[c.id] = c.suppressed ? -INFINITY : v;
  }
}

}  // namespace

void find_parts(Tensor values, OutputList list, const SampleRow* rows, const int32_t* row_of_output, SamplerScratch& scratch,
                cudaStream_t stream) {
  const int n_parts = parts_of(values.cols);
  const dim3 grid(unsigned(ceil_div(n_parts, kPartWarps * kPartsPerWarp)), unsigned(list.n));
  const bool wide = values.stride % 4 == 0 && reinterpret_cast<uintptr_t>(values.data) % 16 == 0;
  const auto kernel = row_of_output ? parts_kernel<true> : parts_kernel<false>;
  kernel<<<grid, kPartWarps * kWarp, 0, stream>>>(static_cast<Part*>(scratch.parts.data()), static_cast<float2*>(scratch.sums.data()),
                                                  values.f32(), values.stride, wide, int(values.cols), n_parts, list, rows, row_of_output);
  check_launch("parts");
}

void choose_best(OutputList list, int64_t V, SamplerScratch& scratch, cudaStream_t stream) {
  best_kernel<<<unsigned(list.n), kBestThreads, 0, stream>>>(scratch.ids(), static_cast<const Part*>(scratch.parts.data()), parts_of(V),
                                                             list);
  check_launch("best of the parts");
}

void apply_changes(Tensor values, OutputList list, const SampleRow* rows, const ScoreChange* changes, SamplerScratch& scratch,
                   cudaStream_t stream) {
  change_kernel<<<unsigned(list.n), kChangeThreads, 0, stream>>>(values.f32(), values.stride, static_cast<float*>(scratch.saved.data()),
                                                                 list, rows, changes);
  check_launch("penalties");
}

}  // namespace lorikeet::cuda
