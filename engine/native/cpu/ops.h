// The operations of the CPU backend, one file each; backend.cc maps backend.h onto them.
#pragma once
#include "../core/backend.h"
#include "simd.h"

namespace lorikeet::CPU_NS {

/// Writes sixteen values as the activation dtype.
inline void store_act(void* row, DType dtype, int64_t col, f32x16 v) {
  if (dtype == DType::kBF16) store_bf16(static_cast<bf16*>(row) + col, v);
  else store(static_cast<float*>(row) + col, v);
}

inline f32x16 load_act(const void* row, DType dtype, int64_t col) {
  return dtype == DType::kBF16 ? load_bf16(static_cast<const bf16*>(row) + col) : load(static_cast<const float*>(row) + col);
}

// embedding.cc
std::unique_ptr<Embedding> make_embedding_cpu(const HostMatrix& matrix);
void embed_cpu(Tensor x, std::span<const int32_t> token_ids, const Embedding& embedding, float scale, std::span<const EdgeSegment> edges,
               DType act);

// rmsnorm.cc
void rmsnorm_cpu(Tensor out, Tensor x, const float* w, float eps);
void residual_rmsnorm_cpu(Tensor out, Tensor x, Tensor y, const float* post_w, const float* next_w, float eps);
float rsqrt_mean_square(const float* x, int64_t n, float eps);

// rope.cc
void rope_table_cpu(Tensor table, std::span<const int32_t> positions, float theta, float scaling);
/// out [D] = rope(rmsnorm(x, w)): the first half turns with the second. rope [D]: cosines, then sines.
void norm_rope(float* out, const float* x, const float* w, const float* rope, int64_t D, float eps);
void qk_norm_rope_append_cpu(Tensor q, const Backend::QkvArgs& args);

// attention.cc
std::unique_ptr<KvPool> make_kv_pool_cpu(int n_blocks, int n_layers, int n_kv_heads, int head_dim, DType dtype);
void attention_cpu(Tensor out, Tensor q, const Backend::AttentionArgs& args);

// geglu.cc
void geglu_cpu(Tensor out, Tensor gate_up);

// lora.cc
std::unique_ptr<LoraWeights> make_lora_cpu(const HostTensor& a, const HostTensor& b, float scale, std::span<const float> column_scale, DType act);
std::unique_ptr<LoraWeights> make_embedding_lora_cpu(const HostTensor& a, const HostTensor& b, float scale);
void embedding_lora_add(float* x, int32_t token, const LoraWeights& lora, float embed_scale);
std::vector<float> dora_row_norms_cpu(const Linear& linear, int64_t part_begin, const HostTensor& a, const HostTensor& b, float scale);

// head.cc
std::unique_ptr<Head> make_head_cpu(const HostMatrix& matrix, HeadFormat format, bool fp32);
void logits_cpu(Scores& scores);
/// Exact score of one vocabulary row for output s, as the uncompressed head gives it.
float exact_score(const Scores& scores, int64_t s, int32_t id);
bool scores_exact(const Scores& scores, int64_t s);
/// How far the scores of one output may lie from exact ones, and the way to better ones where they were taken coarsely.
class ScoreBounds {
 public:
  ScoreBounds(const Scores& scores, int64_t s, std::vector<float>& bounds);  // bounds[id], [V], filled here
  ~ScoreBounds();
  bool coarse() const { return refiner_ != nullptr; }
  /// Scores rows [row, row + 16) again with all bits; rows that are -inf stay so, and those of an adapter.
  void refine(int64_t row, float* values);

 private:
  struct Refiner;
  std::unique_ptr<Refiner> refiner_;
  std::vector<float>& bounds_;
};

// sampler.cc
SampleResult sample_cpu(Scores& scores, std::span<const BatchOutput> outputs, const SequenceTable& table, std::span<const BatchRow> rows);

}  // namespace lorikeet::CPU_NS
