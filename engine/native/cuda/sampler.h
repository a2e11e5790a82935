// What the kernels of sampling share: a row's options as the device reads them, its sparse changes, and the buffers of a step.
#pragma once
#include <vector>

#include "sampler_parts.h"

namespace lorikeet::cuda {

constexpr int kMaxAlternatives = 20;
constexpr int32_t kPending = -100;  // an id that no kernel has written yet

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
  Buffer saved;                 // raw score of every change
  Buffer staged;                // what `staging` becomes
  Buffer hidden8, hidden_meta;  // int8 head: [S, 2, H], [S] HiddenMeta
  Buffer bounds;                // int8 head: [S, n_parts] float2, the part's largest lower and upper bound
  Buffer mass_states;           // [S] what blocks that draw by mass tell each other; zero between steps
  char* staging = nullptr;      // pinned, what goes up
  char* answers = nullptr;      // pinned, written by the kernels: [N] ids, [N] log-probabilities, [N, 20] ids, [N, 20] log-probabilities
  int64_t n_outputs = 0, V = 0, H = 0;  // what there is room for

  uint64_t ticket = 0;  // of the last logits()
  std::vector<ScoreState> states;

  int32_t* ids() const { return reinterpret_cast<int32_t*>(answers); }
  float* logprobs() const { return reinterpret_cast<float*>(answers) + n_outputs; }
  int32_t* top_ids() const { return ids() + 2 * n_outputs; }
  float* top_logprobs() const { return logprobs() + (1 + kMaxAlternatives) * n_outputs; }
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
#if defined(__CUDACC__)
/// The host waits for this very word: nothing that it reads with the id may be written later, unless it waits for the stream.
__device__ inline void answer(int32_t* ids, int64_t s, int32_t id) {
  *static_cast<volatile int32_t*>(ids + s) = id;
  __threadfence_system();
}
#endif

/// Draws by temperature alone or from the top_k best, and the best of changed scores.
void choose_rows(Tensor values, OutputList list, const SampleRow* rows, const ScoreChange* changes, SamplerScratch& scratch,
                 cudaStream_t stream);

/// Draws by min_p and top_p without a top_k. The parts' sums must be there.
void choose_by_mass(Tensor values, OutputList list, const SampleRow* rows, const ScoreChange* changes, SamplerScratch& scratch,
                    cudaStream_t stream);
size_t mass_state_bytes();

}  // namespace lorikeet::cuda
