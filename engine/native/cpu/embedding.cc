// Token ids to rows of the vocabulary, times the embedding scale; adapters may bring rows, a matrix or a LoRA of their own.
#include "ops.h"

namespace lorikeet::CPU_NS {

struct EmbeddingCpu : Embedding {
  HostMatrix matrix;  // bf16 or f32 [V, H]
};

std::unique_ptr<Embedding> make_embedding_cpu(const HostMatrix& matrix) {
  auto e = std::make_unique<EmbeddingCpu>();
  e->rows = matrix.rows;
  e->cols = matrix.cols;
  e->matrix = matrix;
  e->bytes = size_t(matrix.rows * matrix.cols) * (matrix.format == WeightFormat::kF32 ? 4 : 2);
  return e;
}

namespace {

void read_row(float* x, const Embedding& embedding, int32_t id, float scale) {
  const HostMatrix& m = static_cast<const EmbeddingCpu&>(embedding).matrix;
  for (int64_t c = 0; c < m.cols; c += kLanes) {
    const int64_t at = id * m.cols + c;
    const f32x16 v = m.format == WeightFormat::kF32 ? load(static_cast<const float*>(m.data) + at) : load_bf16(static_cast<const bf16*>(m.data) + at);
    store(x + c, v * scale);
  }
}

/// Index of `id` among an adapter's replaced rows, or -1. The lists are short: two turn tokens, as a rule.
int64_t find_row(const TokenRowsDevice& rows, int32_t id) {
  for (size_t i = 0; i < rows.token_ids.size(); i++)
    if (rows.token_ids[i] == id) return int64_t(i);
  return -1;
}

void read_adapted(float* x, int64_t H, int32_t id, const Embedding& base, float scale, const EdgeSegment& edge, DType act) {
  const int64_t replaced = edge.token_rows ? find_row(*edge.token_rows, id) : -1;
  if (replaced >= 0) {
    const Tensor rows{edge.token_rows->rows.data(), act, int64_t(edge.token_rows->token_ids.size()), H, H};
    for (int64_t c = 0; c < H; c += kLanes) store(x + c, load_act(rows.row(replaced), act, c) * scale);
  } else {
    read_row(x, edge.embedding ? *edge.embedding : base, id, scale);
  }
  if (edge.embed_lora) embedding_lora_add(x, id, *edge.embed_lora, scale);
}

}  // namespace

void embed_cpu(Tensor x, std::span<const int32_t> token_ids, const Embedding& embedding, float scale, std::span<const EdgeSegment> edges,
               DType act) {
  expect_shape("embed x", x, int64_t(token_ids.size()), embedding.cols);
#pragma omp parallel for if (x.rows > 8)
  for (int64_t t = 0; t < x.rows; t++) {
    const EdgeSegment* own = nullptr;
    for (const EdgeSegment& e : edges)
      if (t >= e.begin && t < e.end) own = &e;
    if (own) read_adapted(x.f32(t), x.cols, token_ids[t], embedding, scale, *own, act);
    else read_row(x.f32(t), embedding, token_ids[t], scale);
  }
}

}  // namespace lorikeet::CPU_NS
