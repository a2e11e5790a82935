// A PEFT adapter directory, read into owned memory and checked in full against the base that it is for.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint.h"
#include "config.h"
#include "host_tensor.h"

namespace lorikeet {

// y += scale * B (A x); with DoRA: y = magnitude * (W + scale * B A) x / rownorm(W + scale * B A).
struct LoraPair {
  HostTensor a;                            // [rank, n_in]    F32, BF16 or F16, finite
  HostTensor b;                            // [n_out, rank]
  HostTensor magnitude;                    // [n_out], empty without DoRA
  int rank = 0;
  float scale = 0;                         // alpha / r, or alpha / sqrt(r) with rsLoRA
};

// Replacement rows of the embedding (and of a tied head): row i stands for token token_ids[i].
struct TokenRows {
  std::vector<int> token_ids;              // distinct, in [0, vocab_size)
  HostTensor rows;                         // [n, hidden_size]
};

struct AdapterFile {
  int max_rank = 0;                        // 0: no LoRA at all, only saved modules or token rows
  std::vector<std::array<std::optional<LoraPair>, kModules>> layers;   // [n_layers]
  // Embedding: h += embed_scale * scale * B A[:, id], A [rank, vocab_size] (lora_embedding_A), B [hidden_size, rank].
  std::optional<LoraPair> embed_tokens;
  std::optional<LoraPair> lm_head;         // A [rank, hidden_size], B [vocab_size, rank]
  std::optional<TokenRows> token_rows;     // trainable_token_indices of embed_tokens; of the head too when tied
  std::optional<TokenRows> head_rows;      // trainable_token_indices of an untied lm_head
  HostTensor saved_embed_tokens;           // full matrix [vocab_size, hidden_size] in place of the base's, or empty
  HostTensor saved_lm_head;                // the same of the head: set wherever the head's rows must not be the base's
  // True where they are copies that PEFT writes beside LoRA on an embedding: as a rule the base's own rows, bit for bit.
  bool saved_is_base_copy = false;
  uint64_t bytes = 0;                      // of all tensors
  int n_tensors = 0;
  std::vector<std::string> warnings;       // loads all the same: "every lora_B is zero", ...
  bool use_dora = false;
  std::string base_model;                  // base_model_name_or_path, "" where absent
};

// Reads `dir`/adapter_config.json and adapter_model.safetensors. Nothing the size of the weights is allocated before the
// config, the tensor table and every shape have passed.
// Throws ADAPTER_NOT_FOUND (no such directory), ADAPTER_RANK_TOO_LARGE, and ADAPTER_INVALID with a message that begins with the
// kind: "shape: ", "missing tensor: ", "unknown tensor: ", "non-finite value: ", "dtype: ", "container: ", "config: ",
// "unsupported: ", "unsupported format: ", "missing file: ".
AdapterFile read_adapter(const std::string& dir, const Gemma3Config& config, int max_rank);

}  // namespace lorikeet
