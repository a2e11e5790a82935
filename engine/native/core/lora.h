// Adapters on the device: one slot each, any rank, any subset of modules. Which slot a row uses stands in its BatchRow.
#pragma once
#include <array>
#include <atomic>
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

/// An adapter in host memory, read and checked. What `image` holds is no longer in `file`.
struct HostAdapter {
  AdapterFile file;
  std::shared_ptr<const AdapterImage> image;  // null where the device takes pairs one by one

  /// True: everything is in the image, so a load disturbs no step and may run on any thread.
  bool is_image() const { return image && file.saved_embed_tokens.empty() && file.saved_lm_head.empty(); }
};

HostAdapter host_adapter(AdapterFile file, const Weights& weights, Backend& backend);
std::unique_ptr<DeviceAdapter> upload_adapter(const HostAdapter& adapter, const Weights& weights, Backend& backend);

/// DoRA divides by the norm of the adapted rows: known once A, B and W are, so the division is done at load. Empty without DoRA.
std::vector<float> column_scale(const LoraPair& pair, const ModulePlace& place, Backend& backend);

class AdapterSlots {
 public:
  explicit AdapterSlots(int n_slots) : slots_(n_slots) {}
  void resize(int n_slots) { slots_.resize(n_slots); }

  int size() const { return int(slots_.size()); }
  const DeviceAdapter* at(int slot) const { return slot < 0 ? nullptr : slots_[slot].get(); }
  /// A free slot may be filled while steps read the others.
  void put(int slot, std::unique_ptr<DeviceAdapter> adapter) {
    bytes_ += adapter->bytes;
    slots_[slot] = std::move(adapter);
  }
  std::unique_ptr<DeviceAdapter> take(int slot) {
    if (slots_[slot]) bytes_ -= slots_[slot]->bytes;
    return std::move(slots_[slot]);
  }
  /// Any thread.
  uint64_t bytes() const { return bytes_; }

 private:
  std::vector<std::unique_ptr<DeviceAdapter>> slots_;
  std::atomic<uint64_t> bytes_ = 0;
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
