// Greedy rows that nothing modifies are decided on the device: one block a row, the lower id among equals, -1 where a score is NaN. Every
// other row's scores go to the host, whose sampler knows all options.
#include <limits>

#include "ops.h"

namespace lorikeet::cuda {
namespace {

constexpr int kThreads = 1024;

struct Best {
  float score;
  int32_t id;
};

__device__ Best better(Best a, Best b) { return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a; }

__global__ void argmax_kernel(int32_t* out, const float* values, int64_t stride, int V) {
  __shared__ Best shared[kWarp];
  __shared__ int nan_seen;
  if (threadIdx.x == 0) nan_seen = 0;
  __syncthreads();
  const float* row = values + blockIdx.x * stride;
  Best best{-INFINITY, 0x7fffffff};
  bool nan = false;
  for (int i = threadIdx.x; i < V; i += blockDim.x) {
    nan |= row[i] != row[i];
    best = better(best, {row[i], i});
  }
  if (nan) nan_seen = 1;
  for (int round = 0; round < 2; round++) {
    for (int o = kWarp / 2; o > 0; o /= 2)
      best = better(best, {__shfl_xor_sync(0xffffffffu, best.score, o), __shfl_xor_sync(0xffffffffu, best.id, o)});
    if (round == 0) {
      if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = best;
      __syncthreads();
      best = shared[threadIdx.x % kWarp];
    }
  }
  if (threadIdx.x == 0) out[blockIdx.x] = nan_seen ? -1 : best.id;
}

bool plainly_greedy(const BatchOutput& o, const SequenceState& state) {
  const Sampling& p = state.sampling;
  return o.target < 0 && o.n_logprobs < 0 && p.temperature <= 0 && !p.counts_tokens() && p.bias.empty() && state.n_sampled >= p.min_tokens;
}

}  // namespace

SampleResult sample_cuda(Scores& scores, std::span<const BatchOutput> outputs, const SequenceTable& table, std::span<const BatchRow> rows,
                         Backend& host, cudaStream_t stream) {
  const int64_t S = int64_t(outputs.size()), V = scores.values.cols;
  Buffer device_ids = allocate_device(size_t(S) * 4);
  auto* ids = static_cast<int32_t*>(device_ids.data());
  argmax_kernel<<<unsigned(S), kThreads, 0, stream>>>(ids, scores.values.f32(), scores.values.stride, int(V));
  check_launch("argmax");
  SampleResult result;
  result.token_ids.resize(size_t(S));
  result.logprobs.assign(size_t(S), std::numeric_limits<float>::quiet_NaN());
  check(cudaMemcpyAsync(result.token_ids.data(), ids, size_t(S) * 4, cudaMemcpyDeviceToHost, stream), "sampled tokens");
  check(cudaStreamSynchronize(stream), "step");
  Head exact;
  exact.format = HeadFormat::kBF16;
  for (int64_t s = 0; s < S; s++) {
    if (plainly_greedy(outputs[s], table[rows[outputs[s].row].slot])) continue;
    std::vector<float> values = std::vector<float>(size_t(V));
    check(cudaMemcpy(values.data(), scores.values.f32(s), size_t(V) * 4, cudaMemcpyDeviceToHost), "scores");
    Scores one;
    one.values = {values.data(), DType::kF32, 1, V, V};
    one.heads = {&exact};
    one.edges = {nullptr};
    const SampleResult sampled = host.sample(one, outputs.subspan(size_t(s), 1), table, rows);
    result.token_ids[s] = sampled.token_ids[0];
    result.logprobs[s] = sampled.logprobs[0];
    result.top_ids.insert(result.top_ids.end(), sampled.top_ids.begin(), sampled.top_ids.end());
    result.top_logprobs.insert(result.top_logprobs.end(), sampled.top_logprobs.begin(), sampled.top_logprobs.end());
  }
  return result;
}

}  // namespace lorikeet::cuda
