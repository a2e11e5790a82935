// What a Gemma 3 text model looks like: read from config.json, from GGUF metadata or by name, every value checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lorikeet {

struct Gemma3Config {
  std::string name;                        // of the directory, repository or file; "gemma-3-1b" for a shape without one
  int n_layers = 0;
  int hidden_size = 0;                     // a multiple of 64
  int intermediate_size = 0;               // a multiple of 64
  int n_heads = 0;
  int n_kv_heads = 0;                      // divides n_heads
  int head_dim = 0;                        // a multiple of 32, at most 512
  int vocab_size = 0;
  int sliding_window = 0;                  // keys a local layer sees, the query's own included
  int max_position = 0;
  float rms_norm_eps = 1e-6f;
  float query_pre_attn_scalar = 256;       // attention scale = query_pre_attn_scalar ^ -0.5
  float rope_theta_global = 1e6f;
  float rope_theta_local = 1e4f;
  float rope_scaling_factor = 1;           // global layers only: angle / factor
  std::vector<uint8_t> is_global;          // [n_layers] 1 = full attention, 0 = sliding window
  bool tied = true;                        // head = embedding
  std::vector<int> eos_ids;                // ids that end a turn, rising; at least one
  int bos_id = 2;
  int pad_id = 0;
  bool multimodal = false;                 // the checkpoint has a vision tower, which is read past

  int q_dim() const { return n_heads * head_dim; }
  int kv_dim() const { return n_kv_heads * head_dim; }
};

// The text of a config.json: published and transformers 5 spellings, nested text_config, defaults as transformers has them.
// Throws MODEL_INVALID for contradictions and absurd values, UNSUPPORTED (with the reason) for other models and maths.
Gemma3Config parse_config_json(std::string_view text);

// Replaces eos_ids and bos_id by those of a generation_config.json, where it names any.
void apply_generation_config(Gemma3Config& config, std::string_view text);

// "gemma-3-270m", "gemma-3-1b", "gemma-3-4b", "gemma-3-12b", "gemma-3-27b". Throws MODEL_NOT_FOUND.
Gemma3Config config_by_name(std::string_view name);

// Building blocks for the makers of a config: every `pattern`th layer is global; ids that end a turn (Gemma's own {1, 106} always
// among them); the published name of a shape, "" if none.
void set_sliding_pattern(Gemma3Config& config, int pattern);
void set_eos_ids(Gemma3Config& config, const std::vector<int>& ids);
std::string known_name(const Gemma3Config& config);

// Every range and relation that the engine relies on. Throws MODEL_INVALID. All makers of a config end with it.
void check_config(const Gemma3Config& config);

}  // namespace lorikeet
