// backend.h on the CPU, one instruction set. The files beside this one hold the operations.
#include <omp.h>

#include "allocate.h"
#include "linear.h"
#include "ops.h"
#include "training.h"

#define LORIKEET_STRING_(x) #x
#define LORIKEET_STRING(x) LORIKEET_STRING_(x)

namespace lorikeet::CPU_NS {

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuOptions& options)
      : act_(options.fp32 ? DType::kF32 : DType::kBF16), n_threads_(options.n_threads), amx_(options.isa == "amx"),
        training_(make_training_ops(act_, n_threads_)) {
    omp_set_dynamic(0);
  }

  std::string name() const override {
    const std::string isa = amx_ ? "amx" : std::string(LORIKEET_STRING(CPU_NS)).substr(4);
    return isa + ", " + std::to_string(n_threads_) + " threads";
  }
  DType act_dtype() const override { return act_; }
  Buffer allocate(size_t bytes) override { return lorikeet::allocate(bytes); }
  void upload(void* device, const void* host, size_t bytes) override { std::memcpy(device, host, bytes); }
  void download(void* host, const void* device, size_t bytes) override { std::memcpy(host, device, bytes); }
  size_t allocated_bytes() const override { return lorikeet::allocated_bytes(); }
  uint64_t available_bytes() const override { return lorikeet::available_bytes(); }

  std::unique_ptr<Linear> make_linear(std::span<const HostMatrix> parts) override { return make_linear_cpu(parts, act_ == DType::kF32); }
  std::unique_ptr<Embedding> make_embedding(const HostMatrix& matrix) override { return make_embedding_cpu(matrix); }
  std::unique_ptr<Head> make_head(const HostMatrix& matrix, HeadFormat format, const Embedding*) override { return make_head_cpu(matrix, format, act_ == DType::kF32); }
  std::unique_ptr<KvPool> make_kv_pool(int n_blocks, int n_layers, int n_kv_heads, int head_dim) override {
    return make_kv_pool_cpu(n_blocks, n_layers, n_kv_heads, head_dim, act_);
  }
  std::unique_ptr<LoraWeights> make_lora(const HostTensor& a, const HostTensor& b, float scale, std::span<const float> column_scale) override {
    return make_lora_cpu(a, b, scale, column_scale, act_);
  }
  std::unique_ptr<LoraWeights> make_embedding_lora(const HostTensor& a, const HostTensor& b, float scale) override {
    return make_embedding_lora_cpu(a, b, scale);
  }
  std::vector<float> dora_row_norms(const Linear& linear, int64_t part_begin, const HostTensor& a, const HostTensor& b, float scale) override {
    return dora_row_norms_cpu(linear, part_begin, a, b, scale);
  }

  void embed(Tensor x, std::span<const int32_t> ids, const Embedding& embedding, float scale, std::span<const EdgeSegment> edges) override {
    omp_set_num_threads(n_threads_);  // per calling thread: the device thread and whoever runs goldens
    embed_cpu(x, ids, embedding, scale, edges, act_);
  }
  void rmsnorm(Tensor out, Tensor x, const float* w, float eps) override { rmsnorm_cpu(out, x, w, eps); }
  void residual_rmsnorm(Tensor out, Tensor x, Tensor y, const float* post_w, const float* next_w, float eps) override {
    residual_rmsnorm_cpu(out, x, y, post_w, next_w, eps);
  }
  void linear(Tensor out, Tensor x, const Linear& w, std::span<const LoraPart> adapters) override {
#if defined(LORIKEET_HAS_AMX)
    if (amx_ && x.dtype == DType::kBF16) return linear_amx(out, x, static_cast<const LinearCpu&>(w), adapters);
#endif
    linear_cpu(out, x, static_cast<const LinearCpu&>(w), adapters);
  }
  void rope_table(Tensor table, std::span<const int32_t> positions, float theta, float scaling) override {
    rope_table_cpu(table, positions, theta, scaling);
  }
  void qk_norm_rope_append(Tensor q, const QkvArgs& args) override { qk_norm_rope_append_cpu(q, args); }
  void attention(Tensor out, Tensor q, const AttentionArgs& args) override { attention_cpu(out, q, args); }
  void geglu(Tensor out, Tensor gate_up) override { geglu_cpu(out, gate_up); }
  void gather_rows(Tensor out, Tensor x, std::span<const int32_t> tokens) override {
#pragma omp parallel for if (tokens.size() > 64)
    for (size_t s = 0; s < tokens.size(); s++) std::memcpy(out.row(int64_t(s)), x.row(tokens[s]), size_t(x.cols) * size_of(x.dtype));
  }
  void logits(Scores& scores) override { logits_cpu(scores); }
  SampleResult sample(Scores& scores, std::span<const BatchOutput> outputs, const SequenceTable& table, std::span<const BatchRow> rows) override {
    return sample_cpu(scores, outputs, table, rows);
  }
  TrainingOps* training() override { return training_.get(); }

 private:
  DType act_;
  int n_threads_;
  bool amx_;
  std::unique_ptr<TrainingOps> training_;
};

std::unique_ptr<Backend> make_backend(const CpuOptions& options) { return std::make_unique<CpuBackend>(options); }

}  // namespace lorikeet::CPU_NS
