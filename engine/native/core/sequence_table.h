// What the device remembers of each running sequence between steps: its last token, its sampling and what penalties count.
//
// Order of sampling, as vLLM: raw logits (log-probabilities are of these) -> repetition penalty over prompt and output ->
// frequency and presence penalty over output -> logit_bias -> suppressed ids -> temperature -> top_k -> min_p -> top_p -> draw.
// The draw uses a counter-based generator: uniform(seed, n_sampled), so it does not depend on the batch.
#pragma once
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace lorikeet {

struct Sampling {
  float temperature = 0;         // 0 = greedy
  int top_k = 0;                 // 0 = all
  float top_p = 1, min_p = 0;
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> bias;
  int min_tokens = 0;                   // until so many are out, ...
  std::vector<int32_t> suppressed;      // ... these cannot be drawn

  bool counts_tokens() const { return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0; }
};

struct SequenceState {
  Sampling sampling;
  int adapter = -1;
  int32_t last_token = -1;
  int n_sampled = 0;
  std::unordered_map<int32_t, int> output_counts;  // kept only where counts_tokens()
  std::unordered_map<int32_t, int> prompt_counts;

  void push(int32_t token) {
    last_token = token;
    n_sampled++;
    if (sampling.counts_tokens()) output_counts[token]++;
  }
};

class SequenceTable {
 public:
  explicit SequenceTable(int n_slots) : states_(n_slots) {}
  SequenceState& operator[](int slot) { return states_[slot]; }
  const SequenceState& operator[](int slot) const { return states_[slot]; }
  int size() const { return int(states_.size()); }

 private:
  std::vector<SequenceState> states_;
};

}  // namespace lorikeet
