// How a device's memory is shared out before anything is allocated: what a model needs by purpose, and what is left for its KV cache.
// Pure: asks no device.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint.h"

namespace lorikeet {

/// What the KV cache of a model has to serve.
struct KvNeeds {
  uint64_t bytes_per_layer = 0;    // one block of one layer, keys and values
  int n_global = 0, n_sliding = 0; // layers of each kind
  int sliding_window = 0;
  int wanted_len = 0;              // tokens of context
  bool must_reach = false;         // wanted_len was asked for; else 512 tokens will do
  int max_num_seqs = 0, max_batch_tokens = 0;
};

struct KvPlan {
  int global_blocks = 0, sliding_blocks = 0;
  int reach = 0;                   // tokens of context that the global blocks hold
};

/// Splits a budget between the pools: a sequence keeps all its tokens in global blocks and a window (and the step's tokens) in sliding
/// ones, which prefix caching wants to keep for longer; so half as many sliding blocks as global ones, where contexts are long, and as
/// many where they are short, up to twice what max_num_seqs running sequences hold. Never more than those can use.
/// @throws Error OUT_OF_MEMORY with the bytes given and needed
KvPlan plan_kv(const KvNeeds& needs, uint64_t budget);

/// A budget that plan_kv takes, and does not go beyond.
uint64_t least_kv_bytes(const KvNeeds& needs);

struct MemoryNeed {
  std::string purpose;
  uint64_t bytes = 0;
};

/// Layers in NF4 or bf16, embedding in bf16, head by its kind ("bf16", "int8"): as a GPU holds them.
std::vector<MemoryNeed> weight_needs(const Gemma3Config& config, WeightFormat weights, bool int8_head);

/// Of the layers' weights as bf16: what prefill multiplies by.
uint64_t dequantised_bytes(const Gemma3Config& config);

/// n adapters of this rank on every linear.
uint64_t adapter_bytes(const Gemma3Config& config, int n, int rank);

struct DeviceMemory {
  uint64_t total = 0, free = 0;
  uint64_t ours = 0;               // allocated by this process
};

/// What steps allocate when the first of their kind runs, and what the driver takes for itself.
MemoryNeed reserve_need(const Gemma3Config& config, const DeviceMemory& memory, int max_batch_tokens, int max_lora_rank);

struct MemoryPlan {
  uint64_t kv_bytes = 0;
  uint64_t dequantised_bytes = 0;  // that prefill may keep
};

/// What `share` of the device leaves beyond `needs` (still to be allocated), at most what is free. Dequantised weights get their place
/// where that is at most half of the rest.
/// @throws Error OUT_OF_MEMORY where less than least_kv is left: needed and available, by purpose
MemoryPlan plan_memory(const DeviceMemory& memory, double share, const std::vector<MemoryNeed>& needs, uint64_t least_kv,
                       uint64_t dequantised);

}  // namespace lorikeet
