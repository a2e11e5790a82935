#include "config.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <set>

#include "error.h"
#include "json.h"

namespace lorikeet {
namespace {

struct KnownModel {
  const char* name;
  int n_layers, hidden_size, intermediate_size, n_heads, n_kv_heads, head_dim, vocab_size, sliding_window, max_position;
  float query_pre_attn_scalar, rope_scaling_factor;
};

// reference: config.json of the published checkpoints.
constexpr KnownModel kKnownModels[] = {
    {"gemma-3-270m", 18, 640, 2048, 4, 1, 256, 262144, 512, 32768, 256, 1},
    {"gemma-3-1b", 26, 1152, 6912, 4, 1, 256, 262144, 512, 32768, 256, 1},
    {"gemma-3-4b", 34, 2560, 10240, 8, 4, 256, 262208, 1024, 131072, 256, 8},
    {"gemma-3-12b", 48, 3840, 15360, 16, 8, 256, 262208, 1024, 131072, 256, 8},
    {"gemma-3-27b", 62, 5376, 21504, 32, 16, 128, 262208, 1024, 131072, 168, 8},
};

constexpr int kEndOfSequence = 1, kEndOfTurn = 106;
constexpr int kDefaultPattern = 6;         // every sixth layer is global

[[noreturn]] void invalid(const std::string& message) { throw Error("MODEL_INVALID", message); }
[[noreturn]] void unsupported(const std::string& message) { throw Error("UNSUPPORTED", message); }

int get_int(const Json& config, const char* key, int fallback) {
  const Json* value = config.find_set(key);
  if (value == nullptr) return fallback;
  const int64_t n = value->as_int(key);
  if (n < 0 || n > INT32_MAX) invalid(std::string(key) + " is " + std::to_string(n) + ", which no model has");
  return static_cast<int>(n);
}

float get_float(const Json& config, const char* key, float fallback) {
  const Json* value = config.find_set(key);
  return value == nullptr ? fallback : static_cast<float>(value->as_double(key));
}

bool get_bool(const Json& config, const char* key, bool fallback) {
  const Json* value = config.find_set(key);
  return value == nullptr ? fallback : value->as_bool(key);
}

std::string get_string(const Json& config, const char* key) {
  const Json* value = config.find_set(key);
  return value == nullptr ? "" : value->as_string(key);
}

void refuse_other_maths(const Json& text) {
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    if (text.find_set(key) != nullptr) unsupported(std::string(key) + " is set: Gemma 3 has no soft caps (Gemma 2 has)");
  }
  if (get_bool(text, "attention_bias", false)) unsupported("attention_bias is true: Gemma 3 projections have no bias");
  const Json* both = text.find_set("use_bidirectional_attention");
  if (both != nullptr && !(both->is_bool() && !both->as_bool("use_bidirectional_attention"))) {
    unsupported("use_bidirectional_attention is set: this engine generates text, it has no encoder attention");
  }
  for (const char* key : {"hidden_activation", "hidden_act"}) {
    const std::string activation = get_string(text, key);
    if (!activation.empty() && activation != "gelu_pytorch_tanh") {
      unsupported(std::string(key) + " is " + json_quote(activation) + ", only gelu_pytorch_tanh is Gemma 3's");
    }
  }
}

// One entry of rope_parameters, or rope_scaling: theta and linear factor, if it names them.
void parse_rope(const Json& rope, const char* what, float& theta, float& factor) {
  if (!rope.is_object()) invalid(std::string(what) + " must be an object");
  std::string type = get_string(rope, "rope_type");
  if (type.empty()) type = get_string(rope, "type");
  if (!type.empty() && type != "default" && type != "linear") {
    unsupported(std::string(what) + " has rope_type " + json_quote(type) + ", only default and linear are known");
  }
  theta = get_float(rope, "rope_theta", theta);
  if (type == "linear") factor = get_float(rope, "factor", 1);
}

void parse_ropes(const Json& text, Gemma3Config& config) {
  config.rope_theta_global = get_float(text, "rope_theta", 1e6f);
  config.rope_theta_local = get_float(text, "rope_local_base_freq", 1e4f);
  if (const Json* scaling = text.find_set("rope_scaling")) {
    parse_rope(*scaling, "rope_scaling", config.rope_theta_global, config.rope_scaling_factor);
  }
  const Json* ropes = text.find_set("rope_parameters");
  if (ropes == nullptr) return;
  const Json *global = ropes->find_set("full_attention"), *local = ropes->find_set("sliding_attention");
  if (global == nullptr && local == nullptr)
    return parse_rope(*ropes, "rope_parameters", config.rope_theta_global, config.rope_scaling_factor);
  float local_factor = 1;
  if (global != nullptr) parse_rope(*global, "rope_parameters.full_attention", config.rope_theta_global, config.rope_scaling_factor);
  if (local != nullptr) parse_rope(*local, "rope_parameters.sliding_attention", config.rope_theta_local, local_factor);
  if (local_factor != 1) unsupported("rope_parameters.sliding_attention is scaled: Gemma 3 scales global layers only");
}

void parse_layer_types(const Json& text, Gemma3Config& config) {
  const int pattern = get_int(text, "_sliding_window_pattern", get_int(text, "sliding_window_pattern", kDefaultPattern));
  const Json* types = text.find_set("layer_types");
  if (types == nullptr) return set_sliding_pattern(config, pattern);
  if (types->as_array("layer_types").size() != static_cast<size_t>(config.n_layers)) {
    invalid("layer_types has " + std::to_string(types->items().size()) + " entries for " + std::to_string(config.n_layers) + " layers");
  }
  config.is_global.clear();
  for (const Json& type : types->items()) {
    const std::string& name = type.as_string("an entry of layer_types");
    if (name != "full_attention" && name != "sliding_attention") unsupported("layer_types names " + json_quote(name));
    config.is_global.push_back(name == "full_attention");
  }
}

std::vector<int> parse_eos(const Json& value) {
  std::vector<int> ids;
  const auto add = [&](const Json& id) {
    const int64_t n = id.as_int("eos_token_id");
    if (n < 0 || n > INT32_MAX) invalid("eos_token_id is " + std::to_string(n));
    ids.push_back(static_cast<int>(n));
  };
  if (value.is_array()) std::for_each(value.items().begin(), value.items().end(), add);
  else add(value);
  return ids;
}

// The object that holds the text model's fields.
const Json& text_config_of(const Json& root) {
  const std::string type = get_string(root, "model_type");
  if (type.empty()) invalid("config.json has no model_type");
  if (type != "gemma3" && type != "gemma3_text") {
    unsupported("model_type " + json_quote(type) + " is not Gemma 3: this engine runs gemma3 and gemma3_text");
  }
  const Json* nested = root.find_set("text_config");
  if (nested == nullptr) {
    if (type == "gemma3" && root.find("hidden_size") == nullptr) invalid("config.json of a gemma3 model has no text_config");
    return root;
  }
  if (!nested->is_object()) invalid("text_config must be an object");
  const std::string inner = get_string(*nested, "model_type");
  if (!inner.empty() && inner != "gemma3_text") unsupported("text_config.model_type " + json_quote(inner) + " is not gemma3_text");
  return *nested;
}

Gemma3Config parse_fields(const Json& root) {
  if (!root.is_object()) invalid("config.json must hold an object");
  const Json& text = text_config_of(root);
  refuse_other_maths(text);
  // Defaults: transformers' Gemma3TextConfig; nested configs leave out what equals them.
  Gemma3Config config;
  config.multimodal = root.find_set("vision_config") != nullptr;
  config.vocab_size = get_int(text, "vocab_size", 262208);
  config.hidden_size = get_int(text, "hidden_size", 2304);
  config.intermediate_size = get_int(text, "intermediate_size", 9216);
  config.n_layers = get_int(text, "num_hidden_layers", 26);
  config.n_heads = get_int(text, "num_attention_heads", 8);
  config.n_kv_heads = get_int(text, "num_key_value_heads", 4);
  config.head_dim = get_int(text, "head_dim", 256);
  config.max_position = get_int(text, "max_position_embeddings", 131072);
  config.sliding_window = get_int(text, "sliding_window", 4096);
  config.rms_norm_eps = get_float(text, "rms_norm_eps", 1e-6f);
  config.query_pre_attn_scalar = get_float(text, "query_pre_attn_scalar", 256);
  config.bos_id = get_int(text, "bos_token_id", 2);
  config.pad_id = get_int(text, "pad_token_id", 0);
  config.tied = get_bool(root, "tie_word_embeddings", get_bool(text, "tie_word_embeddings", true));
  if (config.n_layers < 1 || config.n_layers > 1024)
    invalid("num_hidden_layers is " + std::to_string(config.n_layers) + ", expected 1 to 1024");
  parse_layer_types(text, config);
  parse_ropes(text, config);
  const Json* eos = root.find_set("eos_token_id");
  if (eos == nullptr) eos = text.find_set("eos_token_id");
  set_eos_ids(config, eos == nullptr ? std::vector<int>{} : parse_eos(*eos));
  return config;
}

void check_range(const char* name, int value, int least, int most, int multiple = 1) {
  if (value >= least && value <= most && value % multiple == 0) return;
  const std::string step = multiple == 1 ? "" : ", a multiple of " + std::to_string(multiple);
  invalid(std::string(name) + " is " + std::to_string(value) + ", expected " + std::to_string(least) + " to " + std::to_string(most) +
          step);
}

void check_positive(const char* name, float value, float most) {
  if (!(value > 0 && value <= most))
    invalid(std::string(name) + " is " + std::to_string(value) + ", expected above 0 and at most " + std::to_string(most));
}

// Broken JSON in a config is a broken model file; a value of the wrong type makes the model invalid.
Json parse_object(std::string_view text, const char* file) try {
  return Json::parse(text);
} catch (const Error& error) {
  throw Error(error.code(), std::string(file) + ": " + error.what());
}

}  // namespace

