// A Gemma 3 of one layer and 16 tokens in every file format, made in memory so that a test can break one thing in it.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../core/float_types.h"
#include "../core/nf4.h"
#include "../core/safetensors.h"
#include "check.h"

namespace lorikeet::testing {

constexpr int64_t kHidden = 64, kVocab = 16;

// Text of a JSON object whose fields a test may set or drop; values are JSON texts.
class Fields {
 public:
  Fields(std::initializer_list<std::pair<const std::string, std::string>> fields) : fields_(fields) {}
  Fields& set(const std::string& key, const std::string& value) {
    fields_[key] = value;
    return *this;
  }
  Fields& drop(const std::string& key) {
    fields_.erase(key);
    return *this;
  }
  std::string text() const {
    std::string out = "{";
    for (const auto& [key, value] : fields_) out += (out.size() > 1 ? ", \"" : "\"") + key + "\": " + value;
    return out + "}";
  }

 private:
  std::map<std::string, std::string> fields_;
};

inline Fields tiny_config() {
  return {{"model_type", "\"gemma3_text\""}, {"vocab_size", "16"}, {"hidden_size", "64"}, {"intermediate_size", "64"},
          {"num_hidden_layers", "1"}, {"num_attention_heads", "1"}, {"num_key_value_heads", "1"}, {"head_dim", "64"},
          {"sliding_window", "8"}, {"max_position_embeddings", "128"}, {"query_pre_attn_scalar", "64"}, {"eos_token_id", "1"}};
}

struct TinyTensor {
  std::string name;
  FileDtype dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

inline std::string noise(int64_t n_bytes, uint32_t seed) {
  std::string bytes(static_cast<size_t>(n_bytes), '\0');
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {   // bf16 values within (-0.1, 0.1)
    seed = seed * 1664525u + 1013904223u;
    const uint16_t half = f32_to_bf16(static_cast<float>(seed >> 8) * (0.2f / (1 << 24)) - 0.1f);
    std::memcpy(bytes.data() + i, &half, 2);
  }
  return bytes;
}

// Every tensor of the tiny model in bf16, by its published name.
inline std::vector<TinyTensor> tiny_tensors(const std::string& prefix = "model.") {
  std::vector<TinyTensor> all;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    int64_t n = 2;
    for (const int64_t d : shape) n *= d;
    all.push_back({prefix + name + ".weight", FileDtype::kBF16, std::move(shape), noise(n, static_cast<uint32_t>(all.size()))});
  };
  add("embed_tokens", {kVocab, kHidden});
  add("norm", {kHidden});
  for (const char* name :
       {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
    add(std::string("layers.0.") + name, {kHidden, kHidden});
  }
  for (const char* name : {"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
                           "self_attn.q_norm", "self_attn.k_norm"}) {
    add(std::string("layers.0.") + name, {kHidden});
  }
  return all;
}

inline TinyTensor& find_tensor(std::vector<TinyTensor>& tensors, const std::string& name) {
  for (TinyTensor& t : tensors) {
    if (t.name == name) return t;
  }
  throw Error("INTERNAL", "no tensor " + name);
}

// q_proj as bitsandbytes stores it, in place of its bf16 form.
inline void quantise_q_proj(std::vector<TinyTensor>& tensors) {
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  TinyTensor& weight = find_tensor(tensors, name);
  const int64_t n = kHidden * kHidden;
  std::vector<float> values(static_cast<size_t>(n));
  to_float(FileDtype::kBF16, weight.bytes.data(), n, values.data());
  std::string packed(static_cast<size_t>(n / 2), '\0'), absmax(static_cast<size_t>(n / 64 * 4), '\0');
  nf4_quantize(values.data(), n, reinterpret_cast<uint8_t*>(packed.data()), reinterpret_cast<float*>(absmax.data()));
  weight = {name, FileDtype::kU8, {n / 2, 1}, packed};
  tensors.push_back({name + ".absmax", FileDtype::kF32, {n / 64}, absmax});
  tensors.push_back({name + ".quant_map", FileDtype::kF32, {16}, std::string(reinterpret_cast<const char*>(kNF4Code), 64)});
  const std::string state = R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [64, 64]})";
  tensors.push_back({name + ".quant_state.bitsandbytes__nf4", FileDtype::kU8, {static_cast<int64_t>(state.size())}, state});
}

inline void write_tensors(const std::string& path, const std::vector<TinyTensor>& tensors) {
  std::vector<NamedTensor> named;
  for (const TinyTensor& t : tensors) named.push_back({t.name, t.dtype, t.shape, t.bytes.data()});
  write_safetensors(path, named);
}

inline void write_tiny(const Scratch& dir, const std::string& config, const std::vector<TinyTensor>& tensors) {
  write_text(dir / "config.json", config);
  write_tensors(dir / "model.safetensors", tensors);
}

