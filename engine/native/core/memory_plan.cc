#include "memory_plan.h"

#include <algorithm>
#include <cstdio>

#include "batch.h"
#include "error.h"

namespace lorikeet {
namespace {

constexpr uint64_t kMiB = 1ull << 20;

int blocks_for(int tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

/// Of one sequence at the longest context, while a whole step goes into it.
int window_blocks(const KvNeeds& n) { return blocks_for(std::min(n.wanted_len, n.sliding_window + n.max_batch_tokens)); }

double sliding_share(const KvNeeds& n) { return n.wanted_len > 2 * n.sliding_window ? 0.5 : 1.0; }

double bytes_per_block(const KvNeeds& n) { return double(n.bytes_per_layer) * (n.n_global + sliding_share(n) * n.n_sliding); }

int least_reach(const KvNeeds& n) { return n.must_reach ? n.wanted_len : std::min(n.wanted_len, 512); }

std::string mib(uint64_t bytes) { return std::to_string((bytes + kMiB - 1) / kMiB) + " MiB"; }

std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", share);
  return text;
}

uint64_t linear_elements(const Gemma3Config& c) {
  uint64_t n = 0;
  for (int m = 0; m < kModules; m++) n += uint64_t(module_rows(c, Module(m)) * module_cols(c, Module(m)));
  return n * uint64_t(c.n_layers);
}

uint64_t sum(const std::vector<MemoryNeed>& needs) {
  uint64_t bytes = 0;
  for (const MemoryNeed& need : needs) bytes += need.bytes;
  return bytes;
}

}  // namespace

KvPlan plan_kv(const KvNeeds& n, uint64_t budget) {
  const int most_global = blocks_for(n.wanted_len) * n.max_num_seqs + 1, least_sliding = window_blocks(n) + 2;
  const int64_t most_sliding = std::max<int64_t>(least_sliding, int64_t(2) * window_blocks(n) * n.max_num_seqs + 2);
  KvPlan plan;
  plan.global_blocks = int(std::min<double>(most_global, double(budget) / bytes_per_block(n)));
  plan.sliding_blocks = std::max(least_sliding, int(plan.global_blocks * sliding_share(n)));
  if (plan.sliding_blocks > most_sliding && n.n_global > 0) {  // what is left goes to the other pool
    plan.sliding_blocks = int(most_sliding);
    const double rest = double(budget) - double(most_sliding) * double(n.bytes_per_layer) * n.n_sliding;
    plan.global_blocks = int(std::min<double>(most_global, rest / (double(n.bytes_per_layer) * n.n_global)));
  }
  plan.reach = int(std::min<int64_t>(int64_t(plan.global_blocks) * kBlockTokens, INT32_MAX));
  if (plan.reach < least_reach(n)) {
    const uint64_t enough = uint64_t(bytes_per_block(n) * blocks_for(least_reach(n))) + 1;
    throw Error("OUT_OF_MEMORY", "KV cache of " + std::to_string(budget / kMiB) + " MiB holds " + std::to_string(plan.reach) +
                                     " tokens of context; " + std::to_string(least_reach(n)) + " need " + mib(enough) +
                                     " (set --kv-cache-bytes or --max-model-len)");
  }
  return plan;
}

uint64_t least_kv_bytes(const KvNeeds& n) {
  const double blocks = blocks_for(least_reach(n)), sliding = std::max<double>(blocks * sliding_share(n), window_blocks(n) + 2);
  return uint64_t(double(n.bytes_per_layer) * (n.n_global * blocks + n.n_sliding * sliding)) + 1;
}

std::vector<MemoryNeed> weight_needs(const Gemma3Config& c, WeightFormat weights, bool int8_head) {
  const uint64_t linear = linear_elements(c), rows = uint64_t(c.vocab_size), embedding = rows * uint64_t(c.hidden_size) * 2;
  return {{"weights", weights == WeightFormat::kNF4 ? linear / 2 + linear / 64 * 4 : linear * 2},
          {"embedding", embedding},
          {"head", (c.tied ? 0 : embedding) + (int8_head ? embedding / 2 + rows * 8 : 0)}};
}

uint64_t dequantised_bytes(const Gemma3Config& c) { return linear_elements(c) * 2; }

uint64_t adapter_bytes(const Gemma3Config& c, int n, int rank) {
  const uint64_t padded = (uint64_t(rank) + 15) / 16 * 16;
  uint64_t width = 0;  // A lies there twice: for prefill, and as decode's tiles
  for (int m = 0; m < kModules; m++) width += uint64_t(2 * module_cols(c, Module(m)) + module_rows(c, Module(m)));
  return uint64_t(n) * uint64_t(c.n_layers) * width * padded * 2;
}

MemoryNeed reserve_need(const Gemma3Config& c, const DeviceMemory& memory, int max_batch_tokens, int max_lora_rank) {
  const uint64_t driver = std::min<uint64_t>(768 * kMiB, memory.total / 16);
  const uint64_t largest = uint64_t(2) * c.intermediate_size * uint64_t(c.hidden_size) * 2;  // gate_up as bf16, where it is not kept
  const uint64_t lora = uint64_t(max_batch_tokens) * uint64_t(max_lora_rank) * 4 * 4;
  const uint64_t decode = 256 * uint64_t(c.q_dim()) * 4 + 64 * uint64_t(6 * c.hidden_size + 4 * c.intermediate_size) * 4;
  const uint64_t exchange = 128 * kMiB;  // of decode's resident kernel
  return {"reserve", driver + largest + lora + decode + exchange + 64 * kMiB};
}

MemoryPlan plan_memory(const DeviceMemory& memory, double share, const std::vector<MemoryNeed>& needs, uint64_t least_kv,
                       uint64_t dequantised) {
  const auto limit = uint64_t(double(memory.total) * share);
  const uint64_t available = std::min(memory.free, limit > memory.ours ? limit - memory.ours : 0), fixed = sum(needs);
  if (fixed + least_kv > available) {
    std::string text = "GPU memory: " + mib(fixed + least_kv) + " needed, " + mib(available) + " available (" + percent(share) + " of " +
                       mib(memory.total) + ", " + mib(memory.free) + " free, " + mib(memory.ours) + " in use here):";
    for (const MemoryNeed& need : needs) text += " " + need.purpose + " " + mib(need.bytes) + ",";
    throw Error("OUT_OF_MEMORY", text + " KV cache at least " + mib(least_kv) + "; see --gpu-memory-utilization, --max-model-len, " +
                                     "--max-loras, --max-lora-rank, --max-batch-tokens, --head");
  }
  MemoryPlan plan;
  const uint64_t rest = available - fixed;
  if (dequantised <= rest / 2 && rest - dequantised >= least_kv) plan.dequantised_bytes = dequantised;
  plan.kv_bytes = rest - plan.dequantised_bytes;
  return plan;
}

}  // namespace lorikeet
