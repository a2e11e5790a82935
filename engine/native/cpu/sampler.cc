// One token for every output. Scores may be approximate (int8 head): whatever could still be among the best k within the proven
// bounds is re-scored exactly before anything is decided, so greedy and top-k choices are those of the exact head.
// The order of the steps stands in core/sequence_table.h.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "../core/philox.h"
#include "ops.h"

namespace lorikeet::CPU_NS {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

struct Candidate {
  int32_t id;
  float score;
};

/// Higher score first; the lower id among equals, as argmax over a tensor gives.
bool better(const Candidate& a, const Candidate& b) { return a.score > b.score || (a.score == b.score && a.id < b.id); }

class RowSampler {
 public:
  RowSampler(const Scores& scores, int64_t s, std::vector<float>& bounds)
      : scores_(scores), s_(s), values_(scores.values.f32(s)), V_(scores.values.cols), bounds_(bounds) {
    exact_ = scores_exact(scores, s);
    if (!exact_) error_.emplace(scores, s, bounds_);
  }

  bool has_nan() const {
    i32x16 bad{};
    int64_t i = 0;
    for (; i + kLanes <= V_; i += kLanes) bad |= load(values_ + i) != load(values_ + i);
    bool any = false;
    for (int l = 0; l < kLanes; l++) any |= bad[l] != 0;
    for (; i < V_; i++) any |= values_[i] != values_[i];
    return any;
  }

  /// The k best by exact score, best first.
  std::vector<Candidate> best(int64_t k) {
    k = std::min(k, V_);
    float threshold = kth_lower_bound(k);
    std::vector<Candidate> found;
    for (int64_t i = 0; i < V_; i += kLanes) {
      const int n = int(std::min<int64_t>(kLanes, V_ - i));
      if (n == kLanes && !any_reaches(i, threshold)) continue;
      if (error_ && error_->coarse()) {
        error_->refine(i, values_);
        if (k == 1)
          for (int64_t j = i; j < i + n; j++) threshold = std::max(threshold, values_[j] - bounds_[j]);
      }
      for (int64_t j = i; j < i + n; j++)
        if (upper(j) >= threshold) found.push_back({int32_t(j), exact_score_of(int32_t(j))});
    }
    const int64_t keep = std::min<int64_t>(k, int64_t(found.size()));
    std::partial_sort(found.begin(), found.begin() + keep, found.end(), better);
    found.resize(keep);
    return found;
  }

  float exact_score_of(int32_t id) const { return exact_ ? values_[id] : exact_score(scores_, s_, id); }

  /// log of the sum of exp over all scores as they stand. Of approximate scores, those that weigh anything are taken exactly; the
  /// errors of the rest are small and cancel.
  float log_sum_exp() const {
    float top = kMinusInfinity;
    for (int64_t i = 0; i < V_; i++) top = std::max(top, values_[i]);
    const float weighty = exact_ ? std::numeric_limits<float>::infinity() : top - 10;
    double sum = 0;
    int64_t i = 0;
    for (; i + kLanes <= V_; i += kLanes) {
      const f32x16 v = load(values_ + i);
      if (reduce_max(v) < weighty) sum += reduce_add(exp(v - top));
      else for (int64_t j = i; j < i + kLanes; j++) sum += std::exp(double((values_[j] < weighty ? values_[j] : exact_score_of(int32_t(j))) - top));
    }
    for (; i < V_; i++) sum += std::exp(double((values_[i] < weighty ? values_[i] : exact_score_of(int32_t(i))) - top));
    return top + float(std::log(sum));
  }

  float* values() { return values_; }
  int64_t size() const { return V_; }
  /// Takes ids out of the scan: their scores are handed over by the caller.
  void remove(int32_t id) {
    values_[id] = kMinusInfinity;
    if (!exact_) bounds_[id] = 0;
  }

 private:
  float upper(int64_t i) const { return exact_ ? values_[i] : values_[i] + bounds_[i]; }

  bool any_reaches(int64_t i, float threshold) const {
    const f32x16 v = exact_ ? load(values_ + i) : load(values_ + i) + load(bounds_.data() + i);
    return reduce_max(v) >= threshold;
  }

