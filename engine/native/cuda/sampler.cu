// One token for every output, as sequence_table.h orders the steps. Here: what goes up (options and sparse changes), which kernels
// run, and what they write to the host's memory (ids, log-probabilities, alternatives; never scores).
#include <atomic>
#include <cstring>
#include <limits>

#include "head.h"
#include "ops.h"
#include "sampler_plan.h"

namespace lorikeet::cuda {
namespace {

/// Copies arrays into pinned memory one after another and sends them in one piece.
class Upload {
 public:
  explicit Upload(SamplerScratch& scratch) : scratch_(scratch) {}
  static size_t aligned(size_t bytes) { return (bytes + 15) / 16 * 16; }
  template <class T>
  const T* add(const std::vector<T>& v) {
    std::memcpy(scratch_.staging + used_, v.data(), v.size() * sizeof(T));
    const auto* on_device = reinterpret_cast<const T*>(static_cast<char*>(scratch_.staged.data()) + used_);
    used_ += aligned(v.size() * sizeof(T));
    return on_device;
  }
  /// Outputs in ascending order; all of them need no list.
  OutputList list(const std::vector<int32_t>& v, size_t all) {
    const int n = int(v.size());
    return {v.size() == all ? nullptr : add(v), n};
  }
  void send(cudaStream_t stream) {
    if (used_)
      check(cudaMemcpyAsync(scratch_.staged.data(), scratch_.staging, used_, cudaMemcpyHostToDevice, stream), "upload of sampling");
  }

