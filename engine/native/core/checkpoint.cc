#include "checkpoint.h"

#include <cmath>

#include "error.h"
#include "float_types.h"
#include "json.h"
#include "nf4.h"
#include "parallel.h"
#include "sha256.h"
#include "weight_source.h"

namespace lorikeet {
namespace {

constexpr int64_t kPiece = 1 << 16;        // elements converted at a time; a multiple of every block size

// Memory for a matrix, and the matrix that points into it.
struct OwnedMatrix {
  HostMatrix matrix;
  std::shared_ptr<uint8_t> data;
};

OwnedMatrix allocate_matrix(WeightFormat format, int64_t rows, int64_t cols) {
  auto data = allocate_bytes(static_cast<uint64_t>(rows * cols) * (format == WeightFormat::kF32 ? 4 : 2));
  return {{format, rows, cols, data.get(), nullptr, data}, data};
}

class SourceCheckpoint final : public Checkpoint {
 public:
  SourceCheckpoint(std::unique_ptr<WeightSource> source, std::string name, std::string hash, WeightFormat weights)
      : source_(std::move(source)), weights_(weights) {
    config_ = source_->config();
    config_.name = std::move(name);
    hash_ = std::move(hash);
  }

  HostMatrix linear(int layer, Module m) override {
    const std::string name = "layers." + std::to_string(layer) + "." + module_path(m);
    const int64_t rows = module_rows(config_, m), cols = module_cols(config_, m);
    if (const auto nf4 = source_->nf4(name)) return weights_ == WeightFormat::kNF4 ? *nf4 : dequantised(*nf4, weights_);
    if (weights_ == WeightFormat::kNF4 && !source_->prequantised()) return quantised(name, rows, cols);
    return plain(name, rows, cols, weights_ == WeightFormat::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16);
  }

  HostMatrix embedding() override {
    const auto format = weights_ == WeightFormat::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16;
    return plain("embed_tokens", config_.vocab_size, config_.hidden_size, format);
  }

  HostMatrix head() override {
    if (config_.tied) return embedding();
    const auto format = weights_ == WeightFormat::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16;
    if (const auto nf4 = source_->nf4("lm_head")) return dequantised(*nf4, format);
    return plain("lm_head", config_.vocab_size, config_.hidden_size, format);
  }

  std::vector<float> norm(const std::string& name) override {
    const bool per_head = name.ends_with(".q_norm") || name.ends_with(".k_norm");
    std::vector<float> out(static_cast<size_t>(per_head ? config_.head_dim : config_.hidden_size));
    source_->read(name, 0, static_cast<int64_t>(out.size()), out.data());
    return out;
  }

 private:
  HostMatrix plain(const std::string& name, int64_t rows, int64_t cols, WeightFormat format) const {
    const auto stored = source_->in_place(name);
    const FileDtype wanted = format == WeightFormat::kF32 ? FileDtype::kF32 : FileDtype::kBF16;
    if (stored && stored->dtype == wanted) return {format, rows, cols, stored->data, nullptr, stored->owner};
    auto [matrix, data] = allocate_matrix(format, rows, cols);
    parallel_pieces(rows * cols, kPiece, [&](int64_t begin, int64_t end) {
      if (format == WeightFormat::kF32) return source_->read(name, begin, end, reinterpret_cast<float*>(data.get()) + begin);
      std::vector<float> values(static_cast<size_t>(end - begin));
      source_->read(name, begin, end, values.data());
      auto* out = reinterpret_cast<uint16_t*>(data.get());
      for (int64_t i = begin; i < end; ++i) out[i] = f32_to_bf16(values[static_cast<size_t>(i - begin)]);
    });
    return matrix;
  }

  HostMatrix quantised(const std::string& name, int64_t rows, int64_t cols) const {
    const QuantisedMatrix q = quantise_matrix(*source_, name, rows * cols);
    const int64_t n_blocks = rows * cols / kNF4Block;
    auto absmax = std::make_shared<std::vector<float>>(static_cast<size_t>(n_blocks));
    double_dequantize(q.q8.data(), q.nested_absmax.data(), nested_quant_map().data(), q.offset, n_blocks, absmax->data());
    auto owner = std::make_shared<std::pair<std::shared_ptr<uint8_t>, std::shared_ptr<std::vector<float>>>>(q.packed, absmax);
    return {WeightFormat::kNF4, rows, cols, q.packed.get(), absmax->data(), owner};
  }

