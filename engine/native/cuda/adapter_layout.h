// An adapter as it lies on the device: all its parts in one piece of memory, each at a boundary of 256 bytes. Planned and written on the
// host, so that a load is one copy. Saved matrices (a whole embedding or head) are no part of it.
#pragma once
#include <array>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "../core/adapter_file.h"

namespace lorikeet::cuda {

constexpr int kMaxRank = 512;
constexpr size_t kAbsent = SIZE_MAX;

/// Where the parts of one LoRA pair lie: bytes from the begin of the piece.
struct PairLayout {
  int rank = 0;
  int64_t n_in = 0, n_out = 0;
  float scale = 0;
  size_t a = 0;                   // [r, n_in] bf16; of an embedding [V, r] f32
  size_t a_tiles = kAbsent;       // the same as DevicePair::a has it; absent where n_in does not divide by 64
  size_t b = 0;                   // [n_out, padded rank] bf16; of an embedding [r, n_out] f32
  size_t column_scale = kAbsent;  // [n_out] f32, of DoRA

  int padded_rank() const { return (rank + 15) / 16 * 16; }
};

struct RowsLayout {
  std::vector<int32_t> token_ids;
  int64_t cols = 0;
  size_t ids = 0;   // [n] i32
  size_t rows = 0;  // [n, cols] bf16
};

struct AdapterLayout {
  std::vector<std::array<std::optional<PairLayout>, kModules>> layers;
  std::optional<PairLayout> embed_lora, head_lora;
  std::optional<RowsLayout> embed_rows, head_rows;
  size_t bytes = 0;
};

/// column_scale of a module with DoRA, [n_out].
using ColumnScale = std::function<std::vector<float>(int layer, Module m)>;

/// @throws Error ADAPTER_RANK_TOO_LARGE
AdapterLayout plan_adapter(const AdapterFile& file);
void write_adapter(const AdapterFile& file, const AdapterLayout& layout, const ColumnScale& column_scale, char* to);

/// One pair alone, behind `bytes`, which grow by it.
PairLayout plan_pair(const HostTensor& a, const HostTensor& b, float scale, bool has_column_scale, size_t& bytes);
PairLayout plan_embedding_pair(const HostTensor& a, const HostTensor& b, float scale, size_t& bytes);
void write_pair(const PairLayout& pair, const HostTensor& a, const HostTensor& b, std::span<const float> column_scale, char* to);
void write_embedding_pair(const PairLayout& pair, const HostTensor& a, const HostTensor& b, char* to);

}  // namespace lorikeet::cuda
