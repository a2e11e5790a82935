// Weights, numbers and files against reference data. Usage: core_test [GOLDENS_DIR]. The real 270M is taken from build/models,
// where `npm test` installs it, or from LORIKEET_TEST_GGUF.
#include <algorithm>
#include <cmath>
#include <map>

#include "../core/adapter_file.h"
#include "../core/checkpoint.h"
#include "../core/ggml_types.h"
#include "../core/gguf_tokenizer.h"
#include "../core/json.h"
#include "../core/mapped_file.h"
#include "../core/nf4.h"
#include "../core/pattern.h"
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
  return expected.bytes() == n * static_cast<int64_t>(sizeof(T)) && std::memcmp(expected.data, got, static_cast<size_t>(expected.bytes())) == 0;
}

// bitsandbytes' bf16 kernel flushes subnormal results to a zero of either sign.
bool equal_bf16(const HostTensor& expected, const std::vector<uint16_t>& got) {
  const auto* e = static_cast<const uint16_t*>(expected.data);
  const auto flushed = [](uint16_t h) { return (h & 0x7f80) == 0 ? uint16_t{0} : h; };
  return expected.numel() == static_cast<int64_t>(got.size()) && std::equal(got.begin(), got.end(), e, [&](uint16_t g, uint16_t x) { return flushed(g) == flushed(x); });
}

// ---- NF4

void check_dequantised(const Safetensors& file, const std::string& name, const uint8_t* packed, const std::vector<float>& absmax, const char* suffix) {
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
    check(equal(get(file, name + ".nested_absmax"), nested.nested_absmax.data(), static_cast<int64_t>(nested.nested_absmax.size())), name + ": nested scales");
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
    return std::tuple(c.n_layers, c.hidden_size, c.intermediate_size, c.n_heads, c.n_kv_heads, c.head_dim, c.vocab_size, c.sliding_window, c.max_position,
                      c.rms_norm_eps, c.query_pre_attn_scalar, c.rope_theta_global, c.rope_theta_local, c.rope_scaling_factor, c.is_global, c.tied, c.eos_ids, c.bos_id);
  };
  check(facts(old_spelling) == facts(new_spelling), "the published and the transformers 5 spelling parse alike");
  check(old_spelling.is_global == std::vector<uint8_t>{0, 0, 0, 0, 0, 1, 0}, "layer 5 of the tiny model is global");
  // As published: text_config leaves out what equals the defaults.
  const Gemma3Config nested = parse_config_json(R"({"model_type": "gemma3", "eos_token_id": [1, 106], "vision_config": {}, "text_config": {"hidden_size": 2560,
      "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}})");
  check(facts(nested) == facts(config_by_name("gemma-3-4b")), "a nested 4b config equals the known 4b shape");
  check(nested.multimodal && nested.name == "gemma-3-4b", "a 4b config knows its name and its vision tower");
  Gemma3Config base = config_by_name("gemma-3-1b");
  apply_generation_config(base, R"({"eos_token_id": [1, 106, 107], "bos_token_id": 2})");
  check(base.eos_ids == std::vector<int>{1, 106, 107}, "generation_config names the end tokens");
  apply_generation_config(base, R"({"eos_token_id": 1})");
  check(base.eos_ids == std::vector<int>{1, 106}, "the end of a turn always ends an answer");
}

// ---- checkpoints

bool same_matrix(const HostMatrix& a, const HostMatrix& b) {
  if (a.format != b.format || a.rows != b.rows || a.cols != b.cols) return false;
  const int64_t n = a.rows * a.cols, bytes = a.format == WeightFormat::kF32 ? 4 * n : a.format == WeightFormat::kBF16 ? 2 * n : n / 2;
  const bool scales = a.format != WeightFormat::kNF4 || std::memcmp(a.absmax, b.absmax, static_cast<size_t>(n / kNF4Block * 4)) == 0;
  return scales && std::memcmp(a.data, b.data, static_cast<size_t>(bytes)) == 0;
}

