// The model on the device: every weight under the checkpoint's own name, fused where one pass reads several (q, k, v).
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "config.h"

namespace lorikeet {

struct LayerWeights {
  std::unique_ptr<Linear> qkv_proj;       // [(n_heads + 2 n_kv_heads) D, H]
  std::unique_ptr<Linear> o_proj;         // [H, n_heads D]
  std::unique_ptr<Linear> gate_up_proj;   // [2 I, H]
  std::unique_ptr<Linear> down_proj;      // [H, I]
  const float* input_layernorm;           // [H] device, zero-centred, as are all norms
  const float* post_attention_layernorm;
  const float* pre_feedforward_layernorm;
  const float* post_feedforward_layernorm;
  const float* q_norm;                    // [D]
  const float* k_norm;
  bool is_global;
  int pool_layer;                         // index among the layers of its kind
};

struct Weights {
  Gemma3Config config;
  std::string hash;
  std::vector<LayerWeights> layers;
  std::unique_ptr<Embedding> embedding;
  std::unique_ptr<Head> head;
  const float* final_norm;                // [H] device
  float embed_scale;                      // sqrt(H) rounded to bf16
  Buffer norms;
  size_t linear_bytes = 0;
};

/// Where module m of a layer stands: its fused matrix and its first row there.
struct ModulePlace {
  const Linear* linear;
  int64_t row_begin;
};
ModulePlace module_place(const Weights& weights, int layer, Module m);

using ProgressFn = std::function<void(const char* phase, uint64_t done, uint64_t total)>;

/// Copies or maps a checkpoint onto the device. exact_embed_scale: sqrt(H) unrounded, as GGUF runtimes have it.
Weights load_weights(Checkpoint& checkpoint, Backend& backend, HeadFormat head, bool exact_embed_scale, const ProgressFn& progress);

}  // namespace lorikeet
