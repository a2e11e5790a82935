// The names of tensors in PEFT files, in all spellings of both Gemma 3 model classes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lorikeet {

// What PEFT hangs on a module's name. kWeight: a full matrix; kBaseWeight: the base's own, saved beside LoRA on an embedding.
enum class Part : uint8_t { kA, kB, kMagnitude, kWeight, kBaseWeight, kTokenRows };

// What a key of the file stands for.
struct Place {
  std::string prefix;                      // of the model class: "model.", "model.language_model.", "language_model.model."
  std::string module;                      // "layers.0.self_attn.q_proj", "embed_tokens", "lm_head"
  Part part = Part::kA;
  bool vision = false;
};

// nullopt for a key that no PEFT file of a Gemma 3 holds.
std::optional<Place> parse_adapter_key(std::string_view key);

}  // namespace lorikeet
