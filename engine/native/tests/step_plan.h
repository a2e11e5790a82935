// Steps as the scheduler plans them, for programs that drive a model themselves.
#pragma once
#include "../core/model.h"

namespace lorikeet::testing {

/// A step's sequences, one token row each. Sequence s owns blocks [s * blocks_each, (s + 1) * blocks_each) of both pools.
class StepPlanner {
 public:
  explicit StepPlanner(int blocks_each) : blocks_each_(blocks_each) { plan_.row_starts = plan_.global_starts = plan_.sliding_starts = {0}; }

  /// ids stand at positions from `position` on; {-1} is the token that was sampled last. The last one's successor is sampled, or `target`
  /// is scored as it. n_logprobs: alternatives wanted, -1 none.
  void add(int sequence, const std::vector<int32_t>& ids, int position, int target = -1, int n_logprobs = -1) {
    for (size_t i = 0; i < ids.size(); i++) {
      plan_.token_ids.push_back(ids[i]);
      plan_.positions.push_back(position + int(i));
    }
    plan_.row_starts.push_back(int(plan_.token_ids.size()));
    plan_.slots.push_back(sequence);
    for (int b = 0; b < blocks_each_; b++) {
      plan_.global_table.push_back(sequence * blocks_each_ + b);
      plan_.sliding_table.push_back(sequence * blocks_each_ + b);
    }
    plan_.global_starts.push_back(int(plan_.global_table.size()));
    plan_.sliding_starts.push_back(int(plan_.sliding_table.size()));
    plan_.sliding_first.push_back(0);
    plan_.out_tokens.push_back(int(plan_.token_ids.size()) - 1);
    plan_.out_targets.push_back(target);
    plan_.out_logprobs.push_back(target < 0 ? n_logprobs : std::max(n_logprobs, 0));
  }

  /// The sequence begins with this step: greedy.
  void start(int sequence, int adapter) { plan_.starts.push_back({sequence, adapter, Sampling{}, {}, {}}); }

  const StepPlan& plan() const { return plan_; }

 private:
  int blocks_each_;
  StepPlan plan_;
};

inline std::vector<int32_t> some_prompt(int n, int vocab, int seed) {
  std::vector<int32_t> ids = {2};
  for (int i = 1; i < n; i++) ids.push_back(3 + int((int64_t(i) * 7919 + int64_t(seed) * 977) % (vocab - 3)));
  return ids;
}

}  // namespace lorikeet::testing
