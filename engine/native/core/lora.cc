#include "lora.h"

#include <algorithm>
#include <numeric>

namespace lorikeet {
namespace {

/// A host tensor as a matrix of the activation dtype (bf16 stays bf16 under fp32 arithmetic: the same values).
HostMatrix as_matrix(const HostTensor& tensor, DType act) {
  const int64_t n = tensor.numel();
  HostMatrix m{tensor.dtype == FileDtype::kBF16 || act == DType::kBF16 ? WeightFormat::kBF16 : WeightFormat::kF32, tensor.shape[0],
               tensor.shape[1], tensor.data, nullptr, tensor.owner};
  const bool as_is = (m.format == WeightFormat::kBF16 && tensor.dtype == FileDtype::kBF16) ||
                     (m.format == WeightFormat::kF32 && tensor.dtype == FileDtype::kF32);
  if (!as_is) {
    const std::vector<float> values = to_float(tensor);
    if (m.format == WeightFormat::kF32) {
      auto copy = std::make_shared<std::vector<float>>(values);
      m.data = copy->data();
      m.owner = copy;
    } else {
      auto copy = std::make_shared<std::vector<bf16>>(n);
      for (int64_t i = 0; i < n; i++) (*copy)[i] = to_bf16(values[i]);
      m.data = copy->data();
      m.owner = copy;
    }
  }
  return m;
}

/// True where `matrix` [V, H] holds the base embedding's own values, bit for bit. Reads both once, unless an early row differs.
bool is_base_embedding(const HostMatrix& matrix, const Embedding& base, Backend& backend) {
  constexpr int64_t kRows = 256;
  const int64_t H = base.cols;
  const Buffer buffer = backend.allocate(kRows * H * 4);
  std::vector<float> rows(kRows * H), own(kRows * H);
  std::vector<int32_t> ids(kRows);
  for (int64_t begin = 0; begin < base.rows; begin += kRows) {
    const int64_t n = std::min(kRows, base.rows - begin), first = begin * H;
    std::iota(ids.begin(), ids.begin() + n, int32_t(begin));
    backend.embed({buffer.data(), DType::kF32, n, H, H}, std::span(ids).first(n), base, 1.0f, {});
    backend.download(rows.data(), buffer.data(), size_t(n * H) * 4);
    const auto* f32 = static_cast<const float*>(matrix.data);
    const auto* b16 = static_cast<const bf16*>(matrix.data);
    for (int64_t i = 0; i < n * H; i++) own[i] = matrix.format == WeightFormat::kF32 ? f32[first + i] : to_f32(b16[first + i]);
    if (!std::equal(rows.begin(), rows.begin() + n * H, own.begin())) return false;
  }
  return true;
}

/// The full matrices of an adapter at its two ends, but not where they are the base's: PEFT saves those beside LoRA on them.
void upload_ends(const AdapterFile& file, const Weights& weights, Backend& backend, DeviceAdapter& out) {
  const HostTensor &embed = file.saved_embed_tokens, &score = file.saved_lm_head;
  const bool shared = score.data == embed.data;
  const auto is_base = [&](const HostMatrix& m) { return file.saved_is_base_copy && is_base_embedding(m, *weights.embedding, backend); };
  const auto put_head = [&](const HostMatrix& m) {
    out.head = backend.make_head(m, m.format == WeightFormat::kF32 ? HeadFormat::kF32 : HeadFormat::kBF16);
    out.kept.push_back(m.owner);
  };
  if (!embed.empty()) {
    const HostMatrix m = as_matrix(embed, backend.act_dtype());
    if (!is_base(m)) {
      out.embedding = backend.make_embedding(m);
      out.kept.push_back(m.owner);
      if (shared) put_head(m);
    }
  }
  if (score.empty() || shared) return;
  const HostMatrix m = as_matrix(score, backend.act_dtype());
  if (!weights.config.tied || !is_base(m)) put_head(m);
}

std::unique_ptr<TokenRowsDevice> upload_rows(const TokenRows& rows, Backend& backend) {
  auto out = std::make_unique<TokenRowsDevice>();
  out->token_ids.assign(rows.token_ids.begin(), rows.token_ids.end());
  const std::vector<float> values = to_float(rows.rows);
  const DType act = backend.act_dtype();
  out->rows = backend.allocate(values.size() * size_of(act));
  if (act == DType::kF32) {
    backend.upload(out->rows.data(), values.data(), values.size() * 4);
  } else {
    std::vector<bf16> half(values.size());
    for (size_t i = 0; i < values.size(); i++) half[i] = to_bf16(values[i]);
    backend.upload(out->rows.data(), half.data(), half.size() * 2);
  }
  return out;
}

void upload_pairs(const AdapterFile& file, const Weights& weights, Backend& backend, DeviceAdapter& out) {
  out.layers.resize(file.layers.size());
  for (size_t layer = 0; layer < file.layers.size(); layer++) {
    for (int m = 0; m < kModules; m++) {
      const auto& pair = file.layers[layer][m];
      if (!pair) continue;
      const std::vector<float> scale = column_scale(*pair, module_place(weights, int(layer), Module(m)), backend);
      out.layers[layer][m] = backend.make_lora(pair->a, pair->b, pair->scale, scale);
      out.bytes += out.layers[layer][m]->bytes;
    }
  }
  if (file.token_rows) out.embed_rows = upload_rows(*file.token_rows, backend);
  if (file.head_rows) out.head_rows = upload_rows(*file.head_rows, backend);
  if (file.embed_tokens) out.embed_lora = backend.make_embedding_lora(file.embed_tokens->a, file.embed_tokens->b, file.embed_tokens->scale);
  if (file.lm_head) out.head_lora = backend.make_lora(file.lm_head->a, file.lm_head->b, file.lm_head->scale, {});
  for (size_t bytes : {out.embed_lora ? out.embed_lora->bytes : 0, out.head_lora ? out.head_lora->bytes : 0,
                       out.embed_rows ? out.embed_rows->rows.bytes() : 0, out.head_rows ? out.head_rows->rows.bytes() : 0})
    out.bytes += bytes;
}

/// The file's memory goes with the last tensor that points into it.
void drop_pairs_and_rows(AdapterFile& file) {
  file.layers.clear();
  file.embed_tokens.reset();
  file.lm_head.reset();
  file.token_rows.reset();
  file.head_rows.reset();
}

}  // namespace

std::vector<float> column_scale(const LoraPair& pair, const ModulePlace& place, Backend& backend) {
  if (pair.magnitude.empty()) return {};
  std::vector<float> scale = to_float(pair.magnitude);
  const std::vector<float> norms = backend.dora_row_norms(*place.linear, place.row_begin, pair.a, pair.b, pair.scale);
  for (size_t i = 0; i < scale.size(); i++) scale[i] /= norms[i];
  return scale;
}

HostAdapter host_adapter(AdapterFile file, const Weights& weights, Backend& backend) {
  if (!backend.takes_adapter_images()) return {std::move(file), nullptr};
  auto image = backend.make_adapter_image(file, weights);
  drop_pairs_and_rows(file);
  return {std::move(file), std::move(image)};
}

std::unique_ptr<DeviceAdapter> upload_adapter(const HostAdapter& adapter, const Weights& weights, Backend& backend) {
  const AdapterFile& file = adapter.file;
  auto out = std::make_unique<DeviceAdapter>();
  out->max_rank = file.max_rank;
  out->n_tensors = file.n_tensors;
  out->warnings = file.warnings;
  out->embed_rows_score = weights.config.tied;
  upload_ends(file, weights, backend, *out);
  if (out->embedding) out->bytes += out->embedding->bytes;
  if (out->head) out->bytes += out->head->bytes;
  if (adapter.image) backend.load_adapter_image(*adapter.image, *out);
  else upload_pairs(file, weights, backend, *out);
  return out;
}

namespace {

void extend(std::vector<AdapterRun>& runs, int begin, int end, const DeviceAdapter* adapter) {
  if (!adapter) return;
  if (!runs.empty() && runs.back().adapter == adapter && runs.back().end == begin) runs.back().end = end;
  else runs.push_back({begin, end, adapter});
}

}  // namespace

std::vector<AdapterRun> adapter_runs(const std::vector<BatchRow>& rows, const AdapterSlots& slots) {
  std::vector<AdapterRun> runs;
  for (const BatchRow& row : rows) extend(runs, row.begin, row.end, slots.at(row.adapter));
  return runs;
}

std::vector<AdapterRun> output_runs(const Batch& batch, const AdapterSlots& slots) {
  std::vector<AdapterRun> runs;
  for (int s = 0; s < int(batch.outputs.size()); s++) extend(runs, s, s + 1, slots.at(batch.rows[batch.outputs[s].row].adapter));
  return runs;
}

std::vector<LoraSegment> lora_segments(const std::vector<AdapterRun>& runs, int layer, Module m) {
  std::vector<LoraSegment> segments;
  for (const AdapterRun& run : runs) {
    if (run.adapter->layers.empty()) continue;
    if (const LoraWeights* w = run.adapter->layers[layer][int(m)].get()) segments.push_back({run.begin, run.end, w});
  }
  return segments;
}

std::vector<EdgeSegment> edge_segments(const std::vector<AdapterRun>& runs) {
  std::vector<EdgeSegment> edges;
  for (const AdapterRun& run : runs)
    if (run.adapter->changes_edges())
      edges.push_back({run.begin, run.end, run.adapter->embedding.get(), nullptr, run.adapter->embed_rows.get(), run.adapter->embed_lora.get(), nullptr});
  return edges;
}

EdgeSegment head_edge(const DeviceAdapter& a, int output) {
  const TokenRowsDevice* rows = a.head_rows ? a.head_rows.get() : a.embed_rows_score ? a.embed_rows.get() : nullptr;
  return {output, output + 1, nullptr, a.head.get(), rows, nullptr, a.head_lora.get()};
}

}  // namespace lorikeet
