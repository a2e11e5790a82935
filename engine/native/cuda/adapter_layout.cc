#include "adapter_layout.h"

#include <algorithm>
#include <cstring>

#include "../core/error.h"
#include "../core/float_types.h"
#include "../core/tensor.h"

namespace lorikeet::cuda {
namespace {

constexpr int64_t kTileRanks = 16, kTileInputs = 64, kLanes = 32;

size_t reserve(size_t& bytes, size_t n) {
  const size_t at = bytes;
  bytes += (n + 255) / 256 * 256;
  return at;
}

PairLayout plan_shape(const HostTensor& a, const HostTensor& b, float scale) {
  PairLayout p;
  p.rank = int(a.shape[0]);
  p.n_in = a.shape[1];
  p.n_out = b.shape[0];
  p.scale = scale;
  if (p.rank > kMaxRank)
    throw Error("ADAPTER_RANK_TOO_LARGE", "rank " + std::to_string(p.rank) + " on CUDA: at most " + std::to_string(kMaxRank));
  return p;
}

RowsLayout plan_rows(const TokenRows& rows, size_t& bytes) {
  RowsLayout r;
  r.token_ids.assign(rows.token_ids.begin(), rows.token_ids.end());
  r.cols = rows.rows.shape[1];
  r.ids = reserve(bytes, r.token_ids.size() * 4);
  r.rows = reserve(bytes, size_t(rows.rows.numel()) * 2);
  return r;
}

void write_half(const HostTensor& tensor, bf16* to) {
  const int64_t n = tensor.numel();
  if (tensor.dtype == FileDtype::kBF16) {
    std::memcpy(to, tensor.data, size_t(n) * 2);
  } else if (tensor.dtype == FileDtype::kF32) {
    std::transform(static_cast<const float*>(tensor.data), static_cast<const float*>(tensor.data) + n, to, to_bf16);
  } else {
    const std::vector<float> values = to_float(tensor);
    std::transform(values.begin(), values.end(), to, to_bf16);
  }
}

/// A [r, K]: lane l of step s of a tile holds rows l / 4 and l / 4 + 8, columns l % 4 * 2 and 8 further, in pairs.
void write_tiles(const bf16* a, int64_t rank, int64_t K, uint32_t* to) {
  const auto pair_at = [&](int64_t row, int64_t col) {
    uint32_t pair = 0;
    if (row < rank) std::memcpy(&pair, a + row * K + col, 4);
    return pair;
  };
  for (int64_t row = 0; row < rank; row += kTileRanks)
    for (int64_t col = 0; col < K; col += 16)  // a step; four make a tile, and tiles follow each other along K
      for (int64_t lane = 0; lane < kLanes; lane++, to += 4) {
        const int64_t r = row + lane / 4, c = col + lane % 4 * 2;
        to[0] = pair_at(r, c);
        to[1] = pair_at(r + 8, c);
        to[2] = pair_at(r, c + 8);
        to[3] = pair_at(r + 8, c + 8);
      }
}

/// B [n_out, r] with zeros up to the padded rank.
void write_padded(const HostTensor& b, const PairLayout& p, bf16* to) {
  if (p.rank == p.padded_rank()) return write_half(b, to);
  std::vector<bf16> half(size_t(b.numel()));
  write_half(b, half.data());
  for (int64_t row = 0; row < p.n_out; row++, to += p.padded_rank()) {
    std::copy_n(half.begin() + row * p.rank, p.rank, to);
    std::fill(to + p.rank, to + p.padded_rank(), bf16(0));
  }
}

/// [rows, cols] to [cols, rows].
void write_transposed(const HostTensor& tensor, float* to) {
  const std::vector<float> values = to_float(tensor);
  const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < cols; c++) to[c * rows + r] = values[size_t(r * cols + c)];
}

template <class T>
T* at(char* to, size_t offset) {
  return reinterpret_cast<T*>(to + offset);
}

void write_rows(const RowsLayout& layout, const TokenRows& rows, char* to) {
  std::copy(layout.token_ids.begin(), layout.token_ids.end(), at<int32_t>(to, layout.ids));
  write_half(rows.rows, at<bf16>(to, layout.rows));
}

}  // namespace