  // NF4 values are rounded to bf16, as bitsandbytes hands them to the product, also where fp32 is asked for.
  static HostMatrix dequantised(const HostMatrix& nf4, WeightFormat format) {
    auto [matrix, data] = allocate_matrix(format, nf4.rows, nf4.cols);
    parallel_pieces(nf4.rows * nf4.cols, kPiece, [&](int64_t begin, int64_t end) {
      std::vector<uint16_t> values(static_cast<size_t>(end - begin));
      nf4_dequantize_bf16(static_cast<const uint8_t*>(nf4.data) + begin / 2, nf4.absmax + begin / kNF4Block, end - begin, values.data());
      if (format == WeightFormat::kBF16) {
        std::copy(values.begin(), values.end(), reinterpret_cast<uint16_t*>(data.get()) + begin);
      } else {
        to_float(FileDtype::kBF16, values.data(), end - begin, reinterpret_cast<float*>(data.get()) + begin);
      }
    });
    return matrix;
  }

  std::unique_ptr<WeightSource> source_;
  WeightFormat weights_;
};

}  // namespace

const char* module_name(Module m) {
  static constexpr const char* kNames[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  return kNames[static_cast<int>(m)];
}

const char* module_path(Module m) {
  static constexpr const char* kPaths[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
  return kPaths[static_cast<int>(m)];
}

int64_t module_rows(const Gemma3Config& config, Module m) {
  switch (m) {
    case Module::q_proj: return config.q_dim();
    case Module::k_proj:
    case Module::v_proj: return config.kv_dim();
    case Module::gate_proj:
    case Module::up_proj: return config.intermediate_size;
    default: return config.hidden_size;
  }
}

int64_t module_cols(const Gemma3Config& config, Module m) {
  switch (m) {
    case Module::o_proj: return config.q_dim();
    case Module::down_proj: return config.intermediate_size;
    default: return config.hidden_size;
  }
}

std::vector<ExpectedTensor> expected_tensors(const Gemma3Config& config) {
  const int64_t hidden = config.hidden_size, vocab = config.vocab_size, head_dim = config.head_dim;
  std::vector<ExpectedTensor> all = {{"embed_tokens", {vocab, hidden}}, {"norm", {hidden}}};
  if (!config.tied) all.push_back({"lm_head", {vocab, hidden}});
  for (int i = 0; i < config.n_layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    for (int m = 0; m < kModules; ++m) {
      const auto module = static_cast<Module>(m);
      all.push_back({layer + module_path(module), {module_rows(config, module), module_cols(config, module)}});
    }
    for (const char* norm : {"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"}) {
      all.push_back({layer + norm, {hidden}});
    }
    for (const char* norm : {"self_attn.q_norm", "self_attn.k_norm"}) all.push_back({layer + norm, {head_dim}});
  }
  return all;
}

QuantisedMatrix quantise_matrix(const WeightSource& source, const std::string& name, int64_t n) {
  QuantisedMatrix q{allocate_bytes(static_cast<uint64_t>(n / 2)), {}, {}, 0};
  std::vector<float> absmax(static_cast<size_t>(n / kNF4Block));
  parallel_pieces(n, kPiece, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(end - begin));
    source.read(name, begin, end, values.data());
    for (float& v : values) v = bf16_round(v);
    nf4_quantize(values.data(), end - begin, q.packed.get() + begin / 2, absmax.data() + begin / kNF4Block);
  });
  for (const float a : absmax) {
    if (!std::isfinite(a)) throw Error("MODEL_INVALID", name + " holds an infinity or NaN");
  }
  DoubleQuant nested = double_quantize(absmax.data(), n / kNF4Block);
  q.q8 = std::move(nested.q8);
  q.nested_absmax = std::move(nested.nested_absmax);
  q.offset = nested.offset;
  return q;
}

std::unique_ptr<Checkpoint> source_checkpoint(std::unique_ptr<WeightSource> source, std::string name, std::string hash,
                                              WeightFormat weights) {
  return std::make_unique<SourceCheckpoint>(std::move(source), std::move(name), std::move(hash), weights);
}

std::unique_ptr<Checkpoint> open_checkpoint(const std::string& path, const LoadOptions& options) {
  if (path.starts_with("random:")) return open_random_checkpoint(path, options);
  std::unique_ptr<WeightSource> source;
  if (is_directory(path)) {
    source = open_hf_source(path);
  } else if (is_file(path)) {
    source = open_gguf_source(path);
  } else {
    throw Error("MODEL_NOT_FOUND", json_quote(path) + " is neither a model directory nor a .gguf file");
  }
  std::string hash = source_hash(*source, options);
  std::string name = source->config().name;
  if (options.weights == WeightFormat::kNF4 && !source->prequantised() && !options.cache_dir.empty()) {
    try {
      source = open_hf_source(ensure_nf4_cache(*source, hash, options));
    } catch (const Error& error) {         // a full or read-only disk: quantise in memory, matrix by matrix
      if (std::string_view(error.code()) != "FILE_INVALID") throw;
    }
  }
  return source_checkpoint(std::move(source), std::move(name), std::move(hash), options.weights);
}

}  // namespace lorikeet