void set_sliding_pattern(Gemma3Config& config, int pattern) {
  config.is_global.assign(static_cast<size_t>(config.n_layers), 0);
  if (pattern < 1) invalid("sliding_window_pattern must be at least 1");
  for (int i = 0; i < config.n_layers; ++i) config.is_global[static_cast<size_t>(i)] = (i + 1) % pattern == 0;
}

// Gemma ends a turn with either; some configs name only one of them.
void set_eos_ids(Gemma3Config& config, const std::vector<int>& ids) {
  std::set<int> all(ids.begin(), ids.end());
  for (const int id : {kEndOfSequence, kEndOfTurn}) {
    if (id < config.vocab_size) all.insert(id);
  }
  config.eos_ids.assign(all.begin(), all.end());
}

std::string known_name(const Gemma3Config& config) {
  for (const KnownModel& k : kKnownModels) {
    if (config.n_layers == k.n_layers && config.hidden_size == k.hidden_size) return k.name;
  }
  return "";
}

void check_config(const Gemma3Config& c) {
  check_range("num_hidden_layers", c.n_layers, 1, 1024);
  check_range("hidden_size", c.hidden_size, 64, 1 << 16, 64);
  check_range("intermediate_size", c.intermediate_size, 64, 1 << 18, 64);
  check_range("num_attention_heads", c.n_heads, 1, 512);
  check_range("num_key_value_heads", c.n_kv_heads, 1, c.n_heads);
  check_range("head_dim", c.head_dim, 32, 512, 32);
  check_range("vocab_size", c.vocab_size, 2, 1 << 22);
  check_range("sliding_window", c.sliding_window, 1, 1 << 24);
  check_range("max_position_embeddings", c.max_position, 1, 1 << 24);
  check_range("bos_token_id", c.bos_id, 0, c.vocab_size - 1);
  if (c.n_heads % c.n_kv_heads != 0) {
    invalid(std::to_string(c.n_heads) + " attention heads cannot share " + std::to_string(c.n_kv_heads) + " key-value heads evenly");
  }
  // The CPU's attention keeps the queries of one key-value head on the stack.
  if (c.n_heads / c.n_kv_heads > 64) {
    invalid(std::to_string(c.n_heads / c.n_kv_heads) + " attention heads to a key-value head, at most 64 are served");
  }
  check_range("num_attention_heads * head_dim", c.q_dim(), 64, 1 << 17, 64);
  check_positive("rms_norm_eps", c.rms_norm_eps, 0.1f);
  check_positive("query_pre_attn_scalar", c.query_pre_attn_scalar, 1e6f);
  check_positive("rope_theta", c.rope_theta_global, 1e12f);
  check_positive("rope_local_base_freq", c.rope_theta_local, 1e12f);
  check_positive("rope factor", c.rope_scaling_factor, 1e4f);
  if (c.is_global.size() != static_cast<size_t>(c.n_layers)) invalid("layer types for another number of layers");
  if (c.eos_ids.empty()) invalid("no eos_token_id");
  for (const int id : c.eos_ids) check_range("eos_token_id", id, 0, c.vocab_size - 1);
}