PairLayout plan_pair(const HostTensor& a, const HostTensor& b, float scale, bool has_column_scale, size_t& bytes) {
  PairLayout p = plan_shape(a, b, scale);
  p.a = reserve(bytes, size_t(p.rank * p.n_in) * 2);
  if (p.n_in % kTileInputs == 0) p.a_tiles = reserve(bytes, size_t(p.padded_rank() * p.n_in) * 2);
  p.b = reserve(bytes, size_t(p.n_out * p.padded_rank()) * 2);
  if (has_column_scale) p.column_scale = reserve(bytes, size_t(p.n_out) * 4);
  return p;
}

PairLayout plan_embedding_pair(const HostTensor& a, const HostTensor& b, float scale, size_t& bytes) {
  PairLayout p = plan_shape(a, b, scale);
  p.a = reserve(bytes, size_t(a.numel()) * 4);
  p.b = reserve(bytes, size_t(b.numel()) * 4);
  return p;
}

void write_pair(const PairLayout& pair, const HostTensor& a, const HostTensor& b, std::span<const float> column_scale, char* to) {
  write_half(a, at<bf16>(to, pair.a));
  if (pair.a_tiles != kAbsent) write_tiles(at<bf16>(to, pair.a), pair.rank, pair.n_in, at<uint32_t>(to, pair.a_tiles));
  write_padded(b, pair, at<bf16>(to, pair.b));
  if (pair.column_scale != kAbsent) std::copy(column_scale.begin(), column_scale.end(), at<float>(to, pair.column_scale));
}

void write_embedding_pair(const PairLayout& pair, const HostTensor& a, const HostTensor& b, char* to) {
  write_transposed(a, at<float>(to, pair.a));
  write_transposed(b, at<float>(to, pair.b));
}

AdapterLayout plan_adapter(const AdapterFile& file) {
  AdapterLayout out;
  out.layers.resize(file.layers.size());
  for (size_t layer = 0; layer < file.layers.size(); layer++)
    for (int m = 0; m < kModules; m++)
      if (const auto& pair = file.layers[layer][m])
        out.layers[layer][m] = plan_pair(pair->a, pair->b, pair->scale, !pair->magnitude.empty(), out.bytes);
  if (const auto& pair = file.embed_tokens) out.embed_lora = plan_embedding_pair(pair->a, pair->b, pair->scale, out.bytes);
  if (const auto& pair = file.lm_head) out.head_lora = plan_pair(pair->a, pair->b, pair->scale, false, out.bytes);
  if (file.token_rows) out.embed_rows = plan_rows(*file.token_rows, out.bytes);
  if (file.head_rows) out.head_rows = plan_rows(*file.head_rows, out.bytes);
  return out;
}

void write_adapter(const AdapterFile& file, const AdapterLayout& layout, const ColumnScale& column_scale, char* to) {
  for (size_t layer = 0; layer < layout.layers.size(); layer++)
    for (int m = 0; m < kModules; m++) {
      const auto& place = layout.layers[layer][m];
      if (!place) continue;
      const LoraPair& pair = *file.layers[layer][m];
      write_pair(*place, pair.a, pair.b, place->column_scale == kAbsent ? std::vector<float>() : column_scale(int(layer), Module(m)), to);
    }
  if (layout.embed_lora) write_embedding_pair(*layout.embed_lora, file.embed_tokens->a, file.embed_tokens->b, to);
  if (layout.head_lora) write_pair(*layout.head_lora, file.lm_head->a, file.lm_head->b, {}, to);
  if (layout.embed_rows) write_rows(*layout.embed_rows, *file.token_rows, to);
  if (layout.head_rows) write_rows(*layout.head_rows, *file.head_rows, to);
}

}  // namespace lorikeet::cuda
