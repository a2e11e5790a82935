// GGUF files of architecture gemma3 as a weight source.
#include <map>

#include "error.h"
#include "float_types.h"
#include "gguf.h"
#include "json.h"
#include "weight_source.h"

namespace lorikeet {
namespace {

[[noreturn]] void invalid(const std::string& message) { throw Error("MODEL_INVALID", message); }

// Canonical names of the parts of a layer and what GGUF calls them.
constexpr std::pair<const char*, const char*> kLayerNames[] = {
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "post_attention_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
};

std::string gguf_name(const std::string& name) {
  if (name == "embed_tokens") return "token_embd.weight";
  if (name == "norm") return "output_norm.weight";
  if (name == "lm_head") return "output.weight";
  const size_t dot = name.find('.', 7);    // "layers.12.self_attn.q_proj"
  for (const auto& [canonical, gguf] : kLayerNames) {
    if (name.compare(dot + 1, std::string::npos, canonical) == 0) return "blk." + name.substr(7, dot - 7) + "." + gguf + ".weight";
  }
  throw Error("INTERNAL", "no GGUF name for " + name);
}

class ConfigReader {
 public:
  explicit ConfigReader(const Gguf& file) : file_(file) {}

  Gemma3Config read() {
    check_architecture();
    Gemma3Config c;
    c.n_layers = required("gemma3.block_count");
    c.hidden_size = required("gemma3.embedding_length");
    c.intermediate_size = required("gemma3.feed_forward_length");
    c.n_heads = required("gemma3.attention.head_count");
    c.n_kv_heads = integer("gemma3.attention.head_count_kv", c.n_heads);
    c.head_dim = integer("gemma3.attention.key_length", 256);
    if (integer("gemma3.attention.value_length", c.head_dim) != c.head_dim)
      throw Error("UNSUPPORTED", "keys and values of different lengths");
    c.sliding_window = required("gemma3.attention.sliding_window");
    c.max_position = required("gemma3.context_length");
    c.rms_norm_eps = number("gemma3.attention.layer_norm_rms_epsilon", 1e-6f);
    c.rope_theta_global = number("gemma3.rope.freq_base", 1e6f);
    c.rope_theta_local = number("gemma3.rope.freq_base_swa", 1e4f);
    c.rope_scaling_factor = rope_scaling();
    const GgufTensor* embedding = file_.tensor("token_embd.weight");
    if (embedding == nullptr || embedding->shape.size() != 2 || embedding->shape[0] > INT32_MAX)
      invalid("no token_embd.weight of two dimensions");
    c.vocab_size = static_cast<int>(embedding->shape[0]);
    c.tied = file_.tensor("output.weight") == nullptr;
    c.bos_id = integer("tokenizer.ggml.bos_token_id", 2);
    c.pad_id = integer("tokenizer.ggml.padding_token_id", 0);
    if (c.n_layers < 1 || c.n_layers > 1024) invalid("gemma3.block_count is " + std::to_string(c.n_layers) + ", expected 1 to 1024");
    set_sliding_pattern(c, integer("gemma3.attention.sliding_window_pattern", 6));
    set_eos_ids(c, {integer("tokenizer.ggml.eos_token_id", 1)});
    // The file does not hold it; 27B alone scales by hidden_size / heads.
    c.query_pre_attn_scalar =
        known_name(c) == "gemma-3-27b" ? static_cast<float>(c.hidden_size / c.n_heads) : static_cast<float>(c.head_dim);
    check_config(c);
    return c;
  }

 private:
  void check_architecture() const {
    const std::string architecture = file_.string("general.architecture").value_or("");
    if (architecture != "gemma3") {
      throw Error("UNSUPPORTED", "a GGUF of architecture " + json_quote(architecture.substr(0, 100)) + ", only gemma3 is run");
    }
    for (const char* key : {"gemma3.attn_logit_softcapping", "gemma3.final_logit_softcapping"}) {
      if (file_.number(key).value_or(0) != 0) throw Error("UNSUPPORTED", std::string(key) + " is set: Gemma 3 has no soft caps");
    }
  }

  int integer(const char* key, int fallback) const {
    const int64_t n = file_.integer(key).value_or(fallback);
    if (n < 0 || n > INT32_MAX) invalid(std::string(key) + " is " + std::to_string(n) + ", which no model has");
    return static_cast<int>(n);
  }

  int required(const char* key) const {
    if (file_.find(key) == nullptr) invalid(std::string("the file lacks ") + key);
    return integer(key, 0);
  }

  float number(const char* key, float fallback) const { return static_cast<float>(file_.number(key).value_or(fallback)); }

  float rope_scaling() const {
    const std::string type = file_.string("gemma3.rope.scaling.type").value_or("");
    if (!type.empty() && type != "none" && type != "linear")
      throw Error("UNSUPPORTED", "rope scaling " + json_quote(type) + ", only linear is known");
    return number("gemma3.rope.scaling.factor", number("gemma3.rope.scale_linear", 1));
  }

  const Gguf& file_;
};

class GgufSource final : public WeightSource {
 public:
  explicit GgufSource(const std::string& path) : file_(Gguf::open(path)) {
    files_.push_back(file_.file());
    config_ = ConfigReader(file_).read();
    config_.name = path_name(path);
    if (config_.name.ends_with(".gguf")) config_.name.resize(config_.name.size() - 5);
    check_tensors();
  }

  void read(const std::string& name, int64_t begin, int64_t end, float* out) const override {
    const Entry& entry = tensors_.at(name);
    const GgmlTypeInfo& type = *entry.tensor->type;
    ggml_dequantize(type.type, entry.tensor->data + begin / type.block * type.bytes, end - begin, out);
    if (!entry.is_norm) return;
    for (int64_t i = 0; i < end - begin; ++i) out[i] -= 1;   // the file holds 1 + w
  }

  std::optional<HostTensor> in_place(const std::string& name) const override {
    const Entry& entry = tensors_.at(name);
    const GgmlType type = entry.tensor->type->type;
    if (entry.is_norm || entry.tensor->type->block != 1) return std::nullopt;
    const FileDtype dtype = type == GgmlType::kF32 ? FileDtype::kF32 : type == GgmlType::kF16 ? FileDtype::kF16 : FileDtype::kBF16;
    return HostTensor{dtype, entry.tensor->shape, entry.tensor->data, file_.file()};
  }

 private:
  struct Entry {
    const GgufTensor* tensor;
    bool is_norm;
  };

  void check_tensors() {
    std::map<std::string, bool> known;
    for (const ExpectedTensor& expected : expected_tensors(config_)) {
      const std::string name = gguf_name(expected.name);
      const GgufTensor* tensor = file_.tensor(name);
      if (tensor == nullptr) invalid("the file lacks " + name + ", which its key-values call for");
      if (tensor->shape != expected.shape) invalid(name + " has another shape than the key-values call for");
      tensors_.emplace(expected.name, Entry{tensor, expected.shape.size() == 1});
      known.emplace(name, true);
    }
    for (const GgufTensor& tensor : file_.tensors()) {
      if (!known.contains(tensor.name)) invalid("tensor " + json_quote(tensor.name) + " belongs to no part of this model");
    }
  }

  Gguf file_;
  std::map<std::string, Entry> tensors_;   // by canonical name
};

}  // namespace

std::unique_ptr<WeightSource> open_gguf_source(const std::string& path) try {
  return std::make_unique<GgufSource>(path);
} catch (const Error& error) {
  const std::string message = error.what();
  if (message.find(path) != std::string::npos) throw;
  throw Error(error.code(), path + ": " + message);
}

}  // namespace lorikeet
