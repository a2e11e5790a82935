// Steps whose rows are one token each, through all layers by fused kernels, captured once per size as a CUDA graph.
#pragma once
#include <atomic>
#include <map>
#include <tuple>

#include "../core/forward.h"
#include "decode_resident.h"
#include "decode_step.h"

namespace lorikeet::cuda {

class Decode {
 public:
  /// overlaps: the device can start a kernel before the one before it has ended (9.0).
  Decode(bool overlaps, cudaStream_t stream);
  ~Decode();
  Decode(const Decode&) = delete;

  StepClock* clock = nullptr;  // told when a step's data are queued
  /// Steps by a captured graph, by one captured just then, kernel by kernel.
  std::atomic<uint64_t> hits{0}, captures{0}, plain{0};

  /// @returns false where the step, the model or an adapter needs the ops one by one. Else hidden [S, H] is queued.
  bool run(Tensor hidden, const Weights& weights, const AdapterSlots& slots, KvPools& pools, const Batch& batch);

 private:
  /// What a graph is captured for: everything else is read from the step's data.
  struct Shape {
    const void *global_pool, *sliding_pool;
    int n_tokens, n_outputs, n_splits, n_groups, rank_tiles;
    Resident::Shape resident;
    auto operator<=>(const Shape&) const = default;
  };
  struct Graph {
    int uses = 0;
    cudaGraphExec_t exec = nullptr;
  };
  struct Memory;

  void prepare(const Weights& weights);
  Shape write_step(const Weights& weights, const AdapterSlots& slots, const KvPools& pools, const Batch& batch);
  void launch(const Shape& shape, Tensor hidden, const Weights& weights, KvPools& pools);
  void launch_resident(const Shape& shape, Tensor hidden, KvPools& pools);
  void launch_layer(int layer, const Shape& shape, const Weights& weights, KvPools& pools);
  void drop_graphs();

  bool overlaps_;
  cudaStream_t stream_;
  const Weights* weights_ = nullptr;  // that memory and graphs belong to
  const void* hidden_ = nullptr;      // where the graphs write
  bool usable_ = false;
  std::unique_ptr<Memory> memory_;
  std::unique_ptr<Resident> resident_;  // null: not for this model or device
  std::map<Shape, Graph> graphs_;
};

}  // namespace lorikeet::cuda
