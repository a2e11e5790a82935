// Adapters on the device: one slot each, any rank, any subset of modules. Which slot a row uses stands in its BatchRow.
#pragma once
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "weights.h"

namespace lorikeet {

/// One adapter version, ready to run.
struct DeviceAdapter {
  std::vector<std::array<std::unique_ptr<LoraWeights>, kModules>> layers;  // null: the module is not adapted
  std::unique_ptr<TokenRowsDevice> embed_rows, head_rows;
  bool embed_rows_score = false;                           // a tied head scores with embed_rows too
  std::unique_ptr<Embedding> embedding;
  std::unique_ptr<Head> head;
  std::unique_ptr<LoraWeights> embed_lora, head_lora;
  std::unique_ptr<AdapterIndex> index;                     // null where the device needs none
  std::vector<std::shared_ptr<const void>> kept;           // host memory that embedding and head point into
  int max_rank = 0, n_tensors = 0;
  uint64_t bytes = 0;
  std::vector<std::string> warnings;

  bool changes_edges() const { return embed_rows || head_rows || embedding || head || embed_lora || head_lora; }
};

std::unique_ptr<DeviceAdapter> upload_adapter(const AdapterFile& file, const Weights& weights, Backend& backend);

class AdapterSlots {
 public:
  explicit AdapterSlots(int n_slots) : slots_(n_slots) {}

  int size() const { return int(slots_.size()); }
  const DeviceAdapter* at(int slot) const { return slot < 0 ? nullptr : slots_[slot].get(); }
  void put(int slot, std::unique_ptr<DeviceAdapter> adapter) { slots_[slot] = std::move(adapter); }
  std::unique_ptr<DeviceAdapter> take(int slot) { return std::move(slots_[slot]); }

 private:
  std::vector<std::unique_ptr<DeviceAdapter>> slots_;
};

/// Runs of tokens with one adapter, in order. A batch without adapters has none.
struct AdapterRun {
  int begin, end;
  const DeviceAdapter* adapter;
};
std::vector<AdapterRun> adapter_runs(const std::vector<BatchRow>& rows, const AdapterSlots& slots);
/// The same where row s is output s of the batch.
std::vector<AdapterRun> output_runs(const Batch& batch, const AdapterSlots& slots);
std::vector<LoraSegment> lora_segments(const std::vector<AdapterRun>& runs, int layer, Module m);
std::vector<EdgeSegment> edge_segments(const std::vector<AdapterRun>& runs);
/// What an adapter changes at the head, for one output.
EdgeSegment head_edge(const DeviceAdapter& adapter, int output);

}  // namespace lorikeet