  /// A value that at least k scores reach for sure: the k-th largest of the groups' best lower bounds.
  float kth_lower_bound(int64_t k) const {
    const int64_t group = std::max<int64_t>(1, std::min<int64_t>(256, V_ / (4 * k) / kLanes * kLanes));
    std::vector<float> tops;
    tops.reserve(size_t(V_ / group + 1));
    for (int64_t i = 0; i < V_; i += group) {
      float top = kMinusInfinity;
      const int64_t end = std::min(V_, i + group);
      int64_t j = i;
      f32x16 wide = splat(kMinusInfinity);
      for (; j + kLanes <= end; j += kLanes) wide = max(wide, exact_ ? load(values_ + j) : load(values_ + j) - load(bounds_.data() + j));
      top = reduce_max(wide);
      for (; j < end; j++) top = std::max(top, exact_ ? values_[j] : values_[j] - bounds_[j]);
      tops.push_back(top);
    }
    if (int64_t(tops.size()) < k) return kMinusInfinity;
    std::nth_element(tops.begin(), tops.begin() + (k - 1), tops.end(), std::greater<float>());
    return tops[k - 1];
  }

  const Scores& scores_;
  int64_t s_;
  float* values_;
  int64_t V_;
  std::vector<float>& bounds_;
  std::optional<ScoreBounds> error_;  // of inexact scores; fills bounds_
  bool exact_;
};

/// Scores that the request itself changes: penalties, bias, suppressed ids.
std::vector<Candidate> modified_scores(const RowSampler& row, const SequenceState& state) {
  const Sampling& p = state.sampling;
  std::unordered_map<int32_t, float> changed;
  const auto score = [&](int32_t id) -> float& {
    const auto [it, fresh] = changed.try_emplace(id, 0.0f);
    if (fresh) it->second = row.exact_score_of(id);
    return it->second;
  };
  const auto valid = [&](int32_t id) { return id >= 0 && id < row.size(); };
  if (p.counts_tokens()) {
    const auto repeat = [&](int32_t id) {
      float& v = score(id);
      v = v > 0 ? v / p.repetition_penalty : v * p.repetition_penalty;
    };
    if (p.repetition_penalty != 1) {
      for (const auto& [id, n] : state.prompt_counts)
        if (valid(id)) repeat(id);
      for (const auto& [id, n] : state.output_counts)
        if (!state.prompt_counts.contains(id)) repeat(id);
    }
    if (p.presence_penalty != 0 || p.frequency_penalty != 0)
      for (const auto& [id, n] : state.output_counts) score(id) -= p.presence_penalty + p.frequency_penalty * float(n);
  }
  for (const auto& [id, bias] : p.bias)
    if (valid(id)) score(id) += bias;
  if (state.n_sampled < p.min_tokens)
    for (int32_t id : p.suppressed)
      if (valid(id)) score(id) = kMinusInfinity;
  std::vector<Candidate> out;
  for (const auto& [id, value] : changed) out.push_back({id, value});
  return out;
}

/// Draws from candidates (best first) after temperature, min_p and top_p.
int32_t draw(const std::vector<Candidate>& candidates, const Sampling& p, double u) {
  const float top = candidates[0].score;
  std::vector<double> weight;
  double total = 0;
  for (const Candidate& c : candidates) {
    const double w = std::exp(double(c.score - top) / p.temperature);
    if (p.min_p > 0 && w < p.min_p) break;
    weight.push_back(w);
    total += w;
  }
  if (p.top_p < 1) {
    double kept = 0;
    size_t n = 0;
    while (n < weight.size() && kept < p.top_p * total) kept += weight[n++];
    weight.resize(std::max<size_t>(1, n));
    total = 0;
    for (double w : weight) total += w;
  }
  double left = u * total;
  for (size_t i = 0; i < weight.size(); i++) {
    left -= weight[i];
    if (left < 0) return candidates[i].id;
  }
  return candidates[weight.size() - 1].id;
}

/// Draws over the whole vocabulary without sorting it: temperature only.
int32_t draw_all(RowSampler& row, const std::vector<Candidate>& modified, const Sampling& p, double u) {
  for (const Candidate& c : modified) row.values()[c.id] = c.score;
  const float* v = row.values();
  float top = kMinusInfinity;
  for (int64_t i = 0; i < row.size(); i++) top = std::max(top, v[i]);
  const float inverse = 1.0f / p.temperature;
  constexpr int64_t kPiece = 1024;
  std::vector<double> pieces;
  double total = 0;
  for (int64_t i = 0; i < row.size(); i += kPiece) {
    double sum = 0;
    const int64_t end = std::min(row.size(), i + kPiece);
    int64_t j = i;
    f32x16 wide{};
    for (; j + kLanes <= end; j += kLanes) wide += exp((load(v + j) - top) * inverse);
    sum = reduce_add(wide);
    for (; j < end; j++) sum += std::exp((v[j] - top) * inverse);
    pieces.push_back(sum);
    total += sum;
  }
  double left = u * total;
  size_t piece = 0;
  while (piece + 1 < pieces.size() && left >= pieces[piece]) left -= pieces[piece++];
  int32_t last = -1;
  for (int64_t j = int64_t(piece) * kPiece; j < std::min(row.size(), int64_t(piece + 1) * kPiece); j++) {
    const double w = std::exp(double(v[j] - top) * inverse);
    if (w > 0) last = int32_t(j);
    left -= w;
    if (left < 0) break;
  }
  return last >= 0 ? last : int32_t(std::max_element(v, v + row.size()) - v);
}

constexpr int64_t kManyCandidates = 4096;  // a nucleus is looked for among so many first

int32_t choose(RowSampler& row, const SequenceState& state) {
  const Sampling& p = state.sampling;
  std::vector<Candidate> modified = modified_scores(row, state);
  const bool greedy = p.temperature <= 0;
  const double u = greedy ? 0 : uniform(p.seed, uint64_t(state.n_sampled));
  if (!greedy && p.top_k <= 0 && p.top_p >= 1 && p.min_p <= 0) return draw_all(row, modified, p, u);
  for (const Candidate& c : modified) row.remove(c.id);

  for (int64_t k = greedy ? 1 : p.top_k > 0 ? p.top_k : kManyCandidates;; k *= 8) {
    std::vector<Candidate> candidates = row.best(k);
    candidates.insert(candidates.end(), modified.begin(), modified.end());
    std::sort(candidates.begin(), candidates.end(), better);
    if (greedy) return candidates[0].id;
    if (p.top_k > 0) {
      candidates.resize(std::min<size_t>(candidates.size(), size_t(p.top_k)));
      return draw(candidates, p, u);
    }
    // Without top_k the candidates must hold the whole nucleus: what is left out weighs less than its last one each.
    const double tail = std::exp(double(candidates.back().score - candidates[0].score) / p.temperature) * double(row.size());
    double mass = 0;
    for (const Candidate& c : candidates) mass += std::exp(double(c.score - candidates[0].score) / p.temperature);
    const bool whole = k >= row.size() || tail < 1e-6 * mass || (p.min_p > 0 && tail < p.min_p * double(row.size()));
    if (whole) return draw(candidates, p, u);
  }
}

struct RowResult {
  int32_t token = -1;
  float logprob = std::numeric_limits<float>::quiet_NaN();
  std::vector<Candidate> top;
};

RowResult sample_row(const Scores& scores, int64_t s, const BatchOutput& output, const SequenceState& state, std::vector<float>& bounds) {
  RowSampler row(scores, s, bounds);
  RowResult result;
  if (row.has_nan()) return result;
  float normaliser = 0;
  if (output.n_logprobs >= 0) {
    normaliser = row.log_sum_exp();
    if (output.n_logprobs > 0) result.top = row.best(output.n_logprobs);
    for (Candidate& c : result.top) c.score -= normaliser;
  }
  if (output.target >= 0) {
    result.token = output.target;
    result.logprob = row.exact_score_of(output.target) - normaliser;
    return result;
  }
  std::vector<float> raw;
  const bool changes = output.n_logprobs >= 0 && scores_exact(scores, s);
  if (changes) raw.assign(row.values(), row.values() + row.size());  // choose() may overwrite scores
  result.token = choose(row, state);
  if (output.n_logprobs >= 0) result.logprob = (changes ? raw[result.token] : exact_score(scores, s, result.token)) - normaliser;
  return result;
}

}  // namespace

SampleResult sample_cpu(Scores& scores, std::span<const BatchOutput> outputs, const SequenceTable& table, std::span<const BatchRow> rows) {
  const int64_t S = int64_t(outputs.size());
  std::vector<RowResult> results(S);
#pragma omp parallel if (S > 1)
  {
    thread_local std::vector<float> bounds;  // kept: fresh pages for every step cost more than the bounds
#pragma omp for schedule(dynamic, 1)
    for (int64_t s = 0; s < S; s++) results[s] = sample_row(scores, s, outputs[s], table[rows[outputs[s].row].slot], bounds);
  }
  SampleResult all;
  for (int64_t s = 0; s < S; s++) {
    all.token_ids.push_back(results[s].token);
    all.logprobs.push_back(outputs[s].n_logprobs >= 0 ? results[s].logprob : std::numeric_limits<float>::quiet_NaN());
    for (int i = 0; i < outputs[s].n_logprobs; i++) {
      const bool have = i < int(results[s].top.size());
      all.top_ids.push_back(have ? results[s].top[i].id : -1);
      all.top_logprobs.push_back(have ? results[s].top[i].score : kMinusInfinity);
    }
  }
  return all;
}

}  // namespace lorikeet::CPU_NS
