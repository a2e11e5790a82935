#include "merge.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"
#include "float_types.h"
#include "json.h"
#include "mapped_file.h"
#include "nf4.h"
#include "parallel.h"

namespace lorikeet {
namespace {

constexpr int64_t kPieceRows = 16;         // rows that one thread takes at a time

std::unique_ptr<WeightSource> open_source(const std::string& path) {
  if (is_directory(path)) return open_hf_source(path);
  if (is_file(path)) return open_gguf_source(path);
  throw Error("MODEL_NOT_FOUND", json_quote(path) + " is neither a model directory nor a .gguf file");
}

// The layer and module of "layers.3.mlp.up_proj"; nullopt for norms, embedding and head.
std::optional<std::pair<size_t, int>> linear_place(const std::string& name) {
  if (!name.starts_with("layers.")) return std::nullopt;
  const size_t dot = name.find('.', 7);
  for (int m = 0; m < kModules; ++m) {
    if (name.compare(dot + 1, std::string::npos, module_path(static_cast<Module>(m))) == 0)
      return std::pair{static_cast<size_t>(std::stoul(name.substr(7, dot - 7))), m};
  }
  return std::nullopt;
}

void dequantise(const HostMatrix& nf4, int64_t begin, int64_t end, float* out) {   // rows
  // A thread's piece begins at a whole block: blocks are 64 long and cols a multiple of 64.
  const int64_t cols = nf4.cols;
  parallel_pieces(end - begin, kPieceRows, [&](int64_t first, int64_t last) {
    const int64_t at = (begin + first) * cols, n = (last - first) * cols;
    std::vector<uint16_t> values(static_cast<size_t>(n));
    nf4_dequantize_bf16(static_cast<const uint8_t*>(nf4.data) + at / 2, nf4.absmax + at / kNF4Block, n, values.data());
    to_float(FileDtype::kBF16, values.data(), n, out + first * cols);
  });
}

// W + s B A and, with DoRA, its rows scaled to the magnitudes.
void add_delta(const LoraPair& pair, const float* a, const float* b, const float* magnitude, int64_t begin, int64_t end, int64_t cols,
               float* w) {
  const int rank = pair.rank;
  parallel_pieces(end - begin, kPieceRows, [&](int64_t first, int64_t last) {
    std::vector<float> delta(static_cast<size_t>(cols));
    for (int64_t row = first; row < last; ++row) {
      std::fill(delta.begin(), delta.end(), 0.0f);
      const float* b_row = b + (begin + row) * rank;
      for (int k = 0; k < rank; ++k) {
        const float* a_row = a + int64_t{k} * cols;
        for (int64_t j = 0; j < cols; ++j) delta[static_cast<size_t>(j)] += b_row[k] * a_row[j];
      }
      float* out = w + row * cols;
      double squares = 0;
      for (int64_t j = 0; j < cols; ++j) {
        out[j] += pair.scale * delta[static_cast<size_t>(j)];
        squares += double{out[j]} * out[j];
      }
      if (magnitude == nullptr) continue;
      const float factor = magnitude[begin + row] / static_cast<float>(std::sqrt(squares));
      for (int64_t j = 0; j < cols; ++j) out[j] *= factor;
    }
  });
}

void put_rows(const TokenRows& rows, int64_t begin, int64_t end, int64_t cols, float* out) {
  const std::vector<float> values = to_float(rows.rows);
  for (size_t i = 0; i < rows.token_ids.size(); ++i) {
    const int64_t id = rows.token_ids[i];
    if (id >= begin && id < end) std::copy_n(values.begin() + static_cast<int64_t>(i) * cols, cols, out + (id - begin) * cols);
  }
}

void copy_rows(const HostTensor& saved, int64_t begin, int64_t end, int64_t cols, float* out) {
  const auto* data = static_cast<const uint8_t*>(saved.data) + begin * cols * dtype_bytes(saved.dtype);
  to_float(saved.dtype, data, (end - begin) * cols, out);
}

}  // namespace

MergedWeights::MergedWeights(const std::string& path, const std::string& adapter, MergeBase base, int max_rank)
    : source_(open_source(path)), base_(base), config_(source_->config()) {
  if (!adapter.empty()) adapter_ = read_adapter(adapter, config_, max_rank);
  if (head_leaves_embedding()) config_.tied = false;
  for (ExpectedTensor& tensor : expected_tensors(config_)) tensors_.push_back({std::move(tensor.name), std::move(tensor.shape)});
}

// One row per row of the embedding is all that a tied model has: where the adapter changes one of the two alone, both are written.
bool MergedWeights::head_leaves_embedding() const {
  if (!config_.tied || !adapter_) return false;
  return adapter_->saved_embed_tokens.data != adapter_->saved_lm_head.data || adapter_->embed_tokens || adapter_->lm_head;
}

void MergedWeights::read(size_t index, int64_t begin, int64_t end, float* out) {
  const Tensor& tensor = tensors_.at(index);
  const int64_t rows = tensor.shape.size() == 1 ? 1 : tensor.shape[0];
  if (begin < 0 || begin > end || end > rows) throw Error("INVALID_REQUEST", "rows outside of " + tensor.name);
  if (tensor.name == "embed_tokens") return read_embedding(begin, end, out);
  if (tensor.name == "lm_head") return read_head(begin, end, out);
  if (tensor.shape.size() == 2) return read_linear(tensor, begin, end, out);
  source_->read(tensor.name, 0, tensor.shape[0], out);
}

void MergedWeights::read_base(const std::string& name, const std::vector<int64_t>& shape, int64_t begin, int64_t end, float* out) {
  const bool is_linear = linear_place(name).has_value();
  if (name != quantised_name_) {
    quantised_ = HostMatrix{};
    quantised_name_ = name;
    if (const auto stored = source_->nf4(name)) {
      quantised_ = *stored;
    } else if (base_ == MergeBase::kNF4 && is_linear && !source_->prequantised()) {
      const int64_t n = shape[0] * shape[1];
      const QuantisedMatrix q = quantise_matrix(*source_, name, n);
      auto absmax = std::make_shared<std::vector<float>>(static_cast<size_t>(n / kNF4Block));
      double_dequantize(q.q8.data(), q.nested_absmax.data(), nested_quant_map().data(), q.offset, n / kNF4Block, absmax->data());
      auto owner = std::make_shared<std::pair<std::shared_ptr<uint8_t>, std::shared_ptr<std::vector<float>>>>(q.packed, absmax);
      quantised_ = {WeightFormat::kNF4, shape[0], shape[1], q.packed.get(), absmax->data(), owner};
    }
  }
  if (quantised_.data != nullptr) return dequantise(quantised_, begin, end, out);
  const int64_t cols = shape[1];
  parallel_pieces(end - begin, kPieceRows, [&](int64_t first, int64_t last) {
    source_->read(name, (begin + first) * cols, (begin + last) * cols, out + first * cols);
  });
}

void MergedWeights::load_pair(const std::string& key, const LoraPair& pair) {
  if (key == pair_name_) return;
  a_ = to_float(pair.a);
  b_ = to_float(pair.b);
  pair_name_ = key;
}

void MergedWeights::read_linear(const Tensor& tensor, int64_t begin, int64_t end, float* out) {
  read_base(tensor.name, tensor.shape, begin, end, out);
  if (!adapter_) return;
  const auto [layer, module] = *linear_place(tensor.name);
  const auto& pair = adapter_->layers[layer][static_cast<size_t>(module)];
  if (!pair) return;
  load_pair(tensor.name, *pair);
  const std::vector<float> magnitude = pair->magnitude.empty() ? std::vector<float>{} : to_float(pair->magnitude);
  add_delta(*pair, a_.data(), b_.data(), magnitude.empty() ? nullptr : magnitude.data(), begin, end, tensor.shape[1], out);
}

void MergedWeights::read_embedding(int64_t begin, int64_t end, float* out) {
  const int64_t cols = config_.hidden_size;
  if (adapter_ && !adapter_->saved_embed_tokens.empty()) {
    copy_rows(adapter_->saved_embed_tokens, begin, end, cols, out);
  } else {
    read_base("embed_tokens", {config_.vocab_size, cols}, begin, end, out);
  }
  if (!adapter_) return;
  if (adapter_->token_rows) put_rows(*adapter_->token_rows, begin, end, cols, out);
  if (!adapter_->embed_tokens) return;
  const LoraPair& pair = *adapter_->embed_tokens;   // A [rank, vocab], B [hidden, rank]: row id gets s B A[:, id]
  load_pair("embed_tokens", pair);
  parallel_pieces(end - begin, kPieceRows, [&](int64_t first, int64_t last) {
    for (int64_t id = begin + first; id < begin + last; ++id) {
      float* row = out + (id - begin) * cols;
      for (int64_t j = 0; j < cols; ++j) {
        float sum = 0;
        for (int k = 0; k < pair.rank; ++k)
          sum += b_[static_cast<size_t>(j * pair.rank + k)] * a_[static_cast<size_t>(int64_t{k} * config_.vocab_size + id)];
        row[j] += pair.scale * sum;
      }
    }
  });
}

void MergedWeights::read_head(int64_t begin, int64_t end, float* out) {
  const int64_t cols = config_.hidden_size;
  const bool base_tied = source_->config().tied;
  if (adapter_ && !adapter_->saved_lm_head.empty()) {
    copy_rows(adapter_->saved_lm_head, begin, end, cols, out);
  } else {
    read_base(base_tied ? "embed_tokens" : "lm_head", {config_.vocab_size, cols}, begin, end, out);
  }
  if (!adapter_) return;
  const auto& rows = adapter_->head_rows ? adapter_->head_rows : base_tied ? adapter_->token_rows : adapter_->head_rows;
  if (rows) put_rows(*rows, begin, end, cols, out);
  if (!adapter_->lm_head) return;
  load_pair("lm_head", *adapter_->lm_head);
  add_delta(*adapter_->lm_head, a_.data(), b_.data(), nullptr, begin, end, cols, out);
}

}  // namespace lorikeet
