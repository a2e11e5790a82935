// Parts of training that need no model: names and layout of the adapter file, the 8-bit optimizer, memory by checkpointing policy.
#include <cmath>

#include "../core/nf4.h"
#include "../core/sha256.h"
#include "../core/tape.h"
#include "../core/trained_files.h"
#include "check.h"

namespace lorikeet::testing {
namespace {

TrainedConfig guide_config(bool saves_matrices) {
  TrainedConfig c;
  for (int m = 0; m < kModules; m++) c.modules.push_back(Module(m));
  c.saves_embedding = c.saves_head = saves_matrices;
  return c;
}

/// Files of the published guide's configuration, as PEFT lays them out: tensors, bytes of the whole file, SHA-256 of its header.
struct Layout {
  const char* model;
  bool saves_matrices;
  size_t n_tensors;
  uint64_t file_bytes;
  const char* header_hash;
};

void test_layout() {
  for (const Layout& l : {Layout{"gemma-3-270m", true, 254, 686309840, "17f1a2318352f9ce940be983869db1ec27dc464f2bc2d5e139d7253fd40e8155"},
                          Layout{"gemma-3-270m", false, 252, 15220968, "c7ae3ff4965cbf6da60ebc4d92b27f4876ef421422c32201270cf79717c55efb"},
                          Layout{"gemma-3-1b", true, 366, 1260191096, "85a221ac99ae193d26df5504356adef5b8bc9a83a8a5cd6cc3f3bf4c95574ef7"},
                          Layout{"gemma-3-1b", false, 364, 52231312, "0ed76bb8d9d5c4a477c00ee4be7d3017c44a44db61b1b8b259d2a7fc697e3137"},
                          Layout{"gemma-3-4b", true, 478, 2804290880, "cc8543cd49ed58505bc31818796ba4923c08d311946667a1f631396f7a804faa"},
                          Layout{"gemma-3-4b", false, 476, 119280712, "998683fd467e3ee001eea833b8a6f3cdb585d82a6c5ab3fba876965caf347c55"},
                          Layout{"gemma-3-12b", true, 674, 4289497552, "ec7db820c86e31bae0498ee1030502ad87ead68da51537aa61b985fba9c5be8f"},
                          Layout{"gemma-3-27b", true, 870, 6092717504, "4518a7d1a94d25568d5d57b2ae35f74e5d2ee81e00ad2f29344ffbfb2f06b0f1"}}) {
    Gemma3Config base = config_by_name(l.model);
    base.multimodal = base.hidden_size > 2000;  // published 4b and larger have a vision tower
    std::vector<NamedTensor> tensors = adapter_tensors(plan_parameters(guide_config(l.saves_matrices), base), DType::kBF16);
    const std::string head = plan_safetensors(tensors, {{"format", "pt"}});
    uint64_t bytes = head.size();
    for (const NamedTensor& t : tensors) bytes += uint64_t(t.shape[0] * t.shape[1] * dtype_bytes(t.dtype));
    const std::string name = std::string(l.model) + (l.saves_matrices ? ", guide" : ", LoRA alone");
    check(tensors.size() == l.n_tensors, name + ": number of tensors");
    check(bytes == l.file_bytes, name + ": bytes of the file, " + std::to_string(bytes));
    check(sha256_hex(head) == l.header_hash, name + ": hash of the header");
  }
}

void test_parameters() {
  Gemma3Config base = config_by_name("gemma-3-270m");
  TrainedConfig c = guide_config(false);
  c.use_dora = true;
  c.layers = {3, 17};
  c.token_ids = {105, 106};
  const std::vector<Parameter> parameters = plan_parameters(c, base);
  check(parameters.size() == 2 * kModules * 3 + 1, "two layers of A, B and magnitudes, and token rows");
  int64_t end = 0;
  bool apart = true;
  for (const Parameter& p : parameters) {
    apart = apart && p.begin >= end && p.begin % 256 == 0;
    end = p.begin + p.size;
  }
  check(apart && planned_size(parameters) >= end, "parameters lie apart, on blocks of 256");
  check_error("tokens beside saved matrices", "INVALID_REQUEST", "exclude", [&] {
    c.saves_head = true;
    check_trained_config(c, base);
  });
  base.tied = false;
  check_error("a head of its own", "UNSUPPORTED", "lm_head", [&] {
    c.token_ids.clear();
    check_trained_config(c, base);
  });
}

void test_dynamic_maps() {
  const auto hash = [](bool is_signed) {
    const auto& map = dynamic_quant_map(is_signed);
    return sha256_hex({reinterpret_cast<const char*>(map.data()), sizeof map});
  };
  check(hash(true) == "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c", "the signed dynamic map is bitsandbytes'");
  check(hash(false) == "305f002cc11278fb769d13b25b9fd0c7c83c8402c40a878fe086f4039fde6398", "the unsigned dynamic map is bitsandbytes'");
  for (bool is_signed : {false, true}) {
    const auto& map = dynamic_quant_map(is_signed);
    bool nearest = true;
    for (float x = is_signed ? -1.1f : 0.0f; x < 1.1f; x += 0.00137f) {
      const float chosen = std::fabs(x - map[nearest_code(map, x)]);
      for (float entry : map) nearest = nearest && chosen <= std::fabs(x - entry);
    }
    check(nearest, "a code is the nearest entry");
    bool lower = true;
    for (size_t i = 1; i < 256; i++) {
      const float middle = (map[i - 1] + map[i]) / 2;
      if (middle - map[i - 1] == map[i] - middle) lower = lower && nearest_code(map, middle) == i - 1;
    }
    check(lower, "of two that are equally near the lower one");
  }
}

/// One parameter of an AdamW with 32-bit moments, in double.
struct Exact {
  double p, m = 0, v = 0;
  void step(double g, const AdamW& o) {
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    p = p * (1 - o.lr * o.weight_decay) -
        o.lr * (m / (1 - std::pow(double(o.beta1), double(o.step)))) / (std::sqrt(v / (1 - std::pow(double(o.beta2), double(o.step)))) + o.eps);
  }
};

void test_8bit_parameters() {
  Parameter p;
  p.kind = ParameterKind::kB;
  p.size = 4096;
  check(has_8bit_moments(p, true) && !has_8bit_moments(p, false), "moments of 4,096 values are 8-bit where that is asked for");
  p.size = 4095;
  check(!has_8bit_moments(p, true), "fewer keep 32-bit moments");
  p.size = 1 << 20;
  p.kind = ParameterKind::kEmbedding;
  check(!has_8bit_moments(p, true), "and so does an embedding");
}

void test_adamw_8bit() {
  for (const int64_t n : {1, 31, 257, 4096}) {
    std::vector<float> p(n), g(n), absmax(2 * (n / 256 + 1));
    std::vector<uint8_t> codes(2 * n, 0);
    std::vector<Exact> exact(n);
    const EightBitMoment m{codes.data(), absmax.data()}, v{codes.data() + n, absmax.data() + n / 256 + 1};
    for (int64_t i = 0; i < n; i++) exact[i].p = p[i] = float(std::sin(double(i)));
    AdamW o{1e-2f, 0.9f, 0.999f, 1e-8f, 0.1f, 1, 0.5f};
    double moved = 0, apart = 0, first = 0;
    for (o.step = 1; o.step <= 10; o.step++) {
      for (int64_t i = 0; i < n; i++) {
        g[i] = float(std::cos(double(i * 7 + o.step)) + 0.5);
        exact[i].step(double(g[i]) * o.gradient_scale, o);
      }
      adamw_8bit(p.data(), g.data(), m, v, n, o);
      if (o.step > 1) continue;
      for (int64_t i = 0; i < n; i++) first = std::max(first, std::fabs(p[i] - exact[i].p));
    }
    for (int64_t i = 0; i < n; i++) {
      moved += std::pow(exact[i].p - std::sin(double(i)), 2);
      apart += std::pow(p[i] - exact[i].p, 2);
    }
    // The first step sees no stored moment. After ten, codes of 8 bits have cost a few per cent of the move.
    check(first < 1e-6, "the first 8-bit step is exact, n = " + std::to_string(n));
    check(std::sqrt(apart / moved) < 0.1, "ten 8-bit steps follow the exact ones, n = " + std::to_string(n) + ": " + std::to_string(std::sqrt(apart / moved)));
  }
}

/// Bytes from hexadecimal digits.
template <class T>
std::vector<T> from_hex(const std::string& text) {
  std::vector<T> values(text.size() / 2 / sizeof(T));
  auto* bytes = reinterpret_cast<uint8_t*>(values.data());
  for (size_t i = 0; i < values.size() * sizeof(T); i++) bytes[i] = uint8_t(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  return values;
}

/// test/fixtures/record-adamw-8bit.py says what was recorded.
void test_adamw_8bit_is_bitsandbytes() {
  std::ifstream file(LORIKEET_FIXTURES "/adamw-8bit.txt");
  std::string name, text;
  const auto next = [&](const char* expected) {
    file >> name >> text;
    if (name != expected) throw Error("INTERNAL", std::string("adamw-8bit.txt: no ") + expected);
    return text;
  };
  std::vector<float> p = from_hex<float>(next("p"));
  const int64_t n = int64_t(p.size()), n_blocks = (n + kStateBlock - 1) / kStateBlock;
  std::vector<float> absmax(2 * n_blocks);
  std::vector<uint8_t> codes(2 * n);
  const EightBitMoment m{codes.data(), absmax.data()}, v{codes.data() + n, absmax.data() + n_blocks};
  AdamW o{1e-2, 0.9, 0.999, 1e-8, 0.1, 0, 1.0};
  double apart = 0, scales_apart = 0;
  int n_steps = 0, n_codes = 0;
  for (; file.peek() != EOF && n_steps < 5; n_steps++) {
    const std::vector<float> g = from_hex<float>(next("g"));
    o.step++;
    adamw_8bit(p.data(), g.data(), m, v, n, o);
    const std::vector<float> their_p = from_hex<float>(next("p"));
    for (int64_t i = 0; i < n; i++) apart = std::max(apart, std::fabs(p[i] - double(their_p[i])) / (1 + std::fabs(their_p[i])));
    for (const auto& [moment, codes_name, scales_name] : {std::tuple(m, "m", "m_absmax"), std::tuple(v, "v", "v_absmax")}) {
      const auto their_codes = from_hex<uint8_t>(next(codes_name));
      const auto their_scales = from_hex<float>(next(scales_name));
      for (int64_t i = 0; i < n; i++) n_codes += moment.codes[i] != their_codes[i];
      for (int64_t b = 0; b < n_blocks; b++)
        scales_apart = std::max(scales_apart, std::fabs(moment.absmax[b] / double(their_scales[b]) - 1));
    }
  }
  check(n_steps == 5 && n == 300, "five steps of bitsandbytes over 300 values were read");
  check(apart < 2.5e-7, "8-bit AdamW moves parameters as bitsandbytes does: " + std::to_string(apart * 1e7) + "e-7");
  check(n_codes == 0, "its moments are bitsandbytes' codes: " + std::to_string(n_codes) + " of 3000 differ");
  check(scales_apart < 3e-7, "its scales are bitsandbytes': " + std::to_string(scales_apart * 1e7) + "e-7");
}

void test_tape() {
  const Gemma3Config c = config_by_name("gemma-3-270m");
  uint64_t bytes[3];
  for (int policy = 0; policy < 3; policy++) bytes[policy] = lay_out_tape(c, DType::kBF16, 16, Checkpointing(policy), 512, nullptr).bytes;
  check(bytes[0] > bytes[1] && bytes[1] > bytes[2], "every policy of checkpointing keeps less than the one before");
  check(bytes[0] < 512u << 20, "512 tokens of the 270m shape, everything kept: " + std::to_string(bytes[0] >> 20) + " MiB");
  check(bytes[2] < 96u << 20, "512 tokens of the 270m shape, the stream kept: " + std::to_string(bytes[2] >> 20) + " MiB");
}

}  // namespace
}  // namespace lorikeet::testing

int main() {
  using namespace lorikeet::testing;
  test_layout();
  test_parameters();
  test_dynamic_maps();
  test_8bit_parameters();
  test_adamw_8bit();
  test_adamw_8bit_is_bitsandbytes();
  test_tape();
  return finish();
}
