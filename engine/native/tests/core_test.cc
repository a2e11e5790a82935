// Numbers, configs and containers against reference data. Usage: core_test [GOLDENS_DIR]
#include <algorithm>

#include "../core/checkpoint.h"
#include "../core/ggml_types.h"
#include "../core/json.h"
#include "../core/nf4.h"
#include "../core/sha256.h"
#include "tiny_model.h"

namespace lorikeet::testing {
namespace {

HostTensor get(const Safetensors& file, const std::string& name) {
  const TensorInfo* info = file.find(name);
  if (info == nullptr) throw Error("INTERNAL", "reference data lack " + name);
  return file.tensor(*info);
}

template <typename T>
bool equal(const HostTensor& expected, const T* got, int64_t n) {
  return expected.bytes() == n * static_cast<int64_t>(sizeof(T)) &&
         std::memcmp(expected.data, got, static_cast<size_t>(expected.bytes())) == 0;
}

// bitsandbytes' bf16 kernel flushes subnormal results to a zero of either sign.
bool equal_bf16(const HostTensor& expected, const std::vector<uint16_t>& got) {
  const auto* e = static_cast<const uint16_t*>(expected.data);
  const auto flushed = [](uint16_t h) { return (h & 0x7f80) == 0 ? uint16_t{0} : h; };
  return expected.numel() == static_cast<int64_t>(got.size()) &&
         std::equal(got.begin(), got.end(), e, [&](uint16_t g, uint16_t x) { return flushed(g) == flushed(x); });
}

// ---- NF4

void check_dequantised(const Safetensors& file, const std::string& name, const uint8_t* packed, const std::vector<float>& absmax,
                       const char* suffix) {
  const auto n = static_cast<int64_t>(absmax.size()) * kNF4Block;
  std::vector<float> full(static_cast<size_t>(n));
  std::vector<uint16_t> half(full.size());
  nf4_dequantize(packed, absmax.data(), n, full.data());
  nf4_dequantize_bf16(packed, absmax.data(), n, half.data());
  check(equal(get(file, name + suffix + "_f32"), full.data(), n), name + suffix + ": fp32 values equal bitsandbytes'");
  check(equal_bf16(get(file, name + suffix + "_bf16"), half), name + suffix + ": bf16 values equal bitsandbytes'");
}

void test_nf4_vectors(const std::string& goldens) {
  const Safetensors file = Safetensors::map(goldens + "/nf4/vectors.safetensors");
  for (const TensorInfo& info : file.tensors()) {
    if (!info.name.ends_with(".weight")) continue;
    const std::string name = info.name.substr(0, info.name.size() - 7);
    const std::vector<float> weight = to_float(file.tensor(info));
    const auto n = static_cast<int64_t>(weight.size()), n_blocks = n / kNF4Block;
    std::vector<uint8_t> packed(static_cast<size_t>(n / 2));
    std::vector<float> absmax(static_cast<size_t>(n_blocks));
    nf4_quantize(weight.data(), n, packed.data(), absmax.data());
    check(equal(get(file, name + ".packed"), packed.data(), n / 2), name + ": codes equal bitsandbytes'");
    check(equal(get(file, name + ".absmax"), absmax.data(), n_blocks), name + ": scales equal bitsandbytes'");
    check_dequantised(file, name, packed.data(), absmax, ".dequant");
    const DoubleQuant nested = double_quantize(absmax.data(), n_blocks);
    check(equal(get(file, name + ".nested_offset"), &nested.offset, 1), name + ": nested offset");
    check(equal(get(file, name + ".nested_quant_map"), nested.map.data(), 256), name + ": nested map");
    check(equal(get(file, name + ".nested_absmax"), nested.nested_absmax.data(), static_cast<int64_t>(nested.nested_absmax.size())),
          name + ": nested scales");
    check(equal(get(file, name + ".absmax_q8"), nested.q8.data(), n_blocks), name + ": nested codes");
    std::vector<float> rebuilt(absmax.size());
    double_dequantize(nested.q8.data(), nested.nested_absmax.data(), nested.map.data(), nested.offset, n_blocks, rebuilt.data());
    check(equal(get(file, name + ".absmax_reconstructed"), rebuilt.data(), n_blocks), name + ": scales after double quantisation");
    check_dequantised(file, name, packed.data(), rebuilt, ".dequant_double");
  }
}

void test_nf4_edges(const std::string& goldens) {
  const Safetensors file = Safetensors::map(goldens + "/nf4/edge.safetensors");
  int n_cases = 0;
  for (const TensorInfo& info : file.tensors()) {
    if (!info.name.ends_with(".codes")) continue;
    const std::string name = info.name.substr(0, info.name.size() - 6);
    const std::vector<float> weight = to_float(get(file, name + ".weight"));
    uint8_t packed[32], codes[64];
    float absmax;
    nf4_quantize(weight.data(), 64, packed, &absmax);
    for (int i = 0; i < 64; ++i) codes[i] = i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15;
    check(equal(get(file, info.name), codes, 64), "block " + name + ": codes equal bitsandbytes'");
    ++n_cases;
  }
  check(n_cases == 16, "all sixteen edge blocks are there");
}

// ---- GGUF values

void test_quant_rows(const std::string& goldens) {
  const Safetensors file = Safetensors::map(goldens + "/gemma-3-270m/quant_rows.safetensors");
  for (const TensorInfo& info : file.tensors()) {
    if (!info.name.ends_with(".raw")) continue;
    const std::string name = info.name.substr(0, info.name.size() - 4);
    const GgmlTypeInfo* type = ggml_type_info(std::string_view(name).substr(0, name.find('.')));
    const HostTensor raw = file.tensor(info);
    std::vector<float> out(static_cast<size_t>(raw.numel() / type->bytes * type->block));
    ggml_dequantize(type->type, static_cast<const uint8_t*>(raw.data), static_cast<int64_t>(out.size()), out.data());
    check(equal(get(file, name + ".dequantised"), out.data(), static_cast<int64_t>(out.size())), name + ": dequantised rows are exact");
  }
}

// ---- configs

void test_configs(const std::string& goldens) {
  const Gemma3Config old_spelling = parse_config_json(read_text(goldens + "/gemma3-tiny/config.json"));
  const Gemma3Config new_spelling = parse_config_json(read_text(goldens + "/gemma3-tiny-bnb4/config.json"));
  const auto facts = [](const Gemma3Config& c) {
    return std::tuple(c.n_layers, c.hidden_size, c.intermediate_size, c.n_heads, c.n_kv_heads, c.head_dim, c.vocab_size, c.sliding_window,
                      c.max_position, c.rms_norm_eps, c.query_pre_attn_scalar, c.rope_theta_global, c.rope_theta_local,
                      c.rope_scaling_factor, c.is_global, c.tied, c.eos_ids, c.bos_id);
  };
  check(facts(old_spelling) == facts(new_spelling), "the published and the transformers 5 spelling parse alike");
  check(old_spelling.is_global == std::vector<uint8_t>{0, 0, 0, 0, 0, 1, 0}, "layer 5 of the tiny model is global");
  // As published: text_config leaves out what equals the defaults.
  const Gemma3Config nested =
      parse_config_json(R"({"model_type": "gemma3", "eos_token_id": [1, 106], "vision_config": {}, "text_config": {"hidden_size": 2560,
      "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}})");
  check(facts(nested) == facts(config_by_name("gemma-3-4b")), "a nested 4b config equals the known 4b shape");
  check(nested.multimodal && nested.name == "gemma-3-4b", "a 4b config knows its name and its vision tower");
  Gemma3Config base = config_by_name("gemma-3-1b");
  apply_generation_config(base, R"({"eos_token_id": [1, 106, 107], "bos_token_id": 2})");
  check(base.eos_ids == std::vector<int>{1, 106, 107}, "generation_config names the end tokens");
  apply_generation_config(base, R"({"eos_token_id": 1})");
  check(base.eos_ids == std::vector<int>{1, 106}, "the end of a turn always ends an answer");
}

// ---- containers

void test_writer(const std::string& goldens) {
  const Scratch scratch;
  for (const char* adapter : {"plain-r16", "dora-r4", "modules-to-save", "trainable-tokens"}) {
    const std::string path = goldens + "/adapters/" + adapter + "/adapter_model.safetensors";
    const Safetensors file = Safetensors::map(path);
    std::vector<NamedTensor> tensors;
    for (const TensorInfo& info : file.tensors())
      tensors.insert(tensors.begin(), {info.name, info.dtype, info.shape, file.tensor(info).data});
    write_safetensors(scratch / "x", tensors);
    check(read_text(scratch / "x") == read_text(path), std::string(adapter) + ": written byte for byte as PEFT wrote it");
  }
  write_safetensors(scratch / "empty", {}, {});
  check(Safetensors::map(scratch / "empty").tensors().empty(), "a file without tensors is written and read");
  // The published guide's adapter for 1B: reference figure of 1,260,191,096 bytes.
  const Gemma3Config config = config_by_name("gemma-3-1b");
  std::vector<NamedTensor> guide;
  for (int layer = 0; layer < config.n_layers; ++layer) {
    for (int m = 0; m < kModules; ++m) {
      const auto module = static_cast<Module>(m);
      const std::string name = "base_model.model.model.layers." + std::to_string(layer) + "." + module_path(module) + ".lora_";
      guide.push_back({name + "A.weight", FileDtype::kF32, {16, module_cols(config, module)}});
      guide.push_back({name + "B.weight", FileDtype::kF32, {module_rows(config, module), 16}});
    }
  }
  for (const char* name : {"base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"})
    guide.push_back({name, FileDtype::kBF16, {262144, 1152}});
  uint64_t bytes = plan_safetensors(guide, {{"format", "pt"}}).size();
  for (const NamedTensor& t : guide) bytes += static_cast<uint64_t>(t.shape[0] * t.shape[1] * dtype_bytes(t.dtype));
  check(bytes == 1260191096, "the guide's adapter of 1B has the published size");
}

void test_json() {
  const Json value = Json::parse(R"({"a": [1, -2.5e3, "\u00e9\ud83d\ude42\n"], "b": {"c": null, "d": true}, "e": 9223372036854775807})");
  check(value.find("a")->items()[1].as_double("") == -2500 && value.find("a")->items()[2].as_string("") == "\xC3\xA9\xF0\x9F\x99\x82\n",
        "numbers and escapes are read");
  check(value.find("e")->as_int("") == INT64_MAX && value.find_set("b")->find_set("c") == nullptr,
        "64-bit integers are exact, null counts as unset");
  check(Json::parse(json_quote("a\"\\\x01\xC3\xA9")).as_string("") == "a\"\\\x01\xC3\xA9", "a quoted string reads back");
  for (const char* text : {"", "01", "+1", ".5", "1.", "1e", "NaN", "Infinity", "tru", "[1,]", "{\"a\":1,}", "{a:1}", "'a'", "\"\\x\"",
                           "[1 2]", "1 2", "\"\t\"", "\xff", "\"\\udc00\""}) {
    check_error(std::string("JSON refuses ") + text, "FILE_INVALID", "invalid JSON", [&] { Json::parse(text); });
  }
}

void test_hashes() {
  check(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "SHA-256 of abc");
  check(sha256_hex(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        "SHA-256 of a million letters");
  check(content_hash("ab") != content_hash("ba") && checksum64(std::string(33, 'a')) != checksum64(std::string(34, 'a')),
        "hashes tell contents apart");
}

}  // namespace
}  // namespace lorikeet::testing

int main(int n_args, char** args) {
  using namespace lorikeet::testing;
  test_json();
  test_hashes();
  const std::string goldens = goldens_directory(n_args, args);
  if (goldens.empty()) return finish();
  test_nf4_vectors(goldens);
  test_nf4_edges(goldens);
  test_quant_rows(goldens);
  test_configs(goldens);
  test_writer(goldens);
  return finish();
}
