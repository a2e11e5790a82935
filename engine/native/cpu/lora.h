// What the adapters of one product add, in two halves that a product can weave into its own loop over outputs.
#pragma once
#include <vector>

#include "../core/backend.h"

namespace lorikeet::CPU_NS {

struct LoraCpu;

class LoraWork {
 public:
  /// out [T, n_out], x [T, n_in] of the whole product.
  LoraWork(Tensor out, Tensor x, std::span<const LoraPart> parts);

  bool empty() const { return runs_.empty(); }
  int n_runs() const { return int(runs_.size()); }
  /// Floats that all shrunk activations take.
  size_t scratch() const { return scratch_; }
  /// Writes A x of one run's tokens to its place in h.
  void shrink(int run, float* h) const;
  /// Adds to outputs [begin, end) of every token its share; both multiples of sixteen.
  void expand(const float* h, int64_t begin, int64_t end) const;

 private:
  struct Run {
    const LoraCpu* w;
    int begin, end;    // tokens
    int64_t column;    // of the product's outputs where w's begin
    size_t h;
  };
  Tensor out_, x_;
  std::vector<Run> runs_;
  size_t scratch_ = 0;
};

/// Both halves after a product that does not weave them in.
void lora_add_cpu(const LoraWork& work, int64_t n_out);

}  // namespace lorikeet::CPU_NS
