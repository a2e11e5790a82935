// What the kernels of sampling share: a row's options as the device reads them, its sparse changes, and the buffers of a step.
#pragma once
#include <vector>

#include "sampler_parts.h"

namespace lorikeet::cuda {

constexpr int kMaxAlternatives = 20;

/// An output that is more than the best of its raw scores.
struct SampleRow {
  double u, temperature;  // of the draw: uniform(seed, n_sampled)
  float inverse;          // 1 / temperature; 0: greedy
  float top_p, min_p, repetition_penalty;
  int32_t output;      // s
  int32_t target;      // -1: draw
  int32_t n_logprobs;  // -1: none
  int32_t top_k;       // 0: all
  int32_t change_begin, change_end;
};

/// score = repeat(score) - minus + plus, or -inf. See sequence_table.h.
struct ScoreChange {
  int32_t id;
  int32_t repeated, suppressed;
  float minus, plus;
};

/// How logits() left an output's scores.
enum class ScoreState : uint8_t {
  kPlain,    // exact, nothing beside them
  kParts,    // exact, and their parts
  kBounded,  // int8: approximate, with the parts' bounds
};

/// Device memory of sampling and of the heads. Grown with a synchronisation of the device when a step needs more than any before it;
/// otherwise no step allocates.
struct SamplerScratch {
  ~SamplerScratch();
  void reserve_outputs(int64_t n_outputs, int64_t V, int64_t H, cudaStream_t stream);
  void reserve_staging(size_t bytes, cudaStream_t stream);

  Buffer parts;                 // [S, n_parts] Part
  Buffer sums;                  // [S, n_parts] float2: sum of exp(score - best of the part), and of the same by temperature
  Buffer normalisers;           // [S] double
  Buffer results;               // [S] ids, [S] log-probabilities, [S, 20] ids, [S, 20] log-probabilities
  Buffer saved;                 // raw score of every change
  Buffer staged;                // what pinned_in becomes
  Buffer hidden8, hidden_meta;  // int8 head: [S, 2, H], [S] HiddenMeta
  Buffer bounds;                // int8 head: [S, n_parts] float2, the part's largest lower and upper bound
  char *pinned_in = nullptr, *pinned_out = nullptr;
  size_t pinned_in_bytes = 0, pinned_out_bytes = 0;
  int64_t n_outputs = 0, V = 0, H = 0;  // what there is room for

  uint64_t ticket = 0;  // of the last logits()
  std::vector<ScoreState> states;

  int32_t* ids() const { return static_cast<int32_t*>(results.data()); }
  float* logprobs() const { return static_cast<float*>(results.data()) + n_outputs; }
  int32_t* top_ids() const { return ids() + 2 * n_outputs; }
  float* top_logprobs() const { return static_cast<float*>(results.data()) + (2 + kMaxAlternatives) * n_outputs; }
};

/// Outputs that a kernel works on: `outputs` on the device, or null for 0 .. n - 1.
struct OutputList {
  const int32_t* outputs = nullptr;
  int n = 0;
#if defined(__CUDACC__)
  __device__ int operator[](int i) const { return outputs ? outputs[i] : i; }
#endif
};

/// rows_of_output [S]: index into rows, or -1; null: no sums are wanted.
void find_parts(Tensor values, OutputList list, const SampleRow* rows, const int32_t* row_of_output, SamplerScratch& scratch,
                cudaStream_t stream);
void choose_best(OutputList list, int64_t V, SamplerScratch& scratch, cudaStream_t stream);
void apply_changes(Tensor values, OutputList rows_changed, const SampleRow* rows, const ScoreChange* changes, SamplerScratch& scratch,
                   cudaStream_t stream);
/// Log-probabilities of raw scores: normaliser, alternatives, the target's. `list` counts rows, not outputs.
void describe_rows(Tensor values, OutputList list, const SampleRow* rows, SamplerScratch& scratch, cudaStream_t stream);
/// Draws the rows' tokens.
void choose_rows(Tensor values, OutputList list, const SampleRow* rows, const ScoreChange* changes, SamplerScratch& scratch,
                 cudaStream_t stream);

}  // namespace lorikeet::cuda
