// Malformed model files: each must give one named error, without a large allocation. Run it under the sanitizers.
#include <cstdlib>
#include <new>
#include <optional>

#include "../core/checkpoint.h"
#include "../core/gguf_tokenizer.h"
#include "tiny_model.h"

// The largest single allocation since the start: a reader that believes a lying count would show here.
static size_t largest_allocation = 0;
[[gnu::noinline]] void* operator new(size_t n, const std::nothrow_t&) noexcept {
  largest_allocation = n > largest_allocation ? n : largest_allocation;
  return std::malloc(n == 0 ? 1 : n);
}
[[gnu::noinline]] void* operator new(size_t n) {
  if (void* p = operator new(n, std::nothrow)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }

namespace lorikeet::testing {
namespace {

void load_everything(const std::string& path) {
  const auto checkpoint = open_checkpoint(path, {WeightFormat::kNF4, "", {}});
  for (int m = 0; m < kModules; ++m) checkpoint->linear(0, static_cast<Module>(m));
  checkpoint->embedding();
  checkpoint->head();
  checkpoint->norm("norm");
  checkpoint->norm("layers.0.self_attn.q_norm");
}

void expect_bad(const std::string& behaviour, const char* code, const char* part, const std::string& path) {
  check_error(behaviour + " is refused", code, part, [&] { load_everything(path); });
}

// ---- config.json

void bad_config(const std::string& behaviour, const char* code, const char* part, const std::string& text) {
  const Scratch dir;
  write_tiny(dir, text, tiny_tensors());
  expect_bad(behaviour, code, part, dir.path());
}

void test_configs() {
  const auto with = [](const char* key, const char* value) { return tiny_config().set(key, value).text(); };
  bad_config("an empty config", "FILE_INVALID", "invalid JSON", "");
  bad_config("a config cut short", "FILE_INVALID", "invalid JSON", tiny_config().text().substr(0, 60));
  bad_config("a config that is a list", "MODEL_INVALID", "must hold an object", "[]");
  bad_config("a config with a key twice", "FILE_INVALID", "twice", "{\"model_type\": \"gemma3_text\", \"model_type\": \"gemma3_text\"}");
  bad_config("a config nested 100,000 deep", "FILE_INVALID", "nested too deeply",
             "{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}");
  bad_config("a config without model_type", "MODEL_INVALID", "no model_type", tiny_config().drop("model_type").text());
  bad_config("another model", "UNSUPPORTED", "not Gemma 3", with("model_type", "\"llama\""));
  bad_config("a multimodal config without text_config", "MODEL_INVALID", "text_config", "{\"model_type\": \"gemma3\"}");
  bad_config("soft caps", "UNSUPPORTED", "soft caps", with("final_logit_softcapping", "30.0"));
  bad_config("biased projections", "UNSUPPORTED", "bias", with("attention_bias", "true"));
  bad_config("bidirectional attention", "UNSUPPORTED", "bidirectional", with("use_bidirectional_attention", "true"));
  bad_config("another activation", "UNSUPPORTED", "gelu_pytorch_tanh", with("hidden_activation", "\"silu\""));
  bad_config("zero layers", "MODEL_INVALID", "num_hidden_layers", with("num_hidden_layers", "0"));
  bad_config("a billion layers", "MODEL_INVALID", "num_hidden_layers", with("num_hidden_layers", "1000000000"));
  bad_config("a negative hidden size", "MODEL_INVALID", "hidden_size", with("hidden_size", "-64"));
  bad_config("a hidden size no block fits", "MODEL_INVALID", "multiple of 64", with("hidden_size", "100"));
  bad_config("a hidden size beyond 64 bits", "MODEL_INVALID", "hidden_size", with("hidden_size", "99999999999999999999"));
  bad_config("a hidden size as text", "MODEL_INVALID", "hidden_size", with("hidden_size", "\"64\""));
  bad_config("a fractional head_dim", "MODEL_INVALID", "head_dim", with("head_dim", "64.5"));
  bad_config("heads that kv heads do not divide", "MODEL_INVALID", "key-value heads",
             tiny_config().set("num_attention_heads", "3").set("num_key_value_heads", "2").text());
  bad_config("an infinite epsilon", "MODEL_INVALID", "rms_norm_eps", with("rms_norm_eps", "1e999"));
  bad_config("a negative rope_theta", "MODEL_INVALID", "rope_theta", with("rope_theta", "-1"));
  bad_config("layer types for other layers", "MODEL_INVALID", "layer_types",
             with("layer_types", "[\"full_attention\", \"full_attention\"]"));
  bad_config("an unknown layer type", "UNSUPPORTED", "layer_types", with("layer_types", "[\"linear_attention\"]"));
  bad_config("yarn scaling", "UNSUPPORTED", "rope_type", with("rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 8}"));
  bad_config("an end token outside the vocabulary", "MODEL_INVALID", "eos_token_id", with("eos_token_id", "[1, 99]"));
  bad_config("another quantisation", "UNSUPPORTED", "quantization_config", with("quantization_config", "{\"quant_method\": \"gptq\"}"));
  bad_config("8-bit weights", "UNSUPPORTED", "8-bit",
             with("quantization_config", "{\"quant_method\": \"bitsandbytes\", \"load_in_8bit\": true}"));
  bad_config("a shape that the weights do not have", "MODEL_INVALID", "shape", with("vocab_size", "32"));
}

// ---- model.safetensors

std::string tiny_file(const std::vector<TinyTensor>& tensors = tiny_tensors()) {
  const Scratch dir;
  write_tensors(dir / "x.safetensors", tensors);
  return read_text(dir / "x.safetensors");
}

void bad_weights(const std::string& behaviour, const char* code, const char* part, const std::string& bytes) {
  const Scratch dir;
  write_text(dir / "config.json", tiny_config().text());
  write_text(dir / "model.safetensors", bytes);
  expect_bad(behaviour, code, part, dir.path());
}

void bad_tensors(const std::string& behaviour, const char* code, const char* part,
                 const std::function<void(std::vector<TinyTensor>&)>& spoil) {
  std::vector<TinyTensor> tensors = tiny_tensors();
  spoil(tensors);
  bad_weights(behaviour, code, part, tiny_file(tensors));
}

// The file with `from` replaced by `to` in its header; the length field follows.
std::string with_header(const std::string& from, const std::string& to) {
  const std::string file = tiny_file();
  uint64_t n = 0;
  std::memcpy(&n, file.data(), 8);
  std::string header = file.substr(8, n);
  const size_t at = header.find(from);
  if (at == std::string::npos) throw Error("INTERNAL", "the header lacks " + from);
  header.replace(at, from.size(), to);
  return GgufBuilder::raw<uint64_t>(header.size()) + header + file.substr(8 + n);
}

void test_containers() {
  const std::string file = tiny_file();
  const auto with_length = [&](uint64_t n) { return GgufBuilder::raw(n) + file.substr(8); };
  const std::string embed = "\"model.embed_tokens.weight\":{\"dtype\":\"BF16\",\"shape\":[16,64],\"data_offsets\":[0,2048]}";
  const auto entry = [](const char* dtype, const char* shape, const char* offsets) {
    return std::string("\"model.embed_tokens.weight\":{\"dtype\":\"") + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets +
           "}";
  };
  bad_weights("an empty file", "FILE_INVALID", "too few", "");
  bad_weights("a file of seven bytes", "FILE_INVALID", "too few", file.substr(0, 7));
  bad_weights("a header length of 2^64 - 1", "FILE_INVALID", "claims a header", with_length(UINT64_MAX));
  bad_weights("a header length past the end", "FILE_INVALID", "inside its header", with_length(file.size()));
  bad_weights("a header length of zero", "FILE_INVALID", "start with {", with_length(0));
  bad_weights("a header cut short", "FILE_INVALID", "inside its header", file.substr(0, 200));
  bad_weights("data cut short", "FILE_INVALID", "ends at byte", file.substr(0, file.size() - 1));
  bad_weights("bytes after the data", "FILE_INVALID", "cover", file + "x");
  bad_weights("random bytes", "FILE_INVALID", "", noise(4096, 7));
  bad_weights("an unknown dtype", "FILE_INVALID", "unknown dtype", with_header(embed, entry("F13", "[16,64]", "[0,2048]")));
  bad_weights("a negative shape", "FILE_INVALID", "negative", with_header(embed, entry("BF16", "[-16,-64]", "[0,2048]")));
  bad_weights("a shape whose size overflows", "FILE_INVALID", "overflows",
              with_header(embed, entry("BF16", "[4294967296,4294967296]", "[0,2048]")));
  bad_weights("a shape that its bytes do not fit", "FILE_INVALID", "shape and dtype need",
              with_header(embed, entry("BF16", "[16,65]", "[0,2048]")));
  bad_weights("nine dimensions", "FILE_INVALID", "dimensions", with_header(embed, entry("BF16", "[1,1,1,1,1,1,1,16,64]", "[0,2048]")));
  bad_weights("reversed offsets", "FILE_INVALID", "begins after", with_header(embed, entry("BF16", "[16,64]", "[2048,0]")));
  bad_weights("offsets beyond 2^63", "FILE_INVALID", "data_offsets",
              with_header(embed, entry("BF16", "[16,64]", "[0,9223372036854775808]")));
  bad_weights("offsets past the end", "FILE_INVALID", "ends at byte", with_header(embed, entry("BF16", "[16,64]", "[0,1099511627776]")));
  bad_weights("overlapping tensors", "FILE_INVALID", "overlaps", with_header("[2048,2176]", "[2040,2168]"));
  bad_weights("fractional offsets", "FILE_INVALID", "integer", with_header(embed, entry("BF16", "[16,64]", "[0,2048.0]")));
  bad_weights("three offsets", "FILE_INVALID", "two data_offsets", with_header(embed, entry("BF16", "[16,64]", "[0,2048,0]")));
  bad_weights("a tensor named twice", "FILE_INVALID", "twice", with_header(embed, embed + "," + embed));
  bad_weights("an unknown field of a tensor", "FILE_INVALID", "exactly", with_header(embed, entry("BF16", "[16,64]", "[0,2048],\"x\":1")));
  bad_weights("metadata that is a list", "FILE_INVALID", "__metadata__", with_header("{\"format\":\"pt\"}", "[]"));
  bad_weights("a control character in the header", "FILE_INVALID", "control character", with_header("\"pt\"", "\"p\nt\""));
  bad_weights("a lone surrogate in the header", "FILE_INVALID", "surrogate", with_header("\"pt\"", "\"\\ud800\""));
  bad_weights("a header of 200,000 tensors", "FILE_INVALID", "", [] {
    std::string header = "{";
    for (int i = 0; i < 200000; ++i)
      header += (i == 0 ? "\"t" : ",\"t") + std::to_string(i) + "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
    header += "}";
    return GgufBuilder::raw<uint64_t>(header.size()) + header;
  }());
}

void test_tensors() {
  const std::string q = "model.layers.0.self_attn.q_proj.weight";
  bad_tensors("a missing norm", "MODEL_INVALID", "lack norm.weight", [](auto& t) { t.erase(t.begin() + 1); });
  bad_tensors("a tensor of a part that Gemma 3 lacks", "MODEL_INVALID", "belongs to no part", [&](auto& t) {
    t.push_back({"model.layers.0.self_attn.q_proj.bias", FileDtype::kBF16, {64}, noise(128, 1)});
  });
  bad_tensors("tensors of a second layer", "MODEL_INVALID", "belongs to no part", [&](auto& t) {
    t.push_back({"model.layers.1.self_attn.q_proj.weight", FileDtype::kBF16, {64, 64}, noise(8192, 1)});
  });
  bad_tensors("one tensor in two spellings", "MODEL_INVALID", "two tensors", [&](auto& t) {
    t.push_back({"language_model." + q, FileDtype::kBF16, {64, 64}, noise(8192, 1)});
  });
  bad_tensors("a transposed shape", "MODEL_INVALID", "shape", [&](auto& t) { find_tensor(t, q).shape = {32, 128}; });
  bad_tensors("integer weights", "UNSUPPORTED", "I16", [&](auto& t) { find_tensor(t, q).dtype = FileDtype::kI16; });
  bad_tensors("infinite weights", "MODEL_INVALID", "infinity", [&](auto& t) { find_tensor(t, q).bytes.replace(0, 2, "\x80\x7f"); });
}

void test_bitsandbytes() {
  const std::string q = "model.layers.0.self_attn.q_proj.weight", state = q + ".quant_state.bitsandbytes__nf4";
  const auto bad = [&](const std::string& behaviour, const char* code, const char* part,
                       const std::function<void(std::vector<TinyTensor>&)>& spoil) {
    bad_tensors(behaviour, code, part, [&](auto& t) {
      quantise_q_proj(t);
      spoil(t);
    });
  };
  const auto set_state = [&](auto& t, const std::string& text) {
    find_tensor(t, state).bytes = text;
    find_tensor(t, state).shape = {static_cast<int64_t>(text.size())};
  };
  bad("a quant_state that is not JSON", "FILE_INVALID", "invalid JSON", [&](auto& t) { set_state(t, "{nf4}"); });
  bad("a quant_state of fp4", "UNSUPPORTED", "only nf4",
      [&](auto& t) { set_state(t, R"({"quant_type": "fp4", "blocksize": 64, "shape": [64, 64]})"); });
  bad("NF4 blocks of 128", "UNSUPPORTED", "only 64",
      [&](auto& t) { set_state(t, R"({"quant_type": "nf4", "blocksize": 128, "shape": [64, 64]})"); });
  bad("a quant_state of another shape", "MODEL_INVALID", "shape",
      [&](auto& t) { set_state(t, R"({"quant_type": "nf4", "blocksize": 64, "shape": [32, 128]})"); });
  bad("a quant_state without a shape", "MODEL_INVALID", "lacks",
      [&](auto& t) { set_state(t, R"({"quant_type": "nf4", "blocksize": 64})"); });
  bad("an infinite nested_offset", "FILE_INVALID", "nested_offset", [&](auto& t) {
    set_state(t, R"({"quant_type": "nf4", "blocksize": 64, "shape": [64, 64], "nested_offset": 1e999})");
    find_tensor(t, q + ".absmax") = {q + ".absmax", FileDtype::kU8, {64}, std::string(64, 'x')};
    t.push_back({q + ".nested_absmax", FileDtype::kF32, {1}, std::string(4, '\0')});
    t.push_back({q + ".nested_quant_map", FileDtype::kF32, {256}, std::string(1024, '\0')});
  });
  bad("double quantisation without its parts", "MODEL_INVALID", "nested_absmax", [&](auto& t) {
    set_state(t, R"({"quant_type": "nf4", "blocksize": 64, "shape": [64, 64], "nested_offset": 0.1})");
    find_tensor(t, q + ".absmax") = {q + ".absmax", FileDtype::kU8, {64}, std::string(64, 'x')};
  });
  bad("too few scales", "MODEL_INVALID", "absmax",
      [&](auto& t) { find_tensor(t, q + ".absmax") = {q + ".absmax", FileDtype::kF32, {63}, std::string(252, 'x')}; });
  bad("a scale that is NaN", "MODEL_INVALID", "infinity or NaN",
      [&](auto& t) { find_tensor(t, q + ".absmax").bytes.replace(0, 4, std::string(4, '\xff')); });
  bad("another code book", "UNSUPPORTED", "quant_map", [&](auto& t) { find_tensor(t, q + ".quant_map").bytes = std::string(64, '\0'); });
  bad("too few packed bytes", "MODEL_INVALID", "bytes",
      [&](auto& t) { find_tensor(t, q) = {q, FileDtype::kU8, {2047, 1}, std::string(2047, 'x')}; });
  bad("a quantised embedding", "MODEL_INVALID", "expected 16 bit", [&](auto& t) {
    t.push_back({"model.embed_tokens.weight.quant_state.bitsandbytes__nf4", FileDtype::kU8, {2}, "{}"});
  });
}

// ---- the directory

void test_directories() {
  const auto bad_index = [](const std::string& behaviour, const char* code, const char* part, const std::string& index) {
    const Scratch dir;
    write_text(dir / "config.json", tiny_config().text());
    write_tensors(dir / "model-00001.safetensors", tiny_tensors());
    write_text(dir / "model.safetensors.index.json", index);
    expect_bad(behaviour, code, part, dir.path());
  };
  const auto map_to = [](const std::string& file) { return "{\"weight_map\": {\"model.norm.weight\": \"" + file + "\"}}"; };
  for (const char* trick : {"../model-00001.safetensors", "/etc/passwd", "/model-00001.safetensors", "a/b.safetensors",
                            "..\\\\x.safetensors", ".hidden.safetensors", "model-00001.safetensors\\u0000", "", "model.bin"}) {
    bad_index(std::string("an index that names ") + trick, "MODEL_INVALID", "plain", map_to(trick));
  }
  bad_index("an index that names an absent file", "MODEL_NOT_FOUND", "model-2.safetensors", map_to("model-2.safetensors"));
  bad_index("an index that names an absent tensor", "MODEL_INVALID", "is not in",
            "{\"weight_map\": {\"model.x.weight\": \"model-00001.safetensors\"}}");
  bad_index("an index of one tensor", "MODEL_INVALID", "lack", map_to("model-00001.safetensors"));
  bad_index("an index without weight_map", "MODEL_INVALID", "weight_map", "{}");
  bad_index("an index that is not JSON", "FILE_INVALID", "invalid JSON", "weights");
  const Scratch empty, pickle, folder;
  expect_bad("an empty directory", "MODEL_NOT_FOUND", "config.json", empty.path());
  expect_bad("an absent path", "MODEL_NOT_FOUND", "neither", empty / "nothing");
  write_text(pickle / "config.json", tiny_config().text());
  expect_bad("a directory without weights", "MODEL_NOT_FOUND", "neither", pickle.path());
  write_text(pickle / "pytorch_model.bin", "x");
  expect_bad("pickle weights", "UNSUPPORTED", "pickle", pickle.path());
  std::filesystem::create_directory(folder / "config.json");
  expect_bad("a directory in place of config.json", "MODEL_NOT_FOUND", "config.json", folder.path());
  expect_bad("an unknown random shape", "MODEL_NOT_FOUND", "gemma-9", "random:gemma-9");
  expect_bad("a seed that is no number", "MODEL_NOT_FOUND", "seed", "random:gemma-3-270m:x");
}

// ---- GGUF

void bad_gguf_bytes(const std::string& behaviour, const char* code, const char* part, const std::string& bytes) {
  const Scratch dir;
  write_text(dir / "x.gguf", bytes);
  expect_bad("GGUF: " + behaviour, code, part, dir / "x.gguf");
}

void bad_gguf(const std::string& behaviour, const char* code, const char* part, const std::function<void(GgufBuilder&)>& spoil) {
  GgufBuilder builder = tiny_gguf();
  spoil(builder);
  bad_gguf_bytes(behaviour, code, part, builder.text());
}

void test_gguf_container() {
  const std::string file = tiny_gguf().text();
  bad_gguf_bytes("an empty file", "FILE_INVALID", "ends inside", "");
  bad_gguf_bytes("another magic number", "FILE_INVALID", "not a GGUF", "GGML" + file.substr(4));
  bad_gguf_bytes("a header cut short", "FILE_INVALID", "ends inside", file.substr(0, 500));
  bad_gguf_bytes("data cut short", "FILE_INVALID", "past the end", file.substr(0, file.size() - 1));
  for (const uint32_t version : {0u, 1u, 4u, 0x03000000u}) {
    bad_gguf("version " + std::to_string(version), "UNSUPPORTED", "", [&](auto& g) { g.version = version; });
  }
  bad_gguf("-1 tensors", "FILE_INVALID", "tensors", [](auto& g) { g.n_tensors = UINT64_MAX; });
  bad_gguf("-1 key-values", "FILE_INVALID", "key-values", [](auto& g) { g.n_values = UINT64_MAX; });
  bad_gguf("more key-values than there are", "FILE_INVALID", "", [](auto& g) { g.n_values = 90000; });
  bad_gguf("an empty key", "FILE_INVALID", "key", [](auto& g) { g.set_int("", 1); });
  bad_gguf("a key that is not UTF-8", "FILE_INVALID", "key", [](auto& g) { g.set_int("\xff", 1); });
  bad_gguf("a key of 2^64 - 1 bytes", "FILE_INVALID", "ends inside", [](auto& g) {
    g.n_values = g.values.size() + 1;
    g.extra_values = GgufBuilder::raw(UINT64_MAX);
  });
  bad_gguf("a key twice", "FILE_INVALID", "twice", [](auto& g) {
    g.n_values = g.values.size() + 1;
    g.extra_values = GgufBuilder::string("gemma3.block_count") + GgufBuilder::raw<uint32_t>(4) + GgufBuilder::raw<uint32_t>(1);
  });
  bad_gguf("an unknown value type", "FILE_INVALID", "value type", [](auto& g) { g.set("x", {13, "abcd"}); });
  bad_gguf("a string longer than the file", "FILE_INVALID", "ends inside",
           [](auto& g) { g.set("x", {8, GgufBuilder::raw<uint64_t>(1u << 30)}); });
  bad_gguf("an array of 2^62 numbers", "FILE_INVALID", "does not fit",
           [](auto& g) { g.set("x", {9, GgufBuilder::raw<uint32_t>(10) + GgufBuilder::raw(uint64_t{1} << 62)}); });
  bad_gguf("an array of 2^61 strings", "FILE_INVALID", "does not fit",
           [](auto& g) { g.set("x", {9, GgufBuilder::raw<uint32_t>(8) + GgufBuilder::raw(uint64_t{1} << 61)}); });
  bad_gguf("an array of arrays", "FILE_INVALID", "array of arrays",
           [](auto& g) { g.set("x", {9, GgufBuilder::raw<uint32_t>(9) + GgufBuilder::raw<uint64_t>(1)}); });
  bad_gguf("a boolean of 7", "FILE_INVALID", "boolean", [](auto& g) { g.set("x", {7, "\x07"}); });
  for (const uint32_t alignment : {0u, 3u, 1u << 31}) {
    bad_gguf("an alignment of " + std::to_string(alignment), "FILE_INVALID", "alignment",
             [&](auto& g) { g.set_int("general.alignment", alignment); });
  }
  bad_gguf("an alignment as text", "FILE_INVALID", "alignment", [](auto& g) { g.set_string("general.alignment", "32"); });
}

void test_gguf_tensors() {
  const char* q = "blk.0.attn_q.weight";
  bad_gguf("a tensor of five dimensions", "FILE_INVALID", "dimensions", [&](auto& g) { g.tensor(q).dims = {64, 64, 1, 1, 1}; });
  bad_gguf("a tensor without dimensions", "FILE_INVALID", "dimensions", [&](auto& g) { g.tensor(q).dims = {}; });
  bad_gguf("a dimension of zero", "FILE_INVALID", "dimension of 0", [&](auto& g) { g.tensor(q).dims = {64, 0}; });
  bad_gguf("a shape whose size overflows", "FILE_INVALID", "overflows",
           [&](auto& g) { g.tensor(q).dims = {uint64_t{1} << 40, uint64_t{1} << 40}; });
  bad_gguf("a shape larger than the file", "FILE_INVALID", "past the end", [&](auto& g) { g.tensor(q).dims = {1u << 20, 1u << 20}; });
  bad_gguf("an unknown tensor type", "UNSUPPORTED", "ggml type 77", [&](auto& g) { g.tensor(q).type = 77; });
  bad_gguf("an IQ type", "UNSUPPORTED", "ggml type 16", [&](auto& g) { g.tensor(q).type = 16; });
  bad_gguf("rows no block fits", "FILE_INVALID", "multiple of a block", [&](auto& g) { g.tensor(q).type = 12; });
  bad_gguf("an offset between alignments", "FILE_INVALID", "aligned", [&](auto& g) { g.tensor(q).offset += 4; });
  bad_gguf("an offset of 2^64 - 32", "FILE_INVALID", "past the end", [&](auto& g) { g.tensor(q).offset = UINT64_MAX - 31; });
  bad_gguf("an offset past the end", "FILE_INVALID", "past the end", [&](auto& g) { g.tensor(q).offset = uint64_t{1} << 40; });
  bad_gguf("overlapping tensors", "FILE_INVALID", "overlap", [&](auto& g) { g.tensor(q).offset = g.tensor("blk.0.attn_k.weight").offset; });
  bad_gguf("a tensor twice", "FILE_INVALID", "twice", [&](auto& g) { g.tensor(q).name = "blk.0.attn_k.weight"; });
  bad_gguf("a tensor name that is not UTF-8", "FILE_INVALID", "name", [&](auto& g) { g.tensor(q).name = "\xc0\x80"; });
  bad_gguf("a missing tensor", "MODEL_INVALID", "lacks blk.0.attn_q.weight", [&](auto& g) { g.tensor(q).name = "blk.0.attn_x.weight"; });
  bad_gguf("a tensor of no part of the model", "MODEL_INVALID", "belongs to no part",
           [](auto& g) { g.add("blk.0.attn_q.bias", {64}), g.place(); });
  bad_gguf("a tensor of another shape", "MODEL_INVALID", "another shape", [&](auto& g) { g.tensor(q).dims = {128, 32}; });
}

void test_gguf_values() {
  bad_gguf("another architecture", "UNSUPPORTED", "only gemma3", [](auto& g) { g.set_string("general.architecture", "gemma2"); });
  bad_gguf("an architecture that is a number", "FILE_INVALID", "general.architecture",
           [](auto& g) { g.set_int("general.architecture", 3); });
  bad_gguf("no layer count", "MODEL_INVALID", "gemma3.block_count", [](auto& g) { g.drop("gemma3.block_count"); });
  bad_gguf("four billion layers", "MODEL_INVALID", "gemma3.block_count", [](auto& g) { g.set_int("gemma3.block_count", UINT32_MAX); });
  bad_gguf("a layer count as text", "FILE_INVALID", "gemma3.block_count", [](auto& g) { g.set_string("gemma3.block_count", "1"); });
  bad_gguf("zero heads", "MODEL_INVALID", "num_attention_heads", [](auto& g) { g.set_int("gemma3.attention.head_count", 0); });
  bad_gguf("soft caps", "UNSUPPORTED", "soft caps", [](auto& g) { g.set("gemma3.final_logit_softcapping", {6, GgufBuilder::raw(30.0f)}); });
  bad_gguf("a NaN epsilon", "MODEL_INVALID", "rms_norm_eps",
           [](auto& g) { g.set("gemma3.attention.layer_norm_rms_epsilon", {6, "\xff\xff\xff\x7f"}); });
  bad_gguf("yarn scaling", "UNSUPPORTED", "linear", [](auto& g) { g.set_string("gemma3.rope.scaling.type", "yarn"); });
}

void test_gguf_tokenizers() {
  const auto bad = [](const std::string& behaviour, const char* code, const char* part, const std::function<void(GgufBuilder&)>& spoil) {
    const Scratch dir;
    GgufBuilder builder = tiny_gguf();
    spoil(builder);
    write_text(dir / "x.gguf", builder.text());
    check_error("GGUF tokenizer: " + behaviour + " is refused", code, part, [&] { GgufTokenizer::open(dir / "x.gguf"); });
  };
  bad("another model", "UNSUPPORTED", "llama", [](auto& g) { g.set_string("tokenizer.ggml.model", "gpt2"); });
  bad("a space prefix", "UNSUPPORTED", "space", [](auto& g) { g.set("tokenizer.ggml.add_space_prefix", {7, "\x01"}); });
  bad("no tokens", "FILE_INVALID", "tokens", [](auto& g) { g.drop("tokenizer.ggml.tokens"); });
  bad("tokens that are numbers", "FILE_INVALID", "tokens",
      [](auto& g) { g.set("tokenizer.ggml.tokens", GgufBuilder::array<float>(6, {1, 2})); });
  bad("fewer scores than tokens", "FILE_INVALID", "scores",
      [](auto& g) { g.set("tokenizer.ggml.scores", GgufBuilder::array<float>(6, {1, 2})); });
  bad("an unknown token type", "FILE_INVALID", "type 9",
      [](auto& g) { g.set("tokenizer.ggml.token_type", GgufBuilder::array(5, std::vector<int32_t>(16, 9))); });
  bad("byte tokens that are not bytes", "FILE_INVALID", "byte",
      [](auto& g) { g.set("tokenizer.ggml.token_type", GgufBuilder::array(5, std::vector<int32_t>(16, 6))); });
  bad("an end token outside the vocabulary", "FILE_INVALID", "eos_token_id", [](auto& g) { g.set_int("tokenizer.ggml.eos_token_id", 16); });
}

void test_good_files() {
  const auto loads = [](const std::string& behaviour, const std::function<std::string(const Scratch&)>& make) {
    const Scratch dir;
    try {
      load_everything(make(dir));
      check(true, behaviour);
    } catch (const std::exception& error) {
      check(false, behaviour + " (got " + error.what() + ")");
    }
  };
  loads("the tiny safetensors model loads", [](const Scratch& d) { write_tiny(d, tiny_config().text(), tiny_tensors()); return d.path(); });
  loads("the tiny GGUF model loads", [](const Scratch& d) { write_text(d / "x.gguf", tiny_gguf().text()); return d / "x.gguf"; });
  for (const char* prefix : {"model.language_model.", "language_model.model."}) {
    loads(std::string("keys that start with ") + prefix + " load", [&](const Scratch& d) {
      write_tiny(d, tiny_config().text(), tiny_tensors(prefix));
      return d.path();
    });
  }
  loads("an NF4 module among 16-bit ones loads", [](const Scratch& d) {
    std::vector<TinyTensor> tensors = tiny_tensors();
    quantise_q_proj(tensors);
    write_tiny(d, tiny_config().text(), tensors);
    return d.path();
  });
  loads("vision weights are read past", [](const Scratch& d) {
    std::vector<TinyTensor> tensors = tiny_tensors("language_model.model.");
    tensors.push_back({"vision_tower.x.weight", FileDtype::kI8, {3}, "abc"});
    write_tiny(d, tiny_config().text(), tensors);
    return d.path();
  });
}

}  // namespace
}  // namespace lorikeet::testing

int main() {
  using namespace lorikeet::testing;
  test_good_files();
  test_configs();
  test_containers();
  test_tensors();
  test_bitsandbytes();
  test_directories();
  test_gguf_container();
  test_gguf_tensors();
  test_gguf_values();
  test_gguf_tokenizers();
  check(largest_allocation < 64u << 20, "no file makes a reader allocate 64 MiB at once (got " + std::to_string(largest_allocation) + ")");
  return finish();
}
