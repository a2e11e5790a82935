#include "sampler_plan.h"

#include <algorithm>
#include <unordered_map>

#include "../core/philox.h"

namespace lorikeet::cuda {

bool plainly_greedy(const BatchOutput& o, const SequenceState& state) {
  const Sampling& p = state.sampling;
  const bool suppresses = state.n_sampled < p.min_tokens && !p.suppressed.empty();
  return o.target < 0 && o.n_logprobs < 0 && p.temperature <= 0 && !p.counts_tokens() && p.bias.empty() && !suppresses;
}

namespace {

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

SampleRow make_row(const BatchOutput& o, int32_t s, const SequenceState& state, int64_t V) {
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
  row.top_k = p.top_k < V ? std::max(0, p.top_k) : 0;
  row.top_p = p.top_p;
  row.min_p = p.min_p;
  return row;
}

void plan_row(SamplePlan& plan, const BatchOutput& o, int32_t s, const SequenceState& state, int64_t V, ScoreState scored) {
  SampleRow row = make_row(o, s, state, V);
  const int32_t r = int32_t(plan.rows.size());
  row.change_begin = int32_t(plan.changes.size());
  if (o.target < 0) Changes(plan.changes, state, V);
  row.change_end = int32_t(plan.changes.size());
  const bool changed = row.change_end > row.change_begin, described = o.n_logprobs >= 0;
  const bool from_all = row.inverse > 0 && row.top_k == 0;  // needs the mass of all scores
  const bool sums = described || (from_all && !changed);
  if (sums || (scored == ScoreState::kPlain && !changed)) plan.first_parts.push_back(s);
  plan.first_sums |= sums;
  if (described) plan.described.push_back(r);
  if (changed) plan.changed.push_back(r), plan.second_parts.push_back(s);
  if (o.target >= 0)
    plan.exact.push_back(s);
  else if (from_all && (state.sampling.top_k > 0 || row.top_p < 1 || row.min_p > 0))
    plan.weighed.push_back(r);
  else
    plan.chosen.push_back(r);
  plan.row_of_output[s] = r;
  plan.rows.push_back(row);
}

}  // namespace

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

}  // namespace lorikeet::cuda
