// backend.h on one CUDA device. All work is queued on one stream; begin_step uploads what the ops of a step read.
#include "adapter_loader.h"
#include "decode.h"
#include "event_clock.h"
#include "fault.h"
#include "kv_pool.h"
#include "ops.h"
#include "query_tiles.h"

namespace lorikeet {
namespace cuda {
namespace {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int device) : device_(device) {
    check(cudaSetDevice(device), "cudaSetDevice");
    check(cudaGetDeviceProperties(&properties_, device), "cudaGetDeviceProperties");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    blas_ = std::make_unique<CublasLt>();
    clock_ = std::make_unique<EventClock>(stream_);
    decode_ = std::make_unique<Decode>(properties_.major >= 9, stream_);
    adapters_ = std::make_unique<AdapterLoader>(device, stream_);
    decode_->clock = clock_.get();
  }
  cudaStream_t stream() const { return stream_; }
  ~CudaBackend() override {
    cudaStreamSynchronize(stream_);
    decode_.reset();
    adapters_.reset();
    clock_.reset();
    cudaStreamDestroy(stream_);
    if (staging_) cudaFreeHost(staging_);
  }

  std::string name() const override { return std::string("cuda:") + std::to_string(device_) + ", " + properties_.name; }
  DType act_dtype() const override { return DType::kBF16; }
  DType projected_dtype() const override { return DType::kBF16; }
  Buffer allocate(size_t bytes) override {
    check(cudaSetDevice(device_), "cudaSetDevice");  // per thread: loading and stepping differ
    return allocate_device(bytes);
  }
  void upload(void* to, const void* from, size_t bytes) override { upload_device(to, from, bytes, "upload"); }
  void download(void* to, const void* from, size_t bytes) override {
    check(cudaStreamSynchronize(stream_), "step");
    check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "download");
  }
  size_t allocated_bytes() const override { return allocated_device_bytes(); }
  uint64_t available_bytes() const override {
    size_t free = 0, total = 0;
    check(cudaSetDevice(device_), "cudaSetDevice");
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
  }
  uint64_t total_bytes() const override { return properties_.totalGlobalMem; }

  void keep_dequantised(uint64_t bytes) override { dequantised_.may_keep = bytes; }
  uint64_t dequantised_bytes() const override { return dequantised_.kept; }

  StepClock& clock() override { return *clock_; }
  GraphCounts graph_counts() const override { return {decode_->hits, decode_->captures, decode_->plain}; }
  void show_ranges() override { clock_->show_ranges(); }

  std::unique_ptr<Linear> make_linear(std::span<const HostMatrix> parts) override { return make_linear_cuda(parts); }
  std::unique_ptr<Embedding> make_embedding(const HostMatrix& matrix) override { return make_embedding_cuda(matrix); }
  std::unique_ptr<Head> make_head(const HostMatrix& matrix, HeadFormat format, const Embedding* tied) override {
    return make_head_cuda(matrix, format, tied);
  }
  std::unique_ptr<KvPool> make_kv_pool(int n_blocks, int n_layers, int n_kv_heads, int head_dim) override {
    return make_kv_pool_cuda(n_blocks, n_layers, n_kv_heads, head_dim);
  }
  std::unique_ptr<LoraWeights> make_lora(const HostTensor& a, const HostTensor& b, float scale,
                                         std::span<const float> column_scale) override {
    return make_lora_cuda(a, b, scale, column_scale);
  }
  std::unique_ptr<LoraWeights> make_embedding_lora(const HostTensor& a, const HostTensor& b, float scale) override {
    return make_embedding_lora_cuda(a, b, scale);
  }
  std::vector<float> dora_row_norms(const Linear& linear, int64_t part_begin, const HostTensor& a, const HostTensor& b,
                                    float scale) override {
    return dora_row_norms_cuda(linear, part_begin, a, b, scale);
  }

  bool takes_adapter_images() const override { return true; }
  std::shared_ptr<const AdapterImage> make_adapter_image(const AdapterFile& file, const Weights& weights) override {
    return adapters_->make_image(file, [&](int layer, Module m) {
      return column_scale(*file.layers[size_t(layer)][int(m)], module_place(weights, layer, m), *this);
    });
  }
  void load_adapter_image(const AdapterImage& image, DeviceAdapter& out) override { adapters_->load(image, out); }

