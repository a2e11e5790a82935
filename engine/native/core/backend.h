// THE list of what a device must do for Gemma 3. forward.cc is written once over it; cpu/ and cuda/ implement it.
// T = tokens of a step, S = outputs, H = hidden_size, D = head_dim. `act` is the dtype of matrix inputs: bf16, or f32 for
// --compute fp32. Everything else is f32 but what says projected_dtype(). A row's result never depends on the other rows of the batch
// (CPU: bit for bit).
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "adapter_file.h"
#include "batch.h"
#include "checkpoint.h"
#include "sequence_table.h"
#include "step_clock.h"
#include "tensor.h"
#include "training_ops.h"

namespace lorikeet {

/// A frozen weight in the device's own layout. Made by Backend::make_linear.
struct Linear {
  int64_t rows = 0, cols = 0;  // [n_out, n_in]
  size_t bytes = 0;
  virtual ~Linear() = default;
};

/// Rows of the vocabulary as input. Made by Backend::make_embedding.
struct Embedding {
  int64_t rows = 0, cols = 0;  // [V, H]
  size_t bytes = 0;
  virtual ~Embedding() = default;
};

enum class HeadFormat : uint8_t { kF32, kBF16, kInt8, kNF4 };

/// Rows of the vocabulary as output. Int8 is exact where it matters: see Backend::logits.
struct Head {
  int64_t rows = 0, cols = 0;  // [V, H]
  size_t bytes = 0;
  HeadFormat format = HeadFormat::kBF16;
  virtual ~Head() = default;
};

/// Keys and values of the layers of one kind, in blocks of kBlockTokens tokens.
struct KvPool {
  int n_blocks = 0, n_layers = 0;
  size_t bytes = 0;
  virtual ~KvPool() = default;
};

/// One LoRA pair in the device's layout: y += scale * B (A x), then y *= column_scale where DoRA is used.
struct LoraWeights {
  int rank = 0;
  int64_t n_in = 0, n_out = 0;
  size_t bytes = 0;
  virtual ~LoraWeights() = default;
};

/// Tokens [begin, end) use one adapter's pair; a null pair adds nothing.
struct LoraSegment {
  int begin = 0, end = 0;
  const LoraWeights* weights = nullptr;
};

/// A module's adapters within a fused matrix: pairs of `segments` act on outputs [row_begin, row_begin + n_out of the pair).
struct LoraPart {
  int64_t row_begin = 0;
  std::vector<LoraSegment> segments;
};

/// Replacement rows: token_ids[i] reads (or, in a head, scores) rows[i].
struct TokenRowsDevice {
  std::vector<int32_t> token_ids;
  Buffer rows;  // [n, H] act
};

/// What an adapter changes at the two ends of the model, for tokens or outputs [begin, end).
struct EdgeSegment {
  int begin = 0, end = 0;
  const Embedding* embedding = nullptr;       // modules_to_save: read here instead
  const Head* head = nullptr;                 // modules_to_save: score here instead
  const TokenRowsDevice* token_rows = nullptr;
  const LoraWeights* embed_lora = nullptr;    // A [r, V] as rows of A^T, B [H, r]
  const LoraWeights* head_lora = nullptr;     // A [r, H], B [V, r]
};

/// Scores of S outputs over the vocabulary, and how far each may be from the exact head's.
struct Scores {
  Tensor values;         // [S, V] f32
  Tensor hidden;         // [S, H] act: what the head was applied to, for exact re-scoring
  std::vector<const Head*> heads;               // [S] the head that applies to each output
  std::vector<const EdgeSegment*> edges;        // [S] or null
  std::vector<bool> greedy;                     // [S] or empty: of this output only the best row is wanted
  uint64_t ticket = 0;                          // names what logits() left on the device for sample(); 0 = nothing
};

struct SampleResult {
  std::vector<int32_t> token_ids;     // [S] -1: NaN in the logits
  std::vector<float> logprobs;        // [S] NaN where not asked for
  std::vector<int32_t> top_ids;       // flat, n_logprobs of each output
  std::vector<float> top_logprobs;
};

/// An adapter without its saved matrices, converted to the device's layout, in host memory.
struct AdapterImage {
  size_t bytes = 0;
  virtual ~AdapterImage() = default;
};

/// What a device keeps of an adapter as a whole, beside its pairs.
struct AdapterIndex {
  size_t bytes = 0;
  virtual ~AdapterIndex() = default;
};

struct Weights;
struct DeviceAdapter;
class AdapterSlots;
struct KvPools;

/// Steps of one token a row: by a captured graph, by one captured just then, kernel by kernel.
struct GraphCounts {
  uint64_t hit = 0, capture = 0, plain = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;     // "cpu avx512, 2 threads"
  virtual DType act_dtype() const = 0;
  /// Of qkv and gate_up in a step: f32, or bf16 where reading and writing them costs more than the products.
  virtual DType projected_dtype() const { return DType::kF32; }
  /// Zeroed device memory, 64-byte aligned. @throws Error OUT_OF_MEMORY
  virtual Buffer allocate(size_t bytes) = 0;
  virtual void upload(void* device, const void* host, size_t bytes) = 0;
  virtual void download(void* host, const void* device, size_t bytes) = 0;

