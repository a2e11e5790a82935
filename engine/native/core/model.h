// A loaded model: weights, KV pools, adapter slots and the sequence table. One thread at a time may call it.
#pragma once
#include <mutex>
#include <string>
#include <vector>

#include "forward.h"
#include "host_adapters.h"
#include "memory_plan.h"

namespace lorikeet {

struct ModelOptions {
  std::string path;
  std::string device = "auto", isa = "auto";
  std::string compute = "auto";          // "fp32", "bf16"
  std::string weights = "nf4";           // "bf16", "f32"
  std::string head = "auto";             // "bf16", "int8", "nf4"
  int n_threads = 0;
  int max_model_len = 0;                 // 0 = the model's, as far as the KV pools reach
  uint64_t kv_cache_bytes = 0;           // 0 = automatic
  double gpu_memory_utilization = 0;     // share of a GPU's memory for everything; 0 = a KV cache of 1 GiB at most, as on the CPU
  bool nvtx = false;                     // ranges for a profiler
  int max_batch_tokens = 512;
  int max_num_seqs = 64;
  int max_loras = 8;
  int max_lora_rank = 64;
  uint64_t adapter_host_bytes = 1ull << 30;  // of images kept for adapters that come back
  std::string cache_dir;
};

struct ModelInfo {
  std::string name, hash, device, compute, weights, head;
  int vocab_size, hidden_size, n_layers, sliding_window, max_model_len;
  int n_global_blocks, n_sliding_blocks;
  std::vector<int> eos_ids;
};

struct SequenceStart {
  int slot = 0;
  int adapter = -1;
  Sampling sampling;
  std::vector<int32_t> prompt_ids, output_ids;
};

/// NativeStepPlan of engine/native.ts, flat arrays as they come.
struct StepPlan {
  std::vector<SequenceStart> starts;
  std::vector<int32_t> token_ids, positions, row_starts, slots;
  std::vector<int32_t> global_table, global_starts, sliding_table, sliding_starts, sliding_first;
  std::vector<int32_t> out_tokens, out_targets, out_logprobs;
};

/// DeviceStats of engine/api.ts.
struct DeviceStats {
  uint64_t total_bytes = 0, free_bytes = 0;
  GraphCounts graphs;
  StepTimes times;
};

/// What a step consisted of: for the report when the device is lost.
struct StepShape {
  uint64_t number = 0;
  StepPhase phase = StepPhase::kPrefill;
  int tokens = 0, rows = 0, outputs = 0, rows_with_adapter = 0, longest = 0;
};

class Model {
 public:
  /// @throws Error MODEL_*, FILE_INVALID, UNSUPPORTED, OUT_OF_MEMORY (with the bytes needed and given).
  static std::unique_ptr<Model> load(const ModelOptions& options, const ProgressFn& progress);

  const ModelInfo& info() const { return info_; }

  /// Every index, range and length of a plan. @throws Error INVALID_REQUEST. Cheap; may run on another thread.
  void check(const StepPlan& plan) const;
  SampleResult step(const StepPlan& plan);

  AdapterFile read_adapter_file(const std::string& dir) const { return read_adapter(dir, weights_.config, options_.max_lora_rank); }
  /// From host memory, else read and checked and, where the device wants that, converted. Any thread, beside steps.
  std::shared_ptr<const HostAdapter> prepare_adapter(const std::string& dir);
  /// Images of adapters that were loaded or prepared; none where the device takes none.
  HostAdapters& host_adapters() { return *host_adapters_; }
  bool keeps_host_adapters() const { return backend_->takes_adapter_images(); }
  /// Replaces nothing: the slot must be free. An image may be loaded beside steps, by any thread; else between two of them.
  void load_adapter(int slot, const HostAdapter& adapter);
  void load_adapter(int slot, AdapterFile file) { load_adapter(slot, host_adapter(std::move(file), weights_, *backend_)); }
  void unload_adapter(int slot);
  const DeviceAdapter* adapter(int slot) const { return slots_.at(slot); }

  /// All scores of a prompt on fresh states, [T, V]. @throws Error CONTEXT_LENGTH_EXCEEDED
  std::vector<float> logits(const std::vector<int32_t>& token_ids, int adapter);
  /// Residual stream entering a layer, [T, H].
  std::vector<float> hidden(const std::vector<int32_t>& token_ids, int layer, int adapter);

  /// Bytes by purpose.
  std::vector<std::pair<std::string, uint64_t>> memory() const;
  /// Any thread may ask; never throws.
  DeviceStats device_stats() const;

  Backend& backend() { return *backend_; }
  const Weights& weights() const { return weights_; }

 private:
  Model() = default;
  void size_kv();
  KvNeeds kv_needs(const Gemma3Config& config) const;
  MemoryPlan plan_device_memory(const Gemma3Config& config, std::vector<MemoryNeed> needs) const;
  SampleResult run_step(const StepPlan& plan);
  StepShape last_shape() const;
  template <class F>
  auto on_device(const char* work, F run) -> decltype(run());
  Batch make_batch(const StepPlan& plan);
  void begin_sequence(const SequenceStart& start);
  /// Prefills a prompt chunk by chunk on pools of its own.
  void run_fresh(const std::vector<int32_t>& token_ids, int adapter, const HiddenTap& tap,
                 const std::function<void(int begin, const Batch& batch, Tensor hidden)>& each);

  ModelOptions options_;
  ModelInfo info_;
  std::unique_ptr<Backend> backend_;
  Weights weights_;
  KvPools pools_;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<HostAdapters> host_adapters_;
  AdapterSlots slots_{0};
  SequenceTable table_{0};
  std::vector<EdgeSegment> edges_;
  mutable std::mutex shape_mutex_;       // adapters are uploaded on a thread of their own
  StepShape shape_;                      // of the last step begun
};

}  // namespace lorikeet