  bool decode(Tensor hidden, const Weights& weights, const AdapterSlots& slots, KvPools& pools, const Batch& batch) override {
    check(cudaSetDevice(device_), "cudaSetDevice");
    inject_fault(stream_);
    return decode_->run(hidden, weights, slots, pools, batch);
  }
  void begin_step(const Batch& batch) override;
  void embed(Tensor x, std::span<const int32_t> ids, const Embedding& embedding, float scale, std::span<const EdgeSegment> edges) override {
    embed_cuda(x, ids_on_device(ids), embedding, scale, edges, stream_);
  }
  void rmsnorm(Tensor out, Tensor x, const float* w, float eps) override { rmsnorm_cuda(out, x, w, eps, stream_); }
  void residual_rmsnorm(Tensor out, Tensor x, Tensor y, const float* post_w, const float* next_w, float eps) override {
    residual_rmsnorm_cuda(out, x, y, post_w, next_w, eps, stream_);
  }
  void linear(Tensor out, Tensor x, const Linear& w, std::span<const LoraPart> adapters) override {
    linear_cuda(out, x, w, *blas_, dequantised_, stream_);
    if (!adapters.empty()) lora_cuda(out, x, adapters, lora_scratch_, stream_);
  }
  void rope_table(Tensor table, std::span<const int32_t>, float theta, float scaling) override {
    rope_table_cuda(table, step_, theta, scaling, stream_);
  }
  void qk_norm_rope_append(Tensor q, const QkvArgs& args) override { qk_norm_rope_append_cuda(q, args, step_, stream_); }
  void attention(Tensor out, Tensor q, const AttentionArgs& args) override { attention_cuda(out, q, args, step_, stream_); }
  void geglu(Tensor out, Tensor gate_up) override { geglu_cuda(out, gate_up, stream_); }
  void gather_rows(Tensor out, Tensor x, std::span<const int32_t> tokens) override { gather_rows_cuda(out, x, tokens, stream_); }
  void logits(Scores& scores) override { logits_cuda(scores, *blas_, lora_scratch_, sampler_, stream_); }
  SampleResult sample(Scores& scores, std::span<const BatchOutput> outputs, const SequenceTable& table,
                      std::span<const BatchRow> rows) override {
    return sample_cuda(scores, outputs, table, rows, *blas_, sampler_, stream_);
  }

 private:
  const int32_t* ids_on_device(std::span<const int32_t> ids);

  int device_;
  cudaDeviceProp properties_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<CublasLt> blas_;
  std::unique_ptr<EventClock> clock_;
  std::unique_ptr<Decode> decode_;
  std::unique_ptr<AdapterLoader> adapters_;
  Dequantised dequantised_;
  Buffer lora_scratch_, step_memory_, other_ids_;
  void* staging_ = nullptr;  // pinned, as large as step_memory_
  SamplerScratch sampler_;
  StepData step_{};
};

/// Appends arrays to a piece of host memory, each at a 16-byte boundary, and tells where they will lie on the device.
class StepWriter {
 public:
  StepWriter(void* host, void* device) : host_(static_cast<char*>(host)), device_(static_cast<char*>(device)) {}
  template <class T>
  T* reserve(size_t n, const T*& on_device) {
    T* at = host_ ? reinterpret_cast<T*>(host_ + used_) : nullptr;
    on_device = reinterpret_cast<const T*>(device_ + used_);
    used_ += (n * sizeof(T) + 15) / 16 * 16;
    return at;
  }
  size_t used() const { return used_; }

 private:
  char *host_, *device_;
  size_t used_ = 0;
};