bool same_weights(Checkpoint& a, Checkpoint& b) {
  bool same = same_matrix(a.embedding(), b.embedding()) && same_matrix(a.head(), b.head()) && a.norm("norm") == b.norm("norm");
  for (int layer = 0; layer < a.config().n_layers; ++layer) {
    for (int m = 0; m < kModules; ++m) same = same && same_matrix(a.linear(layer, static_cast<Module>(m)), b.linear(layer, static_cast<Module>(m)));
    const std::string norm = "layers." + std::to_string(layer) + ".self_attn.k_norm";
    same = same && a.norm(norm) == b.norm(norm);
  }
  return same;
}

std::unique_ptr<Checkpoint> open(const std::string& path, WeightFormat weights, const std::string& cache = "", bool* quantised = nullptr) {
  LoadOptions options{weights, cache, {}};
  options.progress = [quantised](const char* phase, uint64_t, uint64_t) {
    if (quantised != nullptr && std::string_view(phase) == "quantising") *quantised = true;
  };
  return open_checkpoint(path, options);
}

void test_checkpoints(const std::string& goldens) {
  const auto bnb = open(goldens + "/gemma3-tiny-bnb4", WeightFormat::kNF4);
  const auto plain = open(goldens + "/gemma3-tiny", WeightFormat::kNF4);
  check(same_weights(*bnb, *plain), "bf16 weights quantise to what bitsandbytes stored");
  const auto full = open(goldens + "/gemma3-tiny", WeightFormat::kF32), half = open(goldens + "/gemma3-tiny", WeightFormat::kBF16);
  const HostMatrix f = full->linear(3, Module::up_proj), h = half->linear(3, Module::up_proj);
  std::vector<float> widened(static_cast<size_t>(h.rows * h.cols));
  to_float(FileDtype::kBF16, h.data, h.rows * h.cols, widened.data());
  check(std::memcmp(widened.data(), f.data, widened.size() * 4) == 0, "f32 weights are the bf16 ones widened");
  check(full->hash() == half->hash() && full->hash() != bnb->hash() && full->hash().size() == 64, "a hash names the content");
}

void test_cache(const std::string& goldens) {
  const Scratch scratch;
  const std::string cache = scratch / "cache", model = goldens + "/gemma3-tiny";
  const auto direct = open(model, WeightFormat::kNF4);
  const auto rebuilt = [&](const std::string& behaviour, bool expected) {
    bool quantised = false;
    const auto cached = open(model, WeightFormat::kNF4, cache, &quantised);
    check(quantised == expected && same_weights(*direct, *cached) && cached->hash() == direct->hash() && cached->config().name == "gemma3-tiny", behaviour);
  };
  rebuilt("the first start makes the NF4 form", true);
  rebuilt("the second start maps it", false);
  const std::string entry = cache + "/" + direct->hash(), weights = entry + "/model.safetensors", manifest = entry + "/manifest.json";
  const std::string bytes = read_text(weights);
  write_text(weights, bytes.substr(0, bytes.size() - 1));
  rebuilt("a form cut short is made again", true);
  std::string flipped = bytes;
  flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 1);
  write_text(weights, flipped);
  rebuilt("a form with one flipped bit is made again", true);
  write_text(manifest, "{}");
  rebuilt("a form with another manifest is made again", true);
  std::filesystem::remove(entry + "/config.json");
  rebuilt("a form without config is made again", true);
  std::filesystem::create_directory(cache + "/x.tmp-2147483646");
  std::filesystem::remove(manifest);
  rebuilt("a form that was never finished is made again", true);
  check(!std::filesystem::exists(cache + "/x.tmp-2147483646"), "what a dead process left is swept");
  rebuilt("the form that was made again is mapped", false);
  write_text(scratch / "file", "");
  const auto uncached = open(model, WeightFormat::kNF4, scratch / "file/cache");
  check(same_weights(*direct, *uncached), "without a place for the cache the weights are quantised in memory");
}

void test_random() {
  const auto first = open("random:gemma-3-270m:7", WeightFormat::kNF4), second = open("random:gemma-3-270m:7", WeightFormat::kNF4);
  const auto other = open("random:gemma-3-270m:8", WeightFormat::kNF4);
  const HostMatrix a = first->linear(2, Module::down_proj), b = second->linear(2, Module::down_proj), c = other->linear(2, Module::down_proj);
  check(same_matrix(a, b) && !same_matrix(a, c) && first->hash() != other->hash(), "a seed names one set of random weights");
  std::vector<float> values(static_cast<size_t>(a.rows * a.cols));
  nf4_dequantize(static_cast<const uint8_t*>(a.data), a.absmax, a.rows * a.cols, values.data());
  double squares = 0;
  for (const float v : values) squares += double{v} * v;
  check(std::fabs(std::sqrt(squares / static_cast<double>(values.size())) - 0.02) < 0.001, "random weights have the deviation of an untrained model");
}

