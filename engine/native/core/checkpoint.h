// The weights of a model, whatever file they come from: one matrix at a time, as the engine asked for them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "config.h"

namespace lorikeet {

enum class WeightFormat : uint8_t { kF32, kBF16, kNF4 };

struct HostMatrix {                        // one weight, row-major [rows, cols]
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* data = nullptr;              // f32 or bf16 [rows, cols]; nf4: packed u8 [rows*cols/2], even element in the high nibble
  const float* absmax = nullptr;           // nf4: [rows*cols/64] fp32, double quantisation undone; block b = elements [64b, 64b+64)
  std::shared_ptr<const void> owner;       // keeps data and absmax alive: a mapping or a buffer
};

enum class Module : uint8_t { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj };
constexpr int kModules = 7;

const char* module_name(Module m);         // "q_proj"
const char* module_path(Module m);         // "self_attn.q_proj", "mlp.down_proj"
int64_t module_rows(const Gemma3Config& config, Module m);   // n_out
int64_t module_cols(const Gemma3Config& config, Module m);   // n_in

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  const Gemma3Config& config() const { return config_; }
  // Hex SHA-256 that names the content of the source files: equal for equal weights, wherever they lie.
  const std::string& hash() const { return hash_; }

  // Of the format asked for; a bitsandbytes checkpoint may mix nf4 and 16 bit (bf16, whatever was asked).
  virtual HostMatrix linear(int layer, Module m) = 0;
  virtual HostMatrix embedding() = 0;      // [vocab_size, hidden_size] bf16; f32 when f32 was asked for
  virtual HostMatrix head() = 0;           // the embedding itself when tied
  // Zero-centred w of (1 + w): "layers.3.input_layernorm", "layers.3.self_attn.q_norm", "norm".
  virtual std::vector<float> norm(const std::string& name) = 0;

 protected:
  Gemma3Config config_;
  std::string hash_;
};

struct LoadOptions {
  WeightFormat weights = WeightFormat::kNF4;
  std::string cache_dir;                   // where NF4 forms and hashes are kept; "" = nowhere
  // phase is "hashing", "reading" or "quantising"; done and total are bytes. Called from one thread at a time.
  std::function<void(const char* phase, uint64_t done, uint64_t total)> progress;
};

// A Hugging Face directory, a .gguf file, or "random:gemma-3-1b[:seed]". Everything about the files is checked before it returns.
// Throws MODEL_NOT_FOUND, MODEL_INVALID, FILE_INVALID, UNSUPPORTED.
std::unique_ptr<Checkpoint> open_checkpoint(const std::string& path, const LoadOptions& options);

}  // namespace lorikeet
