// Adapters of random values in PEFT's format, on the linear layers of a model.
#pragma once
#include <cmath>
#include <random>

#include "../core/checkpoint.h"
#include "../core/safetensors.h"
#include "check.h"

namespace lorikeet::testing {

/// F32 tensors, uniform in [-amplitude, amplitude); alpha = rank. modules: a bit each. The folder must exist.
/// dora: magnitudes within a tenth of what rows of random weights have (standard deviation 0.02).
inline void write_random_adapter(const std::string& dir, const Gemma3Config& config, int rank, int seed, float amplitude = 0.02f,
                                 unsigned modules_with = ~0u, bool dora = false) {
  std::vector<NamedTensor> tensors;
  std::vector<std::vector<float>> values;
  std::mt19937 generator(static_cast<unsigned>(seed));
  std::string modules;
  const auto add = [&](const std::string& name, int64_t rows, int64_t cols) {
    std::vector<float>& v = values.emplace_back(size_t(rows * cols));
    for (float& x : v) x = (float(generator() >> 8) / (1 << 23) - 1) * amplitude;
    tensors.push_back({name, FileDtype::kF32, {rows, cols}, v.data()});
  };
  for (int m = 0; m < kModules; m++)
    if (modules_with >> m & 1) modules.append(modules.empty() ? "\"" : ", \"").append(module_name(Module(m))).append("\"");
  for (int layer = 0; layer < config.n_layers; layer++)
    for (int m = 0; m < kModules; m++) {
      if (!(modules_with >> m & 1)) continue;
      const std::string name = "base_model.model.model.layers." + std::to_string(layer) + "." + module_path(Module(m));
      add(name + ".lora_A.weight", rank, module_cols(config, Module(m)));
      add(name + ".lora_B.weight", module_rows(config, Module(m)), rank);
      if (!dora) continue;
      add(name + ".lora_magnitude_vector", module_rows(config, Module(m)), 1);
      tensors.back().shape = {module_rows(config, Module(m))};
      for (float& v : values.back()) v = 0.02f * std::sqrt(float(module_cols(config, Module(m)))) * (1 + v / amplitude / 10);
    }
  const std::string r = std::to_string(rank);
  write_text(dir + "/adapter_config.json",
             R"({"peft_type": "LORA", "r": )" + r + R"(, "lora_alpha": )" + r + R"(, "use_dora": )" +
                 (dora ? "true" : "false") + R"(, "target_modules": [)" + modules + "]}");
  write_safetensors(dir + "/adapter_model.safetensors", tensors);
}

}  // namespace lorikeet::testing