  /// Rows of all parts one after another (q, k, v in one matrix): parts share n_in and are copied or repacked.
  virtual std::unique_ptr<Linear> make_linear(std::span<const HostMatrix> parts) = 0;
  virtual std::unique_ptr<Embedding> make_embedding(const HostMatrix& matrix) = 0;
  /// tied: the embedding made of this same matrix. A device may score from its rows; it outlives the head.
  virtual std::unique_ptr<Head> make_head(const HostMatrix& matrix, HeadFormat format, const Embedding* tied = nullptr) = 0;
  virtual std::unique_ptr<KvPool> make_kv_pool(int n_blocks, int n_layers, int n_kv_heads, int head_dim) = 0;
  /// a [r, n_in], b [n_out, r] in any float dtype. column_scale [n_out] or empty: magnitude / rownorm of DoRA.
  virtual std::unique_ptr<LoraWeights> make_lora(const HostTensor& a, const HostTensor& b, float scale,
                                                 std::span<const float> column_scale) = 0;
  /// a [r, V] of an embedding: stored by token. b [H, r].
  virtual std::unique_ptr<LoraWeights> make_embedding_lora(const HostTensor& a, const HostTensor& b, float scale) = 0;
  /// Euclidean norm of every row of W + scale * B A, for DoRA; [n_out]. part_begin: first row of the module inside `linear`.
  virtual std::vector<float> dora_row_norms(const Linear& linear, int64_t part_begin, const HostTensor& a, const HostTensor& b,
                                            float scale) = 0;

  /// A device that wants an adapter whole; for others make_lora and its like build it piece by piece.
  virtual bool takes_adapter_images() const { return false; }
  /// Both run on any thread, beside steps.
  virtual std::shared_ptr<const AdapterImage> make_adapter_image(const AdapterFile&, const Weights&) { return nullptr; }
  /// Puts everything that the image holds into `out`, whose saved matrices are there already. @throws Error OUT_OF_MEMORY
  virtual void load_adapter_image(const AdapterImage&, DeviceAdapter& /*out*/) {}

  /// All layers of a step at once, where the device has a faster way than the ops one by one: rows of one token each.
  /// hidden [S, H] act: what forward() returns. @returns false: not this step, nothing was done.
  virtual bool decode(Tensor /*hidden*/, const Weights&, const AdapterSlots&, KvPools&, const Batch&) { return false; }

  /// Before the ops of a step: a device that lies elsewhere takes the batch's ids, positions, rows and block tables over at once. The
  /// batch outlives the step.
  virtual void begin_step(const Batch&) {}

  /// x[t] = scale * E[id[t]], with the adapters' own rows.
  virtual void embed(Tensor x,                              // [T, H] f32
                     std::span<const int32_t> token_ids,    // [T]
                     const Embedding& embedding, float scale, std::span<const EdgeSegment> edges) = 0;

  /// out = x * rsqrt(mean(x^2) + eps) * (1 + w)
  virtual void rmsnorm(Tensor out,       // [T, H] act
                       Tensor x,         // [T, H] f32
                       const float* w,   // [H] device
                       float eps) = 0;

  /// x += rmsnorm(y, post_w); out = rmsnorm(x, next_w). The seam between two sublayers of Gemma 3.
  virtual void residual_rmsnorm(Tensor out,            // [T, H] act
                                Tensor x,              // [T, H] f32, updated in place
                                Tensor y,              // [T, H] f32
                                const float* post_w,   // [H] device
                                const float* next_w,   // [H] device
                                float eps) = 0;

