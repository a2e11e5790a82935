#include "adapter_config.h"

#include <algorithm>
#include <cmath>

#include "error.h"
#include "json.h"

namespace lorikeet {
namespace {

constexpr int64_t kMaxRank = 65536;        // beyond every real adapter: a typing error, not a limit of the server
constexpr size_t kMaxPatternKeys = 4096, kMaxNames = 4096;

// Fields that change the maths when they are set to anything but null, false, [] or {}.
constexpr std::pair<const char*, const char*> kChangesMaths[] = {
    {"alora_invocation_tokens", "activated LoRA"},
    {"layer_replication", "it changes the layers of the base"},
    {"lora_bias", "a bias on lora_B"},
    {"fan_in_fan_out", "transposed base weights"},
    {"target_parameters", "LoRA on bare parameters"},
    {"use_qalora", "QALoRA"},
    {"use_bdlora", "block-diagonal LoRA"},
    {"kasa_config", "KaSA"},
    {"arrow_config", "Arrow routing"},
    {"monteclora_config", "MonteCLoRA"},
};

// Initialisations that also change the base weights, so that the saved A and B only fit those.
constexpr const char* kChangesBase[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};

bool is_off(const Json& value) {
  return value.is_null() || (value.is_bool() && !value.as_bool("")) || ((value.is_array() || value.is_object()) && value.items().empty());
}

void check_supported(const Json& root) {
  const Json* type = root.find_set("peft_type");
  if (type == nullptr) refuse_adapter("config", "adapter_config.json has no peft_type");
  const std::string& name = type->as_string("peft_type");
  if (name != "LORA") refuse_adapter("unsupported", "peft_type is " + json_quote(name.substr(0, 40)) + ", only LORA is served");
  for (const auto& [field, what] : kChangesMaths) {
    const Json* value = root.find(field);
    if (value != nullptr && !is_off(*value)) refuse_adapter("unsupported", std::string(field) + " is set (" + what + ")");
  }
  const Json* bias = root.find_set("bias");
  if (bias != nullptr && bias->as_string("bias") != "none")
    refuse_adapter("unsupported", "bias is " + json_quote(bias->as_string("bias").substr(0, 40)) + ", only \"none\" is served");
  const Json* init = root.find_set("init_lora_weights");
  if (init == nullptr || !init->is_string()) return;
  for (const char* method : kChangesBase) {
    if (init->as_string("init_lora_weights").starts_with(method)) {
      refuse_adapter("unsupported", std::string("init_lora_weights is \"") + method +
                                        "\", which changes the base: save it with path_initial_model_for_weight_conversion");
    }
  }
}

bool get_flag(const Json& root, const char* key) {
  const Json* value = root.find_set(key);
  return value != nullptr && value->as_bool(key);
}

int parse_rank(const Json& value, const char* what) {
  const int64_t rank = value.as_int(what);
  if (rank < 1 || rank > kMaxRank)
    refuse_adapter("config", std::string(what) + " is " + std::to_string(rank) + ", expected 1 to " + std::to_string(kMaxRank));
  return static_cast<int>(rank);
}

std::vector<std::string> parse_names(const Json& value, const char* what) {
  std::vector<std::string> names;
  for (const Json& item : value.as_array(what)) names.push_back(item.as_string(what));
  if (names.size() > kMaxNames) refuse_adapter("config", std::string(what) + " has more than 4,096 entries");
  return names;
}

std::optional<ModuleSet> parse_set(const Json& root, const char* key) {
  const Json* value = root.find_set(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return ModuleSet(std::string_view(value->as_string(key)));
  return ModuleSet(parse_names(*value, key));
}

std::vector<int> parse_ids(const Json& value, const char* what) {
  std::vector<int> ids;
  const auto add = [&](const Json& item) {
    const int64_t id = item.as_int(what);
    if (id < 0 || id > INT32_MAX) refuse_adapter("config", std::string(what) + " holds " + std::to_string(id));
    ids.push_back(static_cast<int>(id));
  };
  if (value.is_array()) std::for_each(value.items().begin(), value.items().end(), add);
  else add(value);
  return ids;
}

void parse_token_ids(const Json& root, AdapterConfig& config) {
  constexpr const char* kKey = "trainable_token_indices";
  const Json* value = root.find_set(kKey);
  if (value == nullptr) return;
  if (!value->is_object()) {
    config.embed_token_ids = parse_ids(*value, kKey);
    return;
  }
  for (size_t i = 0; i < value->keys().size(); ++i) {
    const std::string& name = value->keys()[i];
    std::vector<int> ids = parse_ids(value->items()[i], kKey);
    if (names_module(name, "embed_tokens")) config.embed_token_ids = std::move(ids);
    else if (names_module(name, "lm_head")) config.head_token_ids = std::move(ids);
    else
      refuse_adapter("unsupported",
                     std::string(kKey) + " names " + json_quote(name.substr(0, 100)) + ", only embed_tokens and lm_head are served");
  }
}

void parse_patterns(const Json& root, const char* key, bool ranks, PatternTable& table) {
  const Json* value = root.find_set(key);
  if (value == nullptr) return;
  if (!value->is_object()) refuse_adapter("config", std::string(key) + " must be an object");
  if (value->keys().size() > kMaxPatternKeys) refuse_adapter("config", std::string(key) + " has more than 4,096 entries");
  for (size_t i = 0; i < value->keys().size(); ++i) {
    const Json& item = value->items()[i];
    table.add(value->keys()[i], ranks ? parse_rank(item, key) : item.as_double(key));
  }
}

void parse_layers(const Json& root, AdapterConfig& config) {
  const Json *layers = root.find_set("layers_to_transform"), *patterns = root.find_set("layers_pattern");
  if (layers != nullptr) config.layers = parse_ids(*layers, "layers_to_transform");
  if (patterns == nullptr) return;
  if (patterns->is_string()) config.layers_patterns = {patterns->as_string("layers_pattern")};
  else config.layers_patterns = parse_names(*patterns, "layers_pattern");
  std::erase(config.layers_patterns, "");
}

AdapterConfig parse_fields(const Json& root) {
  if (!root.is_object()) refuse_adapter("config", "adapter_config.json must hold an object");
  check_supported(root);
  AdapterConfig config;
  if (const Json* rank = root.find("r")) config.rank = parse_rank(*rank, "r");
  if (const Json* alpha = root.find("lora_alpha")) config.alpha = alpha->as_double("lora_alpha");
  parse_patterns(root, "rank_pattern", true, config.rank_pattern);
  parse_patterns(root, "alpha_pattern", false, config.alpha_pattern);
  config.use_rslora = get_flag(root, "use_rslora");
  config.use_dora = get_flag(root, "use_dora");
  config.ensure_weight_tying = get_flag(root, "ensure_weight_tying");
  const Json* targets = root.find_set("target_modules");
  config.all_linear = targets != nullptr && targets->is_string() && targets->as_string("target_modules") == "all-linear";
  if (!config.all_linear) config.targets = parse_set(root, "target_modules");
  config.excluded = parse_set(root, "exclude_modules");
  parse_layers(root, config);
  if (const Json* saved = root.find_set("modules_to_save")) config.saved_modules = parse_names(*saved, "modules_to_save");
  parse_token_ids(root, config);
  if (const Json* base = root.find_set("base_model_name_or_path")) config.base_model = base->as_string("base_model_name_or_path");
  return config;
}

}  // namespace

void refuse_adapter(const char* kind, const std::string& message) { throw Error("ADAPTER_INVALID", std::string(kind) + ": " + message); }

bool names_module(std::string_view module, std::string_view name) {
  return module == name || (module.size() > name.size() && module.ends_with(name) && module[module.size() - name.size() - 1] == '.');
}

bool ModuleSet::contains(std::string_view module) const {
  if (expression_) return expression_->matches(module);
  return std::any_of(names_.begin(), names_.end(), [&](const std::string& name) { return names_module(module, name); });
}

void PatternTable::add(const std::string& key, double value) {
  const bool plain = std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
  });
  entries_.push_back({key, plain ? std::nullopt : std::optional(Pattern(key)), value});
}

