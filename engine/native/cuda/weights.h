// The model's and the adapters' weights as they lie on the device.
#pragma once
#include "adapter_layout.h"
#include "decode_step.h"

namespace lorikeet::cuda {

struct LinearCuda : Linear {
  WeightFormat format = WeightFormat::kNF4;
  Buffer data;    // tiles of nf4_layout.h, or bf16 [n, K]
  Buffer scales;  // [n / 16][K / 64][8][2] f32

  mutable Buffer expanded;  // of tiles, once many tokens came and memory allowed: bf16 [n, K]

  bool tiled() const { return format == WeightFormat::kNF4; }
};

struct EmbeddingCuda : Embedding {
  Buffer data;  // [V, H] bf16 (f32 sources are rounded: activations are bf16)

  const nv_bf16* table() const { return static_cast<const nv_bf16*>(data.data()); }
};

/// A pair in its adapter's memory, or in its own.
struct LoraCuda : LoraWeights {
  const void* a = nullptr;              // [r, n_in] bf16; of an embedding: [V, r] f32
  const uint4* a_tiles = nullptr;       // the same as DevicePair::a has it; null where n_in does not divide by 64
  const void* b = nullptr;              // [n_out, padded rank] bf16; of an embedding [r, n_out] f32
  const float* column_scale = nullptr;  // [n_out] or null
  float scale = 0;
  Buffer own;

  const nv_bf16* a_rows() const { return static_cast<const nv_bf16*>(a); }
  const nv_bf16* b_rows() const { return static_cast<const nv_bf16*>(b); }
  int padded_rank() const { return (rank + 15) / 16 * 16; }
};

std::unique_ptr<LoraCuda> lora_at(const PairLayout& pair, const char* device);

/// An adapter's pairs as the fused kernels of decode find them, all in the adapter's memory.
struct AdapterIndexCuda : AdapterIndex {
  std::shared_ptr<const void> memory;
  Buffer pairs;    // DevicePair [layers][modules]
  Buffer row_ids;  // i32: tokens with an embedding of their own
  const nv_bf16* rows = nullptr;
  int n_row_ids = 0, rank_tiles = 0;  // of the highest rank
  bool fused = false;                 // false: something in it that only the ops one by one can do
};

}  // namespace lorikeet::cuda
