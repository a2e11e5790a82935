// One token for every output, as sequence_table.h orders the steps. Here: which outputs need which kernels, what goes up (options and
// sparse changes) and what comes back (ids, log-probabilities, alternatives; never scores).
#include "sampler.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <unordered_map>

#include "../core/philox.h"
#include "head.h"
#include "ops.h"

namespace lorikeet::cuda {
namespace {

bool plainly_greedy(const BatchOutput& o, const SequenceState& state) {
  const Sampling& p = state.sampling;
  const bool suppresses = state.n_sampled < p.min_tokens && !p.suppressed.empty();
  return o.target < 0 && o.n_logprobs < 0 && p.temperature <= 0 && !p.counts_tokens() && p.bias.empty() && !suppresses;
}

/// What the request does to single scores.
class Changes {
 public:
  Changes(std::vector<ScoreChange>& changes, const SequenceState& state, int64_t V) : changes_(changes), V_(V) {
    const Sampling& p = state.sampling;
    const bool suppresses = state.n_sampled < p.min_tokens && !p.suppressed.empty();
    indexed_ = !p.bias.empty() || suppresses;
    if (p.repetition_penalty != 1)
      for (const auto& [id, n] : state.prompt_counts)
        if (!state.output_counts.contains(id)) add(id).repeated = 1;
    if (p.counts_tokens())
      for (const auto& [id, n] : state.output_counts) {
        ScoreChange& c = add(id);
        c.repeated = p.repetition_penalty != 1;
        c.minus = p.presence_penalty + p.frequency_penalty * float(n);
      }
    for (const auto& [id, bias] : p.bias) find(id).plus += bias;
    if (suppresses)
      for (int32_t id : p.suppressed) find(id).suppressed = 1;
  }

 private:
  ScoreChange& add(int32_t id) {
    if (id < 0 || id >= V_) return ignored_;
    if (indexed_) at_[id] = changes_.size();
    return changes_.emplace_back(ScoreChange{id, 0, 0, 0, 0});
  }
  ScoreChange& find(int32_t id) {
    const auto it = at_.find(id);
    return it == at_.end() ? add(id) : changes_[it->second];
  }

