// Rows of the vocabulary as input: one block a token.
#include "ops.h"
#include "weights.h"

namespace lorikeet::cuda {

namespace {

/// What stands at one end of the model for one token.
__global__ void embed_kernel(float* x, int64_t stride, const int32_t* ids, const nv_bf16* table, int n, float scale) {
  const nv_bf16* row = table + int64_t(ids[blockIdx.x]) * n;
  for (int i = threadIdx.x; i < n; i += blockDim.x) x[blockIdx.x * stride + i] = __bfloat162float(row[i]) * scale;
}

__global__ void replace_kernel(float* x, int64_t stride, const int32_t* ids, int32_t id, const nv_bf16* row, int n, float scale) {
  if (ids[blockIdx.x] != id) return;
  for (int i = threadIdx.x; i < n; i += blockDim.x) x[blockIdx.x * stride + i] = __bfloat162float(row[i]) * scale;
}

}  // namespace

std::unique_ptr<Embedding> make_embedding_cuda(const HostMatrix& matrix) {
  auto e = std::make_unique<EmbeddingCuda>();
  e->rows = matrix.rows;
  e->cols = matrix.cols;
  e->bytes = size_t(matrix.rows * matrix.cols) * 2;
  e->data = allocate_device(e->bytes);
  upload_as_bf16(e->data.data(), matrix, "upload of the embedding");
  return e;
}

const nv_bf16* embedding_rows(const Embedding& embedding) { return static_cast<const EmbeddingCuda&>(embedding).table(); }

void embed_cuda(Tensor x, const int32_t* token_ids, const Embedding& embedding, float scale, std::span<const EdgeSegment> edges,
                cudaStream_t stream) {
  constexpr int kThreads = 128;
  const int n = int(x.cols);
  embed_kernel<<<unsigned(x.rows), kThreads, 0, stream>>>(x.f32(), x.stride, token_ids, embedding_rows(embedding), n, scale);
  for (const EdgeSegment& edge : edges) {
    const unsigned tokens = unsigned(edge.end - edge.begin);
    const int32_t* ids = token_ids + edge.begin;
    float* to = x.f32(edge.begin);
    if (edge.embedding) embed_kernel<<<tokens, kThreads, 0, stream>>>(to, x.stride, ids, embedding_rows(*edge.embedding), n, scale);
    if (edge.token_rows)
      for (size_t i = 0; i < edge.token_rows->token_ids.size(); i++)
        replace_kernel<<<tokens, kThreads, 0, stream>>>(to, x.stride, ids, edge.token_rows->token_ids[i],
                                                        static_cast<const nv_bf16*>(edge.token_rows->rows.data()) + int64_t(i) * n, n,
                                                        scale);
    if (edge.embed_lora) embedding_lora_cuda(x, token_ids, edge.begin, edge.end, *edge.embed_lora, scale, stream);
  }
  check_launch("embed");
}

}  // namespace lorikeet::cuda
