// What a model file format must offer; source_checkpoint() makes a Checkpoint of it. Internal to the loaders.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint.h"
#include "host_tensor.h"
#include "mapped_file.h"

namespace lorikeet {

// Tensors by canonical name: "embed_tokens", "lm_head", "norm", "layers.3.self_attn.q_proj", "layers.3.input_layernorm".
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  const Gemma3Config& config() const { return config_; }
  // The bytes that name the content, in a fixed order.
  const std::vector<std::shared_ptr<MappedFile>>& files() const { return files_; }
  // True: a bitsandbytes checkpoint. Its 16-bit modules were left so on purpose and stay 16 bit.
  virtual bool prequantised() const { return false; }

  // Elements [begin, end) as fp32; norms zero-centred. Safe from several threads.
  virtual void read(const std::string& name, int64_t begin, int64_t end, float* out) const = 0;
  // The tensor in place where the file holds it as plain F32, BF16 or F16 (norms excepted); nothing else otherwise.
  virtual std::optional<HostTensor> in_place(const std::string& name) const = 0;
  // The matrix as NF4 where the file holds it so.
  virtual std::optional<HostMatrix> nf4(const std::string& name) const { (void)name; return std::nullopt; }

 protected:
  Gemma3Config config_;
  std::vector<std::shared_ptr<MappedFile>> files_;
};

struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;              // {n} for norms, {rows, cols} for matrices
};
// Every tensor of a model of this shape: lm_head only where it is not tied.
std::vector<ExpectedTensor> expected_tensors(const Gemma3Config& config);

std::unique_ptr<WeightSource> open_hf_source(const std::string& directory);
std::unique_ptr<WeightSource> open_gguf_source(const std::string& path);
std::unique_ptr<Checkpoint> open_random_checkpoint(const std::string& name, const LoadOptions& options);
std::unique_ptr<Checkpoint> source_checkpoint(std::unique_ptr<WeightSource> source, std::string name, std::string hash,
                                              WeightFormat weights);

// Content hash of the source, remembered in cache_dir by path, size and time so that it is computed once.
std::string source_hash(const WeightSource& source, const LoadOptions& options);

// [rows, cols] as bf16-rounded NF4: double quantised, then the absmax that a reader of the file gets. [n/2], [n/64]
struct QuantisedMatrix {
  std::shared_ptr<uint8_t> packed;
  std::vector<uint8_t> q8;
  std::vector<float> nested_absmax;
  float offset = 0;
};
QuantisedMatrix quantise_matrix(const WeightSource& source, const std::string& name, int64_t n);

// The directory of the NF4 form of `source` below cache_dir: made, or made again when it is torn or rotten.
std::string ensure_nf4_cache(const WeightSource& source, const std::string& hash, const LoadOptions& options);

}  // namespace lorikeet