size_t write_step(const Batch& batch, void* host, void* device, StepData& step) {
  StepWriter writer(host, device);
  size_t n_global = 0, n_sliding = 0;
  for (const BatchRow& row : batch.rows) n_global += size_t(row.n_global), n_sliding += size_t(row.n_sliding);
  const size_t T = batch.token_ids.size(), R = batch.rows.size();
  int32_t *ids = writer.reserve(T, step.token_ids), *positions = writer.reserve(T, step.positions),
          *row_of = writer.reserve(T, step.row_of_token);
  DeviceRow* rows = writer.reserve(R, step.rows);
  int32_t *global = writer.reserve(n_global, step.global_table), *sliding = writer.reserve(n_sliding, step.sliding_table);
  QueryTile* tiles[kQueryTileLists];
  for (int i = 0; i < kQueryTileLists; i++) {
    step.n_query_tiles[i] = count_query_tiles(batch.rows, query_tile_size(i));
    tiles[i] = writer.reserve(size_t(step.n_query_tiles[i]), step.query_tiles[i]);
  }
  step.n_tokens = int(T);
  step.n_rows = int(R);
  if (!host) return writer.used();
  std::copy(batch.token_ids.begin(), batch.token_ids.end(), ids);
  std::copy(batch.positions.begin(), batch.positions.end(), positions);
  for (int i = 0; i < kQueryTileLists; i++) write_query_tiles(batch.rows, query_tile_size(i), tiles[i]);
  int g = 0, s = 0;
  for (size_t r = 0; r < R; r++) {
    const BatchRow& row = batch.rows[r];
    std::fill(row_of + row.begin, row_of + row.end, int32_t(r));
    rows[r] = {row.begin, row.end, row.position, g, s, row.sliding_first};
    std::copy(row.global_blocks, row.global_blocks + row.n_global, global + g);
    std::copy(row.sliding_blocks, row.sliding_blocks + row.n_sliding, sliding + s);
    g += row.n_global;
    s += row.n_sliding;
  }
  return writer.used();
}

void CudaBackend::begin_step(const Batch& batch) {
  check(cudaSetDevice(device_), "cudaSetDevice");
  check(cudaStreamSynchronize(stream_), "step");  // the last step has read its data
  const size_t need = write_step(batch, nullptr, nullptr, step_);
  if (step_memory_.bytes() < need) {
    if (staging_) cudaFreeHost(staging_);
    staging_ = nullptr;
    step_memory_ = allocate_device(need * 2);
    check(cudaMallocHost(&staging_, step_memory_.bytes()), "pinned memory of a step");
  }
  write_step(batch, staging_, step_memory_.data(), step_);
  check(cudaMemcpyAsync(step_memory_.data(), staging_, need, cudaMemcpyHostToDevice, stream_), "upload of a step");
}

/// A step's ids came with it; any others, as of an adapter's matrix that is compared to the base's, are uploaded here.
const int32_t* CudaBackend::ids_on_device(std::span<const int32_t> ids) {
  const auto* of_step = static_cast<const int32_t*>(staging_);  // write_step puts them first
  if (of_step && ids.size() == size_t(step_.n_tokens) && std::equal(ids.begin(), ids.end(), of_step)) return step_.token_ids;
  check(cudaStreamSynchronize(stream_), "embed");
  if (other_ids_.bytes() < ids.size_bytes()) other_ids_ = allocate(ids.size_bytes());
  upload_device(other_ids_.data(), ids.data(), ids.size_bytes(), "upload of ids");
  return static_cast<const int32_t*>(other_ids_.data());
}

}  // namespace

cudaStream_t stream_of(const Backend& backend) { return static_cast<const CudaBackend&>(backend).stream(); }

}  // namespace cuda

std::unique_ptr<Backend> make_cuda_backend(int device) {
  const std::vector<std::string> devices = cuda_devices();
  if (device < 0 || device >= int(devices.size()))
    throw Error("CUDA_ERROR", "device cuda:" + std::to_string(device) + ": " + std::to_string(devices.size()) + " usable GPUs here");
  return std::make_unique<cuda::CudaBackend>(device);
}

bool cuda_built() { return true; }

std::vector<std::string> cuda_devices() {
  int n = 0;
  std::vector<std::string> names;
  if (cudaGetDeviceCount(&n) != cudaSuccess) {
    cudaGetLastError();
    return names;
  }
  for (int i = 0; i < n; i++) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) break;
    names.push_back(std::string(p.name) + ", compute capability " + std::to_string(p.major) + "." + std::to_string(p.minor));
  }
  return names;
}

}  // namespace lorikeet