  std::vector<ScoreChange>& changes_;
  int64_t V_;
  bool indexed_;
  std::unordered_map<int32_t, size_t> at_;
  ScoreChange ignored_{};
};

/// Which kernel works on what. Lists of outputs, or of rows: outputs that are more than the best of their raw scores.
struct SamplePlan {
  std::vector<SampleRow> rows;
  std::vector<ScoreChange> changes;
  std::vector<int32_t> row_of_output;               // [S], -1: none
  std::vector<int32_t> bounded, exact;              // outputs: by their bounds, by their parts
  std::vector<int32_t> first_parts, second_parts;   // outputs whose parts are found: of raw scores, and of changed ones
  std::vector<int32_t> described, changed, chosen;  // rows
  bool first_sums = false;
};

SampleRow make_row(const BatchOutput& o, int32_t s, const SequenceState& state) {
  const Sampling& p = state.sampling;
  SampleRow row{};
  row.output = s;
  row.target = o.target;
  row.n_logprobs = o.n_logprobs;
  row.repetition_penalty = p.repetition_penalty;
  if (p.temperature <= 0 || o.target >= 0) return row;
  row.temperature = p.temperature;
  row.inverse = std::min(1 / p.temperature, 1e30f);
  row.u = uniform(p.seed, uint64_t(state.n_sampled));
  row.top_k = std::max(0, p.top_k);
  row.top_p = p.top_p;
  row.min_p = p.min_p;
  return row;
}

void plan_row(SamplePlan& plan, const BatchOutput& o, int32_t s, const SequenceState& state, int64_t V, ScoreState scored) {
  SampleRow row = make_row(o, s, state);
  const int32_t r = int32_t(plan.rows.size());
  row.change_begin = int32_t(plan.changes.size());
  if (o.target < 0) Changes(plan.changes, state, V);
  row.change_end = int32_t(plan.changes.size());
  const bool changed = row.change_end > row.change_begin, described = o.n_logprobs >= 0;
  const bool weighed = row.inverse > 0 && row.top_k == 0;  // needs the mass of all scores
  const bool sums = described || (weighed && !changed);
  if (sums || (scored == ScoreState::kPlain && !changed)) plan.first_parts.push_back(s);
  plan.first_sums |= sums;
  if (described) plan.described.push_back(r);
  if (changed) plan.changed.push_back(r), plan.second_parts.push_back(s);
  if (o.target < 0)
    plan.chosen.push_back(r);
  else
    plan.exact.push_back(s);
  plan.row_of_output[s] = r;
  plan.rows.push_back(row);
}

/// Copies arrays into pinned memory one after another and sends them in one piece.
class Upload {
 public:
  explicit Upload(SamplerScratch& scratch) : scratch_(scratch) {}
  static size_t aligned(size_t bytes) { return (bytes + 15) / 16 * 16; }
  template <class T>
  const T* add(const std::vector<T>& v) {
    std::memcpy(scratch_.pinned_in + used_, v.data(), v.size() * sizeof(T));
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
      check(cudaMemcpyAsync(scratch_.staged.data(), scratch_.pinned_in, used_, cudaMemcpyHostToDevice, stream), "upload of sampling");
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

SamplePlan make_plan(std::span<const BatchOutput> outputs, const SequenceTable& table, std::span<const BatchRow> rows,
                     const std::vector<bool>& plain, const std::vector<ScoreState>& states, int64_t V) {
  SamplePlan plan;
  plan.row_of_output.assign(outputs.size(), -1);
  for (int32_t s = 0; s < int32_t(outputs.size()); s++) {
    if (!plain[s]) {
      plan_row(plan, outputs[s], s, table[rows[outputs[s].row].slot], V, states[s]);
      continue;
    }
    (states[s] == ScoreState::kBounded ? plan.bounded : plan.exact).push_back(s);
    if (states[s] == ScoreState::kPlain) plan.first_parts.push_back(s);
  }
  return plan;
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
  OutputList described, changed, chosen;
  if (R > 0) {
    rows = up.add(plan.rows);
    changes = up.add(plan.changes);
    row_of_output = up.add(plan.row_of_output);
    described = up.list(plan.described, R), changed = up.list(plan.changed, R), chosen = up.list(plan.chosen, R);
  }
  up.send(stream);
  if (bounded.n > 0)
    choose_bounded(values, scores.hidden, static_cast<const HeadCuda&>(*scores.heads[plan.bounded[0]]), bounded, scratch, stream);
  if (first.n > 0) find_parts(values, first, rows, plan.first_sums ? row_of_output : nullptr, scratch, stream);
  if (exact.n > 0) choose_best(exact, values.cols, scratch, stream);
  if (described.n > 0) describe_rows(values, described, rows, scratch, stream);
  if (changed.n > 0) {
    apply_changes(values, changed, rows, changes, scratch, stream);
    find_parts(values, second, rows, row_of_output, scratch, stream);
  }
  if (chosen.n > 0) choose_rows(values, chosen, rows, changes, scratch, stream);
}

size_t upload_bytes(const SamplePlan& plan) {
  const size_t S = plan.row_of_output.size();
  return Upload::aligned(plan.rows.size() * sizeof(SampleRow)) + Upload::aligned(plan.changes.size() * sizeof(ScoreChange)) +
         8 * Upload::aligned(S * 4);
}

void fetch(SamplerScratch& scratch, size_t S, bool described, cudaStream_t stream) {
  const size_t bytes = described ? scratch.results.bytes() : S * 4;
  check(cudaMemcpyAsync(scratch.pinned_out, scratch.results.data(), bytes, cudaMemcpyDeviceToHost, stream), "sampled tokens");
  check(cudaStreamSynchronize(stream), "step");
}

/// Outputs whose bounds left too many rows: by the whole bf16 head, after all.
void redo_failed(Scores& scores, SamplerScratch& scratch, CublasLt& blas, cudaStream_t stream) {
  SamplePlan plan;
  const size_t S = scratch.states.size();
  const auto* ids = reinterpret_cast<const int32_t*>(scratch.pinned_out);
  for (size_t s = 0; s < S; s++) {
    if (ids[s] != kRescoreFailed) continue;
    score_exactly(scores, int64_t(s), scratch, blas, stream);
    plan.exact.push_back(int32_t(s));
    if (scratch.states[s] == ScoreState::kPlain) plan.first_parts.push_back(int32_t(s));
  }
  if (plan.exact.empty()) return;
  plan.row_of_output.assign(S, -1);
  scratch.reserve_staging(upload_bytes(plan), stream);
  run_plan(plan, scores, scratch, stream);
  fetch(scratch, S, false, stream);
}

SampleResult read_result(const SamplerScratch& scratch, std::span<const BatchOutput> outputs) {
  SampleResult result;
  const size_t N = size_t(scratch.n_outputs);
  const auto* ids = reinterpret_cast<const int32_t*>(scratch.pinned_out);
  const auto* logprobs = reinterpret_cast<const float*>(ids + N);
  for (size_t s = 0; s < outputs.size(); s++) {
    const BatchOutput& o = outputs[s];
    const bool nan = ids[s] < 0;
    result.token_ids.push_back(nan || o.target < 0 ? ids[s] : o.target);
    result.logprobs.push_back(nan || o.n_logprobs < 0 ? std::numeric_limits<float>::quiet_NaN() : logprobs[s]);
    for (int i = 0; i < o.n_logprobs; i++) {
      const size_t at = s * kMaxAlternatives + size_t(i);
      const int32_t id = nan || i >= kMaxAlternatives ? -1 : ids[2 * N + at];
      result.top_ids.push_back(id);
      result.top_logprobs.push_back(id < 0 ? -std::numeric_limits<float>::infinity() : logprobs[(1 + kMaxAlternatives) * N + at]);
    }
  }
  return result;
}

void grow_pinned(char*& memory, size_t& bytes, size_t wanted) {
  if (memory) cudaFreeHost(memory);
  memory = nullptr;
  bytes = 0;
  check(cudaMallocHost(reinterpret_cast<void**>(&memory), wanted), "pinned memory of sampling");
  bytes = wanted;
}

}  // namespace

SamplerScratch::~SamplerScratch() {
  if (pinned_in) cudaFreeHost(pinned_in);
  if (pinned_out) cudaFreeHost(pinned_out);
}

void SamplerScratch::reserve_outputs(int64_t wanted, int64_t wanted_V, int64_t wanted_H, cudaStream_t stream) {
  if (wanted <= n_outputs && wanted_V <= V && wanted_H <= H) return;
  check(cudaStreamSynchronize(stream), "step");
  while (n_outputs < wanted) n_outputs = n_outputs == 0 ? 8 : n_outputs * 2;
  V = std::max(V, wanted_V);
  H = std::max(H, wanted_H);
  const size_t N = size_t(n_outputs), n_parts = size_t(parts_of(V));
  parts = allocate_device(N * n_parts * sizeof(Part));
  sums = allocate_device(N * n_parts * 8);
  bounds = allocate_device(N * n_parts * 8);
  normalisers = allocate_device(N * 8);
  hidden8 = allocate_device(N * 2 * size_t(H));
  hidden_meta = allocate_device(N * 16);
  results = allocate_device(N * (2 + 2 * kMaxAlternatives) * 4);
  grow_pinned(pinned_out, pinned_out_bytes, results.bytes());
  check(cudaDeviceSynchronize(), "memory of sampling");  // cleared on another stream
}

void SamplerScratch::reserve_staging(size_t bytes, cudaStream_t stream) {
  if (bytes <= pinned_in_bytes) return;
  check(cudaStreamSynchronize(stream), "step");
  bytes = std::max<size_t>(64 << 10, bytes * 2);
  staged = allocate_device(bytes);
  saved = allocate_device(bytes / sizeof(ScoreChange) * 4);
  grow_pinned(pinned_in, pinned_in_bytes, bytes);
  check(cudaDeviceSynchronize(), "memory of sampling");
}

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
  run_plan(plan, scores, scratch, stream);
  fetch(scratch, S, !plan.described.empty(), stream);
  if (!plan.bounded.empty()) redo_failed(scores, scratch, blas, stream);
  scratch.ticket++;  // draws have changed the scores
  return read_result(scratch, outputs);
}

}  // namespace lorikeet::cuda