Gemma3Config parse_config_json(std::string_view text) {
  const Json root = parse_object(text, "config.json");
  try {
    Gemma3Config config = parse_fields(root);
    check_config(config);
    config.name = known_name(config);
    return config;
  } catch (const Error& error) {
    const bool wrong_type = std::string_view(error.code()) == "FILE_INVALID";
    throw Error(wrong_type ? "MODEL_INVALID" : error.code(), std::string("config.json: ") + error.what());
  }
}

void apply_generation_config(Gemma3Config& config, std::string_view text) {
  const Json root = parse_object(text, "generation_config.json");
  try {
    if (!root.is_object()) invalid("must hold an object");
    if (const Json* eos = root.find_set("eos_token_id")) set_eos_ids(config, parse_eos(*eos));
    config.bos_id = get_int(root, "bos_token_id", config.bos_id);
    check_config(config);
  } catch (const Error& error) {
    throw Error("MODEL_INVALID", std::string("generation_config.json: ") + error.what());
  }
}

Gemma3Config config_by_name(std::string_view name) {
  for (const KnownModel& k : kKnownModels) {
    if (name != k.name) continue;
    Gemma3Config c;
    c.name = k.name;
    c.n_layers = k.n_layers;
    c.hidden_size = k.hidden_size;
    c.intermediate_size = k.intermediate_size;
    c.n_heads = k.n_heads;
    c.n_kv_heads = k.n_kv_heads;
    c.head_dim = k.head_dim;
    c.vocab_size = k.vocab_size;
    c.sliding_window = k.sliding_window;
    c.max_position = k.max_position;
    c.query_pre_attn_scalar = k.query_pre_attn_scalar;
    c.rope_scaling_factor = k.rope_scaling_factor;
    set_sliding_pattern(c, kDefaultPattern);
    set_eos_ids(c, {});
    check_config(c);
    return c;
  }
  throw Error("MODEL_NOT_FOUND", "no model shape is called " + json_quote(name) + ": gemma-3-270m, -1b, -4b, -12b and -27b are known");
}

}  // namespace lorikeet