// A GGUF file in the making. Numbers are little-endian, as in the file.
class GgufBuilder {
 public:
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;            // fastest first
    uint32_t type = 0;                     // F32
    uint64_t offset = 0;
    std::string bytes;
  };
  struct Value {
    uint32_t type;
    std::string bytes;
  };

  template <typename T>
  static std::string raw(T value) { return std::string(reinterpret_cast<const char*>(&value), sizeof value); }
  static std::string string(std::string_view text) { return raw<uint64_t>(text.size()) + std::string(text); }

  void set_int(const std::string& key, uint32_t value) { set(key, {4, raw(value)}); }
  void set_string(const std::string& key, std::string_view text) { set(key, {8, string(text)}); }
  void set(const std::string& key, Value value) { values[key] = std::move(value); }
  void drop(const std::string& key) { values.erase(key); }
  template <typename T>
  static Value array(uint32_t item_type, const std::vector<T>& items) {
    std::string bytes = raw(item_type) + raw<uint64_t>(items.size());
    for (const T& item : items) {
      if constexpr (std::is_same_v<T, std::string>) bytes += string(item);
      else bytes += raw(item);
    }
    return {9, bytes};
  }
  void add(const std::string& name, std::vector<uint64_t> dims) {
    uint64_t n = 1;
    for (const uint64_t d : dims) n *= d;
    std::string bytes;
    for (uint64_t i = 0; i < n; ++i) bytes += raw(0.01f * static_cast<float>(i % 13));
    tensors.push_back({name, std::move(dims), 0, 0, bytes});
  }
  Tensor& tensor(const std::string& name) {
    for (Tensor& t : tensors) {
      if (t.name == name) return t;
    }
    throw Error("INTERNAL", "no tensor " + name);
  }
  // Gives every tensor its place; a test may move one afterwards.
  void place() {
    uint64_t at = 0;
    for (Tensor& t : tensors) {
      t.offset = at;
      at += (t.bytes.size() + 31) / 32 * 32;
    }
  }
  std::string text() const {
    std::string out = raw<uint32_t>(magic) + raw<uint32_t>(version) + raw<uint64_t>(n_tensors ? *n_tensors : tensors.size()) +
                      raw<uint64_t>(n_values ? *n_values : values.size());
    for (const auto& [key, value] : values) out += string(key) + raw(value.type) + value.bytes;
    out += extra_values;
    for (const Tensor& t : tensors) {
      out += string(t.name) + raw<uint32_t>(static_cast<uint32_t>(t.dims.size()));
      for (const uint64_t d : t.dims) out += raw(d);
      out += raw(t.type) + raw(t.offset);
    }
    out.resize((out.size() + 31) / 32 * 32);
    const size_t start = out.size();
    for (const Tensor& t : tensors) {
      if (start + t.offset + t.bytes.size() > out.size() && t.offset < (1u << 20)) out.resize(start + t.offset + t.bytes.size());
      if (t.offset < (1u << 20)) out.replace(start + t.offset, t.bytes.size(), t.bytes);
    }
    return out;
  }

  uint32_t magic = 0x46554747, version = 3;
  std::optional<uint64_t> n_tensors, n_values;   // lies
  std::map<std::string, Value> values;
  std::string extra_values;                      // raw, counted by the test
  std::vector<Tensor> tensors;
};

inline GgufBuilder tiny_gguf() {
  GgufBuilder g;
  g.set_string("general.architecture", "gemma3");
  for (const auto& [key, value] : std::map<std::string, uint32_t>{{"block_count", 1}, {"embedding_length", 64}, {"feed_forward_length", 64},
        {"attention.head_count", 1}, {"attention.head_count_kv", 1}, {"attention.key_length", 64}, {"attention.value_length", 64},
        {"attention.sliding_window", 8}, {"context_length", 128}}) {
    g.set_int("gemma3." + key, value);
  }
  g.set_string("tokenizer.ggml.model", "llama");
  g.set("tokenizer.ggml.add_space_prefix", {7, std::string(1, '\0')});
  const std::vector<std::string> tokens = {"<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<unused0>", "  ", "<b>",
                                           "<0x41>", "<0xFF>", "a", "b", "\xE2\x96\x81", "ab", "\xE2\x96\x81" "ab", "ba"};
  g.set("tokenizer.ggml.tokens", GgufBuilder::array(8, tokens));
  g.set("tokenizer.ggml.token_type", GgufBuilder::array<int32_t>(5, {3, 3, 3, 3, 3, 3, 4, 4, 6, 6, 1, 1, 1, 1, 1, 1}));
  g.set("tokenizer.ggml.scores", GgufBuilder::array<float>(6, {0, 0, 0, 0, 0, 0, -1000, -1000, 0, 0, -10, -11, -12, -1, -2, -3}));
  g.add("token_embd.weight", {64, 16});
  g.add("output_norm.weight", {64});
  for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})
    g.add(std::string("blk.0.") + name + ".weight", {64, 64});
  for (const char* name : {"attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm"})
    g.add(std::string("blk.0.") + name + ".weight", {64});
  g.place();
  return g;
}

}  // namespace lorikeet::testing
