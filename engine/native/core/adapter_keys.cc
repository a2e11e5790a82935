#include "adapter_keys.h"

#include <utility>

namespace lorikeet {
namespace {

bool take_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

bool take_suffix(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

// Cuts off the part that PEFT hangs on a module's name.
std::optional<Part> take_part(std::string_view& text) {
  constexpr std::pair<std::string_view, Part> kSuffixes[] = {
      {".lora_A.weight", Part::kA},
      {".lora_B.weight", Part::kB},
      {".lora_embedding_A", Part::kA},
      {".lora_embedding_B", Part::kB},
      {".lora_magnitude_vector", Part::kMagnitude},
      {".lora_magnitude_vector.weight", Part::kMagnitude},
      {".token_adapter.trainable_tokens_delta", Part::kTokenRows},
      {".base_layer.weight", Part::kBaseWeight},
      {".weight", Part::kWeight},
  };
  for (const auto& [suffix, part] : kSuffixes) {
    if (take_suffix(text, suffix)) return part;
  }
  return std::nullopt;
}

}  // namespace

std::optional<Place> parse_adapter_key(std::string_view key) {
  if (!take_prefix(key, "base_model.model.")) return std::nullopt;
  Place place;
  for (const std::string_view tower : {"model.vision_tower.", "vision_tower.", "model.multi_modal_projector.", "multi_modal_projector."}) {
    place.vision = place.vision || key.starts_with(tower);
  }
  const auto part = take_part(key);
  if (!part) return std::nullopt;
  place.part = *part;
  if (!place.vision && key != "lm_head" && key != "language_model.lm_head") {
    for (const std::string_view prefix : {"model.language_model.", "language_model.model.", "model."}) {
      if (!take_prefix(key, prefix)) continue;
      place.prefix = prefix;
      break;
    }
    if (place.prefix.empty()) return std::nullopt;
  }
  place.module = key == "language_model.lm_head" ? "lm_head" : std::string(key);
  return place;
}

}  // namespace lorikeet
