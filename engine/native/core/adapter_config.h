// adapter_config.json of PEFT 0.4 to 0.21, read and judged: which modules it adapts, at what rank and scale. No tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pattern.h"

namespace lorikeet {

// Throws ADAPTER_INVALID with "kind: message".
[[noreturn]] void refuse_adapter(const char* kind, const std::string& message);

// Whether PEFT takes `name` (of a list) for `module`: equal to it, or to what follows one of its points.
bool names_module(std::string_view module, std::string_view name);

// A set of module names as PEFT writes it: a list of names or suffixes, or one regular expression for whole names.
class ModuleSet {
 public:
  ModuleSet() = default;
  explicit ModuleSet(std::vector<std::string> names) : names_(std::move(names)) {}
  explicit ModuleSet(std::string_view expression) : expression_(Pattern(expression)) {}
  bool contains(std::string_view module) const;   // "model.layers.0.self_attn.q_proj"
  bool is_list() const { return !expression_; }
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::vector<std::string> names_;
  std::optional<Pattern> expression_;
};

// rank_pattern or alpha_pattern: the first key that matches a module wins.
class PatternTable {
 public:
  void add(const std::string& key, double value);
  const double* find(std::string_view module) const;

 private:
  struct Entry {
    std::string key;
    std::optional<Pattern> pattern;        // absent where the key is only letters, digits, _ and points
    double value;
  };
  std::vector<Entry> entries_;
};

struct AdapterConfig {
  int rank = 8;
  double alpha = 8;
  PatternTable rank_pattern, alpha_pattern;
  bool use_rslora = false;
  bool use_dora = false;
  bool all_linear = false;                 // target_modules: "all-linear"
  std::optional<ModuleSet> targets;        // absent: whatever the file holds
  std::optional<ModuleSet> excluded;
  std::vector<int> layers;                 // layers_to_transform; empty: all
  std::vector<std::string> layers_patterns;
  std::vector<std::string> saved_modules;  // modules_to_save
  std::vector<int> embed_token_ids, head_token_ids;   // trainable_token_indices
  bool ensure_weight_tying = false;
  std::string base_model;

  // Whether PEFT would put LoRA on this module; `layer` is -1 outside the layers.
  bool adapts(std::string_view module, int layer) const;
  int rank_of(std::string_view module) const;
  float scale_of(std::string_view module) const;
};

// Throws ADAPTER_INVALID "config: " or "unsupported: ".
AdapterConfig parse_adapter_config(std::string_view text);

}  // namespace lorikeet