  /// out = x @ W^T, and by each part's segments out = column_scale * (out + scale * B (A x)).
  virtual void linear(Tensor out,        // [T, n_out] f32 or projected_dtype()
                      Tensor x,          // [T, n_in]  act
                      const Linear& w, std::span<const LoraPart> adapters = {}) = 0;

  /// table[t] = cos and sin of position / scaling * theta^(-2i/D), i < D/2: [T, D] f32, D/2 cosines then D/2 sines.
  virtual void rope_table(Tensor table, std::span<const int32_t> positions, float theta, float scaling) = 0;

  /// q, k = rope(rmsnorm(q or k, weight)) by head; k and v go to their blocks.
  struct QkvArgs {
    Tensor qkv;                          // [T, (n_heads + 2 n_kv_heads) * D] f32 or projected_dtype()
    Tensor rope;                         // [T, D] f32
    const float *q_norm, *k_norm;        // [D] device
    float eps;
    int n_heads, n_kv_heads, head_dim;
    KvPool* pool;
    int layer;                           // within the pool
    bool sliding;                        // which table of a row leads into the pool
    std::span<const BatchRow> rows;
  };
  virtual void qk_norm_rope_append(Tensor q,              // [T, n_heads * D] act
                                   const QkvArgs& args) = 0;

  /// out[t] = softmax(scale * q[t] k^T) v over keys (position - window, position]; window 0 = all.
  struct AttentionArgs {
    const KvPool* pool;
    int layer;
    bool sliding;
    int n_heads, n_kv_heads, head_dim;
    float scale;
    int window;
    std::span<const BatchRow> rows;
  };
  virtual void attention(Tensor out,     // [T, n_heads * D] act
                         Tensor q,       // [T, n_heads * D] act
                         const AttentionArgs& args) = 0;

  /// out = gelu_tanh(gate) * up
  virtual void geglu(Tensor out,         // [T, I] act
                     Tensor gate_up) = 0;  // [T, 2 I] f32 or projected_dtype(): gate, then up

  /// out[s] = x[token[s]]
  virtual void gather_rows(Tensor out,   // [S, H] any dtype
                           Tensor x,     // [T, H] the same dtype
                           std::span<const int32_t> tokens) = 0;

  /// scores.values = hidden @ head^T by each output's head, adapters included. An int8 head gives approximations here, and
  /// sample() re-scores in bf16 whatever could still win within the proven bound.
  virtual void logits(Scores& scores) = 0;

  /// One token (or the score of the target) for every output. @see sequence_table.h for the order of the steps.
  virtual SampleResult sample(Scores& scores, std::span<const BatchOutput> outputs, const SequenceTable& table,
                              std::span<const BatchRow> rows) = 0;

  /// What training needs beside these; null where this device cannot train.
  virtual TrainingOps* training() { return nullptr; }

  /// Bytes allocated now.
  virtual size_t allocated_bytes() const = 0;
  /// Bytes that may still be allocated, as far as the device can tell.
  virtual uint64_t available_bytes() const { return UINT64_MAX; }
  /// Bytes of a device with memory of its own; 0 on the CPU.
  virtual uint64_t total_bytes() const { return 0; }

  /// Weights written out as bf16 may be kept up to this many bytes. Called once, before the first step.
  virtual void keep_dequantised(uint64_t /*bytes*/) {}
  virtual uint64_t dequantised_bytes() const { return 0; }

  /// Told of every step: forward() says when the layers begin, the model the rest.
  virtual StepClock& clock() { return host_clock_; }
  virtual GraphCounts graph_counts() const { return {}; }
  /// Ranges for a profiler. @throws Error UNSUPPORTED where there are none
  virtual void show_ranges() { throw Error("UNSUPPORTED", "--nvtx needs --device cuda"); }

 private:
  HostClock host_clock_;
};

struct CpuOptions {
  std::string isa = "auto";  // "scalar", "avx2", "avx512", "amx"
  int n_threads = 0;         // 0 = physical cores
  bool fp32 = false;
};
/// @throws Error UNSUPPORTED when the processor lacks the instruction set.
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);
std::vector<std::string> cpu_isas();  // usable here, best first
int physical_cores();

/// cuda/ or, where there was no CUDA compiler, no_cuda/.
bool cuda_built();
std::vector<std::string> cuda_devices();  // "NVIDIA H100 80GB HBM3, compute capability 9.0"; none without a driver
/// @throws Error CUDA_NOT_BUILT, CUDA_ERROR
std::unique_ptr<Backend> make_cuda_backend(int device);

}  // namespace lorikeet