 private:
  SamplerScratch& scratch_;
  size_t used_ = 0;
};

/// The heads of bounded outputs are one as a rule; any other is scored in bf16.
void settle_states(Scores& scores, std::span<const BatchOutput> outputs, const std::vector<bool>& plain, SamplerScratch& scratch,
                   CublasLt& blas, cudaStream_t stream) {
  const int64_t S = int64_t(outputs.size());
  if (scores.ticket == 0 || scores.ticket != scratch.ticket) scratch.states.assign(size_t(S), ScoreState::kPlain);
  const Head* head = nullptr;
  for (int64_t s = 0; s < S; s++) {
    if (scratch.states[s] != ScoreState::kBounded) continue;
    if (plain[s] && (!head || head == scores.heads[s]))
      head = scores.heads[s];
    else
      score_exactly(scores, s, scratch, blas, stream);  // greedy with penalties or a bias
  }
}

void run_plan(const SamplePlan& plan, Scores& scores, SamplerScratch& scratch, cudaStream_t stream) {
  const size_t S = plan.row_of_output.size(), R = plan.rows.size();
  const Tensor values = scores.values;
  Upload up(scratch);
  const OutputList bounded = up.list(plan.bounded, S), exact = up.list(plan.exact, S), first = up.list(plan.first_parts, S),
                   second = up.list(plan.second_parts, S);
  const SampleRow* rows = nullptr;
  const ScoreChange* changes = nullptr;
  const int32_t* row_of_output = nullptr;
  OutputList described, changed, chosen, weighed;
  if (R > 0) {
    rows = up.add(plan.rows);
    changes = up.add(plan.changes);
    row_of_output = up.add(plan.row_of_output);
    described = up.list(plan.described, R), changed = up.list(plan.changed, R), chosen = up.list(plan.chosen, R);
    weighed = up.list(plan.weighed, R);
  }
  up.send(stream);
  if (bounded.n > 0) {
    const auto& head = static_cast<const HeadCuda&>(*scores.heads[plan.bounded[0]]);
    choose_bounded(values, scores.hidden, head, bounded, scratch, stream);
  }
  if (first.n > 0) find_parts(values, first, rows, plan.first_sums ? row_of_output : nullptr, scratch, stream);
  if (exact.n > 0) choose_best(exact, values.cols, scratch, stream);
  if (described.n > 0) describe_rows(values, described, rows, scratch, stream);
  if (changed.n > 0) {
    apply_changes(values, changed, rows, changes, scratch, stream);
    find_parts(values, second, rows, row_of_output, scratch, stream);
  }
  if (chosen.n > 0) choose_rows(values, chosen, rows, changes, scratch, stream);
  if (weighed.n > 0) choose_by_mass(values, weighed, rows, changes, scratch, stream);
}

size_t upload_bytes(const SamplePlan& plan) {
  const size_t S = plan.row_of_output.size();
  const size_t rows = Upload::aligned(plan.rows.size() * sizeof(SampleRow)),
               changes = Upload::aligned(plan.changes.size() * sizeof(ScoreChange));
  return rows + changes + 9 * Upload::aligned(S * 4);
}

int32_t id_now(const SamplerScratch& scratch, size_t s) { return std::atomic_ref(scratch.ids()[s]).load(std::memory_order_acquire); }

/// Waits for every output's id. They come as they are chosen, some microseconds before the stream reports its end.
void wait_for_ids(const SamplerScratch& scratch, size_t S, cudaStream_t stream) {
  constexpr int kLooks = 4096;  // between questions to the driver, so that a fault ends the wait
  for (size_t s = 0; s < S; s++)
    for (int looks = 1; id_now(scratch, s) == kPending; looks++) {
      if (looks % kLooks != 0) continue;
      const cudaError_t status = cudaStreamQuery(stream);
      if (status == cudaErrorNotReady) continue;
      check(status, "step");
      if (id_now(scratch, s) == kPending) throw Error("CUDA_ERROR", "step: output " + std::to_string(s) + " got no token");
    }
}

/// Outputs whose bounds left too many rows: by the whole bf16 head, after all.
void redo_failed(Scores& scores, SamplerScratch& scratch, CublasLt& blas, cudaStream_t stream) {
  SamplePlan plan;
  const size_t S = scratch.states.size();
  for (size_t s = 0; s < S; s++) {
    if (scratch.ids()[s] != kRescoreFailed) continue;
    scratch.ids()[s] = kPending;
    score_exactly(scores, int64_t(s), scratch, blas, stream);
    plan.exact.push_back(int32_t(s));
    if (scratch.states[s] == ScoreState::kPlain) plan.first_parts.push_back(int32_t(s));
  }
  if (plan.exact.empty()) return;
  plan.row_of_output.assign(S, -1);
  scratch.reserve_staging(upload_bytes(plan), stream);
  run_plan(plan, scores, scratch, stream);
  wait_for_ids(scratch, S, stream);
}

SampleResult read_result(const SamplerScratch& scratch, std::span<const BatchOutput> outputs) {
  SampleResult result;
  for (size_t s = 0; s < outputs.size(); s++) {
    const BatchOutput& o = outputs[s];
    const int32_t chosen = scratch.ids()[s];
    const bool nan = chosen < 0;
    result.token_ids.push_back(nan || o.target < 0 ? chosen : o.target);
    result.logprobs.push_back(nan || o.n_logprobs < 0 ? std::numeric_limits<float>::quiet_NaN() : scratch.logprobs()[s]);
    for (int i = 0; i < o.n_logprobs; i++) {
      const size_t at = s * kMaxAlternatives + size_t(i);
      const int32_t id = nan || i >= kMaxAlternatives ? -1 : scratch.top_ids()[at];
      result.top_ids.push_back(id);
      result.top_logprobs.push_back(id < 0 ? -std::numeric_limits<float>::infinity() : scratch.top_logprobs()[at]);
    }
  }
  return result;
}

}  // namespace

SampleResult sample_cuda(Scores& scores, std::span<const BatchOutput> outputs, const SequenceTable& table, std::span<const BatchRow> rows,
                         CublasLt& blas, SamplerScratch& scratch, cudaStream_t stream) {
  const size_t S = outputs.size();
  if (S == 0) return {};
  scratch.reserve_outputs(int64_t(S), scores.values.cols, scores.hidden.cols, stream);
  std::vector<bool> plain(S);
  for (size_t s = 0; s < S; s++) plain[s] = plainly_greedy(outputs[s], table[rows[outputs[s].row].slot]);
  settle_states(scores, outputs, plain, scratch, blas, stream);
  const SamplePlan plan = make_plan(outputs, table, rows, plain, scratch.states, scores.values.cols);
  scratch.reserve_staging(upload_bytes(plan), stream);
  std::fill_n(scratch.ids(), S, kPending);
  run_plan(plan, scores, scratch, stream);
  if (plan.described.empty())
    wait_for_ids(scratch, S, stream);
  else
    check(cudaStreamSynchronize(stream), "step");
  if (!plan.bounded.empty()) redo_failed(scores, scratch, blas, stream);
  scratch.ticket++;  // draws have changed the scores
  return read_result(scratch, outputs);
}

}  // namespace lorikeet::cuda
