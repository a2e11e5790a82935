// The forward pass of Gemma 3, once, over backend.h.
#pragma once
#include <functional>

#include "lora.h"
#include "weights.h"

namespace lorikeet {

/// Device memory of one step, sized once for the largest batch.
struct Workspace {
  Workspace(Backend& backend, const Gemma3Config& config, int max_tokens, int max_outputs);

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