// A point of a plain key stands for any character, as in the expression that it is.
const double* PatternTable::find(std::string_view module) const {
  for (const Entry& entry : entries_) {
    if (entry.pattern) {
      if (entry.pattern->matches_suffix(module)) return &entry.value;
      continue;
    }
    const size_t n = entry.key.size();
    if (n > module.size() || (n < module.size() && module[module.size() - n - 1] != '.')) continue;
    const std::string_view tail = module.substr(module.size() - n);
    if (std::equal(tail.begin(), tail.end(), entry.key.begin(), [](char c, char k) { return k == '.' || k == c; })) return &entry.value;
  }
  return nullptr;
}

bool AdapterConfig::adapts(std::string_view module, int layer) const {
  if (excluded && excluded->contains(module)) return false;
  for (const std::string& saved : saved_modules) {
    if (names_module(module, saved)) return false;
  }
  if (all_linear) return layer >= 0;
  if (!targets || !targets->contains(module)) return false;
  if (!targets->is_list() || layers.empty()) return true;
  const bool pattern_fits =
      layers_patterns.empty() || std::find(layers_patterns.begin(), layers_patterns.end(), "layers") != layers_patterns.end();
  return layer >= 0 && pattern_fits && std::find(layers.begin(), layers.end(), layer) != layers.end();
}

int AdapterConfig::rank_of(std::string_view module) const {
  const double* value = rank_pattern.find(module);
  return value == nullptr ? rank : static_cast<int>(*value);
}

float AdapterConfig::scale_of(std::string_view module) const {
  const double* value = alpha_pattern.find(module);
  const double r = rank_of(module);
  return static_cast<float>((value == nullptr ? alpha : *value) / (use_rslora ? std::sqrt(r) : r));
}

AdapterConfig parse_adapter_config(std::string_view text) {
  Pattern::renew_budget();
  try {
    return parse_fields(Json::parse(text));
  } catch (const Error& error) {
    if (std::string_view(error.code()) == "ADAPTER_INVALID") throw;
    refuse_adapter("config", std::string("adapter_config.json: ") + error.what());
  }
}

}  // namespace lorikeet
