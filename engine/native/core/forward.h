// The forward pass of Gemma 3, once, over backend.h: serving runs it over a workspace, training over a tape (tape.h).
#pragma once
#include <functional>

#include "lora.h"
#include "weights.h"

namespace lorikeet {

float attention_scale(const Gemma3Config& config);
/// Keys that a query of this layer sees; 0 = all.
int attention_window(const Weights& weights, int layer);
/// Weight of the norm that follows a layer: the next layer's first, or the final one.
const float* norm_after(const Weights& weights, int layer);

/// The steps of a layer. The tensors say where they read and write: a workspace when serving, the tape when training; between
/// project_qkv and project_attended stands attention, over cached keys or inside documents.
class LayerForward {
 protected:
  LayerForward(Backend& backend, const Weights& weights) : backend_(backend), weights_(weights), c_(weights.config) {}
  virtual ~LayerForward() = default;

  /// out = in @ w^T with the adapters; `modules` are w's parts.
  virtual void project(Tensor out, Tensor in, const Linear& w, int layer, std::initializer_list<Module> modules) = 0;

  void project_qkv(int layer);       // qkv = q, k, v_proj(normed)
  void project_attended(int layer);  // y = o_proj(attended)
  void mlp(int layer);               // y = down_proj(gelu(gate_proj(normed)) * up_proj(normed))
  /// x += rmsnorm(y, post_w); normed = rmsnorm(x, next_w)
  void add_to_stream(const float* post_w, const float* next_w);
  void fill_rope_tables(Tensor local, Tensor global, std::span<const int32_t> positions);

  Backend& backend_;
  const Weights& weights_;
  const Gemma3Config& c_;
  Tensor x_, y_;              // [T, H] f32
  Tensor normed_;             // [T, H] act
  Tensor qkv_;                // [T, (n_heads + 2 n_kv_heads) D] f32; serving: projected_dtype()
  Tensor attended_;           // [T, n_heads D] act
  Tensor gate_up_;            // [T, 2 I] f32; serving: projected_dtype()
  Tensor inner_;              // [T, I] act
};

/// Device memory of one step, sized once for the largest batch.
struct Workspace {
  Workspace(Backend& backend, const Gemma3Config& config, int max_tokens, int max_outputs);
  /// What that will allocate.
  static size_t bytes_for(const Backend& backend, const Gemma3Config& config, int max_tokens, int max_outputs);

  Tensor view(const Buffer& buffer, DType dtype, int64_t rows, int64_t cols) const { return {buffer.data(), dtype, rows, cols, cols}; }

  Buffer x, y, normed, qkv, q, attended, gate_up, inner, rope_local, rope_global;
  Buffer scores;
  int max_tokens, max_outputs;
  size_t bytes = 0;
};

struct KvPools {
  std::unique_ptr<KvPool> global, sliding;
};

/// Sees the residual stream [T, H] f32 entering a layer; n_layers = after the last. For goldens.
using HiddenTap = std::function<void(int layer, const Tensor& x)>;

/// Runs all layers over the tokens of a batch; keys and values go to their blocks. Beyond the last layer's keys and values only the
/// batch's outputs are computed.
/// @returns rmsnorm(x, final_norm) of each output, [S, H] act, valid until the next call.
Tensor forward(Backend& backend, const Weights& weights, const AdapterSlots& slots, KvPools& pools, Workspace& ws, const Batch& batch,
               const HiddenTap& tap = {});

/// Scores of outputs [begin, begin + hidden.rows) over the vocabulary, from rows of what forward() returned. table: the sequences that
/// will sample from them; null when all scores are wanted alike.
Scores score_outputs(Backend& backend, const Weights& weights, const AdapterSlots& slots, Workspace& ws, const Batch& batch, int begin,
                     Tensor hidden, std::vector<EdgeSegment>& edges, const SequenceTable* table);

}  // namespace lorikeet