// ---- containers

void test_writer(const std::string& goldens) {
  const Scratch scratch;
  for (const char* adapter : {"plain-r16", "dora-r4", "modules-to-save", "trainable-tokens"}) {
    const std::string path = goldens + "/adapters/" + adapter + "/adapter_model.safetensors";
    const Safetensors file = Safetensors::map(path);
    std::vector<NamedTensor> tensors;
    for (const TensorInfo& info : file.tensors()) tensors.insert(tensors.begin(), {info.name, info.dtype, info.shape, file.tensor(info).data});
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
  for (const char* name : {"base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"}) guide.push_back({name, FileDtype::kBF16, {262144, 1152}});
  uint64_t bytes = plan_safetensors(guide, {{"format", "pt"}}).size();
  for (const NamedTensor& t : guide) bytes += static_cast<uint64_t>(t.shape[0] * t.shape[1] * dtype_bytes(t.dtype));
  check(bytes == 1260191096, "the guide's adapter of 1B has the published size");
}

void test_json() {
  const Json value = Json::parse(R"({"a": [1, -2.5e3, "\u00e9\ud83d\ude42\n"], "b": {"c": null, "d": true}, "e": 9223372036854775807})");
  check(value.find("a")->items()[1].as_double("") == -2500 && value.find("a")->items()[2].as_string("") == "\xC3\xA9\xF0\x9F\x99\x82\n", "numbers and escapes are read");
  check(value.find("e")->as_int("") == INT64_MAX && value.find_set("b")->find_set("c") == nullptr, "64-bit integers are exact, null counts as unset");
  check(Json::parse(json_quote("a\"\\\x01\xC3\xA9")).as_string("") == "a\"\\\x01\xC3\xA9", "a quoted string reads back");
  for (const char* text : {"", "01", "+1", ".5", "1.", "1e", "NaN", "Infinity", "tru", "[1,]", "{\"a\":1,}", "{a:1}", "'a'", "\"\\x\"", "[1 2]", "1 2", "\"\t\"", "\xff", "\"\\udc00\""}) {
    check_error(std::string("JSON refuses ") + text, "FILE_INVALID", "invalid JSON", [&] { Json::parse(text); });
  }
}

void test_hashes() {
  check(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "SHA-256 of abc");
  check(sha256_hex(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", "SHA-256 of a million letters");
  check(content_hash("ab") != content_hash("ba") && checksum64(std::string(33, 'a')) != checksum64(std::string(34, 'a')), "hashes tell contents apart");
}

// ---- adapters

void test_adapters(const std::string& goldens) {
  const Gemma3Config base = parse_config_json(read_text(goldens + "/gemma3-tiny/config.json"));
  const auto read = [&](const std::string& name) { return read_adapter(goldens + "/adapters/" + name, base, 64); };
  const auto pair = [](const AdapterFile& a, int layer, Module m) { return a.layers[static_cast<size_t>(layer)][static_cast<size_t>(m)]; };
  const auto n_pairs = [](const AdapterFile& a) {
    int n = 0;
    for (const auto& layer : a.layers) n += static_cast<int>(std::count_if(layer.begin(), layer.end(), [](const auto& p) { return p.has_value(); }));
    return n;
  };
  const AdapterFile plain = read("plain-r16");
  check(n_pairs(plain) == 49 && plain.max_rank == 16 && plain.n_tensors == 98 && plain.bytes == 1892352 && plain.warnings.empty(), "plain-r16: every linear layer, scale 1");
  check(pair(read("rslora-qv-r8"), 0, Module::v_proj)->scale == 16 / std::sqrt(8.0f), "rslora-qv-r8: scale is alpha / sqrt(r)");
  const AdapterFile patterns = read("patterns");
  check(pair(patterns, 5, Module::v_proj)->rank == 12 && pair(patterns, 4, Module::v_proj)->rank == 2 && pair(patterns, 1, Module::down_proj)->rank == 3 &&
            pair(patterns, 2, Module::down_proj)->rank == 8, "patterns: the first rank_pattern that matches wins");
  check(pair(patterns, 0, Module::q_proj)->scale == 4 && pair(patterns, 1, Module::q_proj)->scale == 2 && pair(patterns, 3, Module::o_proj)->scale == 0.5f, "patterns: alpha_pattern");
  const AdapterFile dora = read("dora-r4");
  check(dora.use_dora && pair(dora, 6, Module::q_proj)->magnitude.shape == std::vector<int64_t>{1024}, "dora-r4: magnitudes of every row");
  const AdapterFile subset = read("layer-subset");
  check(n_pairs(subset) == 4 && pair(subset, 1, Module::k_proj) && pair(subset, 5, Module::gate_proj) && !pair(subset, 0, Module::k_proj), "layer-subset: layers 1 and 5 only");
  check(n_pairs(read("regex-target")) == 4, "regex-target: a string is one expression for whole names");
  check(pair(read("minimal-config"), 0, Module::up_proj)->scale == 4, "minimal-config: absent fields have PEFT's defaults");
  check(pair(read("bf16-scrambled"), 0, Module::o_proj)->a.dtype == FileDtype::kBF16, "bf16-scrambled: any order, any float dtype");
  const AdapterFile saved = read("modules-to-save");
  check(!saved.saved_embed_tokens.empty() && !saved.saved_lm_head.empty() && saved.saved_embed_tokens.data != saved.saved_lm_head.data, "modules-to-save: two matrices");
  const AdapterFile tokens = read("trainable-tokens");
  check(tokens.token_rows && tokens.token_rows->token_ids == std::vector<int>{105, 106} && tokens.token_rows->rows.shape == std::vector<int64_t>{2, 128}, "trainable-tokens: two rows");
  check(read("zero-delta").warnings.size() == 1, "zero-delta: loads with a warning");
  check_error("a rank above the server's limit is refused by name", "ADAPTER_RANK_TOO_LARGE", "r=16", [&] { read_adapter(goldens + "/adapters/plain-r16", base, 8); });
  check_error("an absent adapter is refused by name", "ADAPTER_NOT_FOUND", "nothing", [&] { read("nothing"); });
}

void test_bad_adapters(const std::string& goldens) {
  const Gemma3Config base = parse_config_json(read_text(goldens + "/gemma3-tiny/config.json"));
  const Json cases = Json::parse(read_text(goldens + "/adapters/bad/cases.json"));
  for (const Json& item : cases.items()) {
    const std::string name = item.find("directory")->as_string("");
    const auto read = [&] { read_adapter(goldens + "/adapters/bad/" + name, base, 64); };
    const Json* kind = item.find_set("error");
    if (kind != nullptr) check_error("adapter " + name + " is refused", "ADAPTER_INVALID", (kind->as_string("") + ": ").c_str(), read);
    else read(), check(true, name + " loads");
  }
}

void test_patterns() {
  const auto matches = [](const char* expression, const char* text) { return Pattern(expression).matches(text); };
  check(matches(".*\\.layers\\.(0|6)\\.mlp\\.(up|down)_proj", "model.layers.6.mlp.up_proj"), "an expression matches a whole name");
  check(!matches("layers\\.6", "model.layers.6.mlp"), "an expression does not match a part of a name");
  check(matches("^(?:a{2,3}|[b-d]+?)\\d?$", "aa7") && !matches("^(?:a{2,3}|[b-d]+?)\\d?$", "a7"), "counts, classes and anchors");
  check(Pattern("v_proj").matches_suffix("layers.5.self_attn.v_proj") && !Pattern("proj").matches_suffix("layers.5.v_proj"), "a suffix starts after a point");
  check(!matches("((a|[a-z])*)*\\.((k|v)_proj)+!", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.k_proj"), "nested repeats end at once");
  for (const char* expression : {"(?=a)", "(?<!a)b", "\\1", "\\bq", "a**", "(", ")", "[", "a{3,2}", "a{9999}", "((a{900}){900})", "a\\"}) {
    check_error(std::string("the expression ") + expression + " is refused", "ADAPTER_INVALID", "config: ", [&] { Pattern p(expression); });
  }
}

// ---- tokenizer

void test_tiny_tokenizer() {
  const Scratch dir;
  write_text(dir / "x.gguf", tiny_gguf().text());
  const auto tokenizer = GgufTokenizer::open(dir / "x.gguf");
  const auto encodes = [&](const char* text, bool special, std::vector<int32_t> ids, const char* behaviour) { check(tokenizer->encode(text, special) == ids, behaviour); };
  encodes("", true, {}, "no text, no ids");
  encodes("ab", true, {13}, "a pair merges by score");
  encodes("aba", true, {13, 10}, "the better score merges first");
  encodes(" ab", true, {14}, "a space belongs to the word behind it");
  encodes("  ab", true, {6, 13}, "a run of spaces goes before a word's own space");
  encodes("a<b>b", false, {10, 7, 11}, "user-defined tokens are always cut out");
  encodes("<eos>a", true, {1, 10}, "control tokens are recognised where that is asked for");
  encodes("<unused0>", false, {5}, "an unused token is no secret");
  encodes("A\xff", false, {8, 9}, "unknown characters become bytes, broken UTF-8 too");
  check(tokenizer->encode("<bos>", false) == std::vector<int32_t>({3, 11, 3, 3, 3}), "a user cannot type a control token");
  const GgufTokenizer::Table table = tokenizer->table();
  const auto text = [&](int id) { return std::string(table.bytes.begin() + table.offsets[static_cast<size_t>(id)], table.bytes.begin() + table.offsets[static_cast<size_t>(id) + 1]); };
  check(text(8) == "A" && text(9) == "\xff" && text(14) == " ab" && text(6) == "  " && text(1) == "<eos>" && table.kinds[9] == 6, "the table decodes bytes and spaces");
}

void test_real_gguf(const std::string& goldens, const std::string& path) {
  const auto tokenizer = GgufTokenizer::open(path);
  const Json cases = Json::parse(read_text(goldens + "/tokenizer/cases.json"));
  const auto ids_of = [](const Json& list) {
    std::vector<int32_t> ids;
    for (const Json& id : list.items()) ids.push_back(static_cast<int32_t>(id.as_int("")));
    return ids;
  };
  int n_equal = 0;
  for (const Json& item : cases.find("texts")->items()) {
    const std::string& text = item.find("text")->as_string("");
    const Json* plain = item.find("ids_as_plain_text");
    const std::vector<int32_t> ids = ids_of(*item.find("ids"));
    // The file ends before <image_soft_token>.
    const bool special = tokenizer->encode(text, true) == ids || text == "<image_soft_token>";
    const bool as_text = tokenizer->encode(text, false) == (plain == nullptr ? ids : ids_of(*plain));
    n_equal += special && as_text ? 1 : 0;
    if (!special || !as_text) std::printf("differs: %s\n", json_quote(text).c_str());
  }
  check(n_equal == static_cast<int>(cases.find("texts")->items().size()), "the GGUF's tokenizer equals tokenizer.json on every string");
  const auto model = open(path, WeightFormat::kF32);
  check(model->config().name == path_name(path).substr(0, path_name(path).size() - 5) && model->config().n_layers == 18 && model->config().vocab_size == 262144, "the real 270M is read");
}

}  // namespace
}  // namespace lorikeet::testing

int main(int n_args, char** args) {
  using namespace lorikeet::testing;
  test_json();
  test_hashes();
  test_patterns();
  test_tiny_tokenizer();
  test_random();
  const std::string goldens = goldens_directory(n_args, args);
  if (goldens.empty()) return finish();
  test_nf4_vectors(goldens);
  test_nf4_edges(goldens);
  test_quant_rows(goldens);
  test_configs(goldens);
  test_checkpoints(goldens);
  test_cache(goldens);
  test_writer(goldens);
  test_adapters(goldens);
  test_bad_adapters(goldens);
  const char* named = ::getenv("LORIKEET_TEST_GGUF");
  const std::string root = std::filesystem::path(__FILE__).parent_path().string() + "/../../..";
  const std::string gguf = named != nullptr ? named : root + "/build/models/gemma-3-270m-q4_k_m.gguf";
  if (lorikeet::is_file(gguf)) test_real_gguf(goldens, gguf);
  else std::printf("skipped: the real 270M (not at %s)\n", gguf.c_str());
  return finish();
}
