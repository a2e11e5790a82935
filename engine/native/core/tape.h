// What the forward pass of a micro-batch leaves for the backward one, in memory sized once: activations by layer, of which a policy
// keeps all, or the attention half, or the stream alone. What is not kept is computed again by the same code, to the same bits.
#pragma once
#include "forward.h"
#include "trained_adapter.h"

namespace lorikeet {

enum class Checkpointing : uint8_t { kNone, kMlp, kLayer };

/// Documents one after another. Attention stays inside each.
struct MicroBatch {
  std::vector<int32_t> token_ids;        // [T]
  std::vector<int32_t> document_starts;  // [D + 1]
  std::vector<int32_t> targets;          // [T] the id that follows; -1 = not supervised
  uint64_t token_counter = 0;            // tokens of the run before it: dropout's counter

  int n_tokens() const { return int(token_ids.size()); }
};

/// One layer, in the order of computation. `x` of the next layer is this one's result.
struct LayerTape {
  Tensor normed;         // [T, H] act: input_layernorm
  Tensor qkv;            // [T, (n_heads + 2 n_kv_heads) D] f32
  Tensor q, k, v;        // [T, n_heads D], [T, n_kv_heads D] twice, act: turned, and what attention reads
  Tensor attended;       // [T, n_heads D] act
  Tensor log_sum_exp;    // [T, n_heads] f32
  Tensor y_attention;    // [T, H] f32: o_proj
  Tensor x_middle;       // [T, H] f32: the stream after attention
  Tensor normed_mlp;     // [T, H] act: pre_feedforward_layernorm
  Tensor gate_up;        // [T, 2 I] f32
  Tensor inner;          // [T, I] act
  Tensor y_mlp;          // [T, H] f32: down_proj
  std::array<Tensor, kModules> kept;  // [T, r] f32: A x of each module
};

/// Gradients on their way down, shared by all layers; f32.
struct GradientBuffers {
  Tensor dx;                      // [T, H] of the stream
  Tensor dy;                      // [T, H] of a sublayer's result
  Tensor dnormed;                 // [T, H] of a sublayer's input
  Tensor dinner, dgate_up;        // [T, I], [T, 2 I]
  Tensor dattended, dq, dk, dv;   // [T, n_heads D] twice, [T, n_kv_heads D] twice
  Tensor dqkv;                    // [T, (n_heads + 2 n_kv_heads) D]
  Tensor hidden;                  // [T, H] act: supervised rows, compact
  Tensor dhidden;                 // [T + 1, H]: their gradient, and a row of zeros behind
};

/// Views for T tokens.
struct TapeLayout {
  std::vector<Tensor> x;            // [n_layers + 1] of [T, H] f32: the stream entering each layer, and after the last
  std::vector<LayerTape> layers;
  Tensor final_normed;              // [T, H] act
  Tensor rope_local, rope_global;   // [T, D] f32
  GradientBuffers gradients;
  uint64_t bytes = 0;
};

/// base null: only counts.
TapeLayout lay_out_tape(const Gemma3Config& config, DType act, int rank, Checkpointing policy, int64_t n_tokens, void* base);

class Tape {
 public:
  Tape(Backend& backend, const Gemma3Config& config, int rank, Checkpointing policy, int max_tokens);

  Checkpointing policy() const { return policy_; }
  int max_tokens() const { return max_tokens_; }
  uint64_t bytes() const { return buffer_.bytes(); }
  TapeLayout views(int64_t n_tokens) const { return lay_out_tape(config_, act_, rank_, policy_, n_tokens, buffer_.data()); }

 private:
  const Gemma3Config& config_;
  DType act_;
  int rank_;
  Checkpointing policy_;
  int max_tokens_;
  Buffer buffer_;
};

/// Everything that one micro-batch's forward and backward pass share.
struct TrainingStep {
  Backend& backend;
  TrainingOps& ops;
  const Weights& weights;
  const TrainedAdapter& trained;
  const MicroBatch& batch;
  TapeLayout tape;
  bool drops;  // dropout is on

  const Gemma3Config& config() const { return weights.config; }
  /// The pair of a module with this micro-batch's dropout.
  TrainedPair pair(int layer, Module m) const;
  TrainingOps::QkvShape qkv_shape(int layer) const;
  TrainingOps::AttentionShape attention_shape(int layer) const;
};

/// The forward pass over a tape, in halves of layers, so that any of them can be run again.
class TapedForward : LayerForward {
 public:
  explicit TapedForward(TrainingStep& step);

  void embed();
  /// normed of a layer from the stream alone, as the layer below leaves it.
  void normalise(int layer);
  /// normed -> y_attention, x_middle, normed_mlp
  void attention_half(int layer);
  /// normed_mlp -> y_mlp
  void mlp_half(int layer);
  /// x_middle + y_mlp -> the next layer's x and normed
  void enter_next(int layer);

 private:
  void project(Tensor out, Tensor in, const Linear& w, int layer, std::initializer_list<Module> modules) override;
  void copy(Tensor out, Tensor x);

  TrainingStep& step_;
  std::vector<int32_t> positions_, every_row_;
};

}  // namespace lorikeet
