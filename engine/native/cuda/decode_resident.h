// All layers of a step of up to eight one-token rows in one kernel that stays on the device: see decode_resident.cu.
#pragma once
#include "../core/forward.h"
#include "decode_step.h"
#include "kv_pool.h"

namespace lorikeet::cuda {

/// The products of a layer.
enum ProductKind { kQkv, kO, kGateUp, kDown, kKinds };

/// One layer as the kernel finds it. One more than there are layers: its first norms are the last of the model.
struct ResidentLayer {
  const uint4* tiles[kKinds];
  const float* scales[kKinds];
  const float* norms[kKinds];  // [H] of the last sublayer's output (null: none), before qkv; of o's output, before gate and up
  const float *q_norm, *k_norm;
  int pool_layer, sliding;
};

/// Where a layer's results lie among its words of the exchange.
struct ExchangePlaces {
  int shrunk[kKinds];  // f32 [modules, rounds of column tiles, T, kDecodeRank]: A x of adapters
  int qkv;             // f32 [T, (heads + 2 kv heads) D]
  int stats;           // float2 [T, splits, heads]
  int attended;        // bf16 fragments of [T, heads D]
  int mid;             // f32 fragments of [T, H]: o's output
  int inner;           // bf16 fragments of [T, I]
  int out;             // f32 fragments of [T, H]: down's output
  int sums;            // f32 fragments of [splits, T, heads D]: last, as far as there are splits
  int end;
};

/// Attention of the layers of one kind.
struct ResidentAttention {
  const float* rope;  // [T, D]: D / 2 cosines, D / 2 sines
  KvView pool;        // of any layer
  int window;         // 0: all
  int n_splits;
};

struct ResidentArgs {
  const ResidentLayer* layers;
  int n_layers;
  const DecodeStep* step;
  const int32_t* tables;
  const float* x;   // [T, H] embedded tokens
  nv_bf16* hidden;  // [n_outputs, H]
  int n_outputs;
  float* exchange;  // [2 sets][layers][places.end]
  ExchangePlaces places;
  int q_tiles, i_tiles;  // columns / 64 of o, of down
  int n_heads, n_kv_heads;
  float eps, scale;
  ResidentAttention attention[2];  // of sliding and global layers
};

class Resident {
 public:
  /// What a launch is sized by.
  struct Shape {
    int n_tokens = 0, n_splits_sliding = 0, n_splits_global = 0;  // n_tokens 0: not for this kernel
    bool adapters = false;
    auto operator<=>(const Shape&) const = default;
  };

  /// Null where the model, or the device, is not one that the kernel is built for.
  static std::unique_ptr<Resident> make(const Weights& weights);

  Shape shape_of(int n_tokens, int longest, bool adapters) const;
  /// Tells the step which set of words is its own, and what the other holds.
  void begin(const Shape& shape, DecodeStep& step);
  /// The step's kernel will run, so its set is full and the other one empty. A step that failed before does not count.
  void queued(const Shape& shape);
  /// args: what does not depend on the model alone (step, tables, x, hidden, n_outputs; ropes and pools of attention).
  void launch(const Shape& shape, ResidentArgs args, cudaStream_t stream);

 private:
  struct Sets {
    Buffer memory;
    int turn = 0;
    int32_t splits[2][2] = {};  // [set][sliding, global] that were last used
    bool adapters[2] = {};      // whether the set was last used with some
  };

  const Weights* weights_ = nullptr;
  int n_blocks_ = 0, n_warps_ = 0, most_tokens_ = 0;
  void (*launch_)(const Shape& shape, const ResidentArgs& args, int n_blocks, cudaStream_t stream) = nullptr;
  Buffer layers_;
  Sets sets_[4];  // of 1, 2, 4, 8 tokens

  ExchangePlaces places(int n_tokens) const;
  int most_splits(int n_tokens) const;
};

}  // namespace lorikeet::cuda
