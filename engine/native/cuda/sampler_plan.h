// Which outputs of a step need which kernels of sampling, and what each request changes of single scores. No device calls here.
#pragma once
#include "sampler.h"

namespace lorikeet::cuda {

/// Whether an output is the best of its raw scores and nothing more.
bool plainly_greedy(const BatchOutput& output, const SequenceState& state);

/// Which kernel works on what. Lists of outputs, or of rows: outputs that are more than the best of their raw scores.
struct SamplePlan {
  std::vector<SampleRow> rows;
  std::vector<ScoreChange> changes;
  std::vector<int32_t> row_of_output;              // [S], -1: none
  std::vector<int32_t> bounded, exact;             // outputs: by their bounds, by their parts
  std::vector<int32_t> first_parts, second_parts;  // outputs whose parts are found: of raw scores, and of changed ones
  std::vector<int32_t> described, changed;         // rows
  std::vector<int32_t> chosen, weighed;            // rows to draw: from a list of the best or from all; by mass alone (min_p, top_p)
  bool first_sums = false;
};

SamplePlan make_plan(std::span<const BatchOutput> outputs, const SequenceTable& table, std::span<const BatchRow> rows,
                     const std::vector<bool>& plain, const std::vector<ScoreState>& states, int64_t V);

}  // namespace lorikeet::cuda
