// The operations of the CUDA backend, one file each; backend.cu maps backend.h onto them. Every call is queued on `stream`.
#pragma once
#include <atomic>

#include "cublaslt.h"
#include "device.h"
#include "sampler.h"

namespace lorikeet::cuda {

// backend.cu
/// Where a CUDA backend queues its work: for benches.
cudaStream_t stream_of(const Backend& backend);

// allocate.cu
/// Zeros.
Buffer allocate_device(size_t bytes);
/// For memory that no queued work reads or writes. Waits for the transfer, not for the backend's stream.
void upload_device(void* to, const void* from, size_t bytes, const char* what);
/// A bf16 or f32 matrix, row by row.
void upload_as_bf16(void* to, const HostMatrix& matrix, const char* what);
size_t allocated_device_bytes();

// linear.cu
std::unique_ptr<Linear> make_linear_cuda(std::span<const HostMatrix> parts);
/// Weights written out as bf16 for products of many tokens: kept with each matrix as far as allowed, else in scratch every time.
struct Dequantised {
  uint64_t may_keep = 0;
  std::atomic<uint64_t> kept{0};  // bytes
  Buffer scratch;                 // of the largest matrix
};
/// x [T, K] bf16 -> out [T, n] f32 or bf16.
void linear_cuda(Tensor out, Tensor x, const Linear& w, CublasLt& blas, Dequantised& memory, cudaStream_t stream);
/// Rows [begin, end) as bf16, row-major; for norms of DoRA and tests.
void dequantise_cuda(nv_bf16* out, const Linear& w, cudaStream_t stream);

// lora.cu
std::unique_ptr<LoraWeights> make_lora_cuda(const HostTensor& a, const HostTensor& b, float scale, std::span<const float> column_scale);
std::unique_ptr<LoraWeights> make_embedding_lora_cuda(const HostTensor& a, const HostTensor& b, float scale);
void lora_cuda(Tensor out, Tensor x, std::span<const LoraPart> parts, Buffer& scratch, cudaStream_t stream);
std::vector<float> dora_row_norms_cuda(const Linear& linear, int64_t part_begin, const HostTensor& a, const HostTensor& b, float scale);
void embedding_lora_cuda(Tensor x, const int32_t* token_ids, int begin, int end, const LoraWeights& lora, float embed_scale,
                         cudaStream_t stream);

// embedding.cu
std::unique_ptr<Embedding> make_embedding_cuda(const HostMatrix& matrix);
const nv_bf16* embedding_rows(const Embedding& embedding);  // [V, H]
void embed_cuda(Tensor x, const int32_t* token_ids, const Embedding& embedding, float scale, std::span<const EdgeSegment> edges,
                cudaStream_t stream);

// rmsnorm.cu
void rmsnorm_cuda(Tensor out, Tensor x, const float* w, float eps, cudaStream_t stream);
void residual_rmsnorm_cuda(Tensor out, Tensor x, Tensor y, const float* post_w, const float* next_w, float eps, cudaStream_t stream);

// rope.cu
void rope_table_cuda(Tensor table, const StepData& step, float theta, float scaling, cudaStream_t stream);
void qk_norm_rope_append_cuda(Tensor q, const Backend::QkvArgs& args, const StepData& step, cudaStream_t stream);

// attention.cu
std::unique_ptr<KvPool> make_kv_pool_cuda(int n_blocks, int n_layers, int n_kv_heads, int head_dim);
void attention_cuda(Tensor out, Tensor q, const Backend::AttentionArgs& args, const StepData& step, cudaStream_t stream);

// attention_prefill.cu
/// The rows of more than one token; the others' part of out stays as it is.
void attention_prefill_cuda(Tensor out, Tensor q, const Backend::AttentionArgs& args, const StepData& step, cudaStream_t stream);

// geglu.cu
void geglu_cuda(Tensor out, Tensor gate_up, cudaStream_t stream);

// gather_rows.cu
void gather_rows_cuda(Tensor out, Tensor x, std::span<const int32_t> tokens, cudaStream_t stream);

// head.cu
std::unique_ptr<Head> make_head_cuda(const HostMatrix& matrix, HeadFormat format, const Embedding* tied);
/// What sample_cuda needs beside the scores stays in `scratch`, under scores.ticket.
void logits_cuda(Scores& scores, CublasLt& blas, Buffer& lora_scratch, SamplerScratch& scratch, cudaStream_t stream);

// sampler.cu
/// Waits for the stream: the tokens are on the host afterwards. An output that is the best of its raw scores costs nothing else.
SampleResult sample_cuda(Scores& scores, std::span<const BatchOutput> outputs, const SequenceTable& table, std::span<const BatchRow> rows,
                         CublasLt& blas, SamplerScratch& scratch, cudaStream_t stream);

}  // namespace lorikeet::cuda
