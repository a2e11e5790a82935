// PEFT adapters: the golden ones are read right, the malformed ones refused with the recorded kind of error. Usage:
// adapter_file_test [GOLDENS_DIR]
#include <algorithm>
#include <cmath>

#include "../core/adapter_file.h"
#include "../core/adapter_keys.h"
#include "../core/json.h"
#include "../core/pattern.h"
#include "tiny_model.h"

namespace lorikeet::testing {
namespace {

void test_adapters(const std::string& goldens) {
  const Gemma3Config base = parse_config_json(read_text(goldens + "/gemma3-tiny/config.json"));
  const auto read = [&](const std::string& name) { return read_adapter(goldens + "/adapters/" + name, base, 64); };
  const auto pair = [](const AdapterFile& a, int layer, Module m) { return a.layers[static_cast<size_t>(layer)][static_cast<size_t>(m)]; };
  const auto n_pairs = [](const AdapterFile& a) {
    int n = 0;
    for (const auto& layer : a.layers)
      n += static_cast<int>(std::count_if(layer.begin(), layer.end(), [](const auto& p) { return p.has_value(); }));
    return n;
  };
  const AdapterFile plain = read("plain-r16");
  check(n_pairs(plain) == 49 && plain.max_rank == 16 && plain.n_tensors == 98 && plain.bytes == 1892352 && plain.warnings.empty(),
        "plain-r16: every linear layer, scale 1");
  check(pair(read("rslora-qv-r8"), 0, Module::v_proj)->scale == 16 / std::sqrt(8.0f), "rslora-qv-r8: scale is alpha / sqrt(r)");
  const AdapterFile patterns = read("patterns");
  check(pair(patterns, 5, Module::v_proj)->rank == 12 && pair(patterns, 4, Module::v_proj)->rank == 2 &&
            pair(patterns, 1, Module::down_proj)->rank == 3 && pair(patterns, 2, Module::down_proj)->rank == 8,
        "patterns: the first rank_pattern that matches wins");
  check(pair(patterns, 0, Module::q_proj)->scale == 4 && pair(patterns, 1, Module::q_proj)->scale == 2 &&
            pair(patterns, 3, Module::o_proj)->scale == 0.5f,
        "patterns: alpha_pattern");
  const AdapterFile dora = read("dora-r4");
  check(dora.use_dora && pair(dora, 6, Module::q_proj)->magnitude.shape == std::vector<int64_t>{1024}, "dora-r4: magnitudes of every row");
  const AdapterFile subset = read("layer-subset");
  check(n_pairs(subset) == 4 && pair(subset, 1, Module::k_proj) && pair(subset, 5, Module::gate_proj) && !pair(subset, 0, Module::k_proj),
        "layer-subset: layers 1 and 5 only");
  check(n_pairs(read("regex-target")) == 4, "regex-target: a string is one expression for whole names");
  check(pair(read("minimal-config"), 0, Module::up_proj)->scale == 4, "minimal-config: absent fields have PEFT's defaults");
  check(pair(read("bf16-scrambled"), 0, Module::o_proj)->a.dtype == FileDtype::kBF16, "bf16-scrambled: any order, any float dtype");
  const AdapterFile saved = read("modules-to-save");
  check(!saved.saved_embed_tokens.empty() && !saved.saved_lm_head.empty() && saved.saved_embed_tokens.data != saved.saved_lm_head.data,
        "modules-to-save: two matrices");
  const AdapterFile tokens = read("trainable-tokens");
  check(tokens.token_rows && tokens.token_rows->token_ids == std::vector<int>{105, 106} &&
            tokens.token_rows->rows.shape == std::vector<int64_t>{2, 128},
        "trainable-tokens: two rows");
  check(read("zero-delta").warnings.size() == 1, "zero-delta: loads with a warning");
  check_error("a rank above the server's limit is refused by name", "ADAPTER_RANK_TOO_LARGE", "r=16",
              [&] { read_adapter(goldens + "/adapters/plain-r16", base, 8); });
  check_error("an absent adapter is refused by name", "ADAPTER_NOT_FOUND", "nothing", [&] { read("nothing"); });
}

void test_keys() {
  const auto module = [](const std::string& key) {
    const auto place = parse_adapter_key(key);
    return !place ? std::string("?") : place->vision ? "vision" : place->prefix + "|" + place->module;
  };
  const std::string q = "layers.3.self_attn.q_proj";
  check(module("base_model.model.model." + q + ".lora_A.weight") == "model.|" + q, "the text class's keys");
  check(module("base_model.model.model.language_model." + q + ".lora_B.weight") == "model.language_model.|" + q,
        "the multimodal class's keys since transformers 4.52");
  check(module("base_model.model.language_model.model." + q + ".lora_magnitude_vector") == "language_model.model.|" + q,
        "the multimodal class's keys before");
  check(module("base_model.model.lm_head.weight") == "|lm_head" &&
            module("base_model.model.language_model.lm_head.lora_A.weight") == "|lm_head",
        "both keys of the head");
  check(module("base_model.model.model.embed_tokens.lora_embedding_A") == "model.|embed_tokens" &&
            module("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta") == "model.|embed_tokens",
        "keys of the embedding");
  check(module("base_model.model.model.vision_tower.x.lora_A.weight") == "vision" &&
            module("base_model.model.vision_tower.x.lora_A.weight") == "vision",
        "vision keys, old and new");
  check(module(q + ".lora_A.weight") == "?" && module("base_model.model.model." + q + ".lora_C") == "?" && module("") == "?",
        "other keys are unknown");
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
  check(Pattern("v_proj").matches_suffix("layers.5.self_attn.v_proj") && !Pattern("proj").matches_suffix("layers.5.v_proj"),
        "a suffix starts after a point");
  check(!matches("((a|[a-z])*)*\\.((k|v)_proj)+!", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.k_proj"),
        "nested repeats end at once");
  for (const char* expression : {"(?=a)", "(?<!a)b", "\\1", "\\bq", "a**", "(", ")", "[", "a{3,2}", "a{9999}", "((a{900}){900})", "a\\"}) {
    check_error(std::string("the expression ") + expression + " is refused", "ADAPTER_INVALID", "config: ", [&] { Pattern p(expression); });
  }
}

}  // namespace
}  // namespace lorikeet::testing

int main(int n_args, char** args) {
  using namespace lorikeet::testing;
  test_patterns();
  test_keys();
  const std::string goldens = goldens_directory(n_args, args);
  if (goldens.empty()) return finish();
  test_adapters(goldens);
  test_bad_adapters(goldens);
  return finish();
}
