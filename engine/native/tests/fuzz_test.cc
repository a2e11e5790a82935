// Seeded mutations of small valid files. Whatever the bytes are, a reader answers or throws lorikeet::Error: nothing else, no
// crash, no sanitizer report. Usage: fuzz_test [ROUNDS [SEED]]
#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "../core/adapter_file.h"
#include "../core/checkpoint.h"
#include "../core/gguf_tokenizer.h"
#include "../core/json.h"
#include "../core/pattern.h"
#include "tiny_model.h"

namespace lorikeet::testing {
namespace {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t below(uint64_t n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (state_ >> 33) % n;
  }

 private:
  uint64_t state_;
};

// A few changes of the first `head` bytes (now and then of any): bits, bytes, words of interest, cuts, copies, doublings.
std::string mutate(std::string text, size_t head, Random& random) {
  static const std::string kWords[] = {"0", "-1", "1e999", "null", "[]", "{}", "\"", "18446744073709551615", "9223372036854775807",
                                       std::string(8, '\xff'), std::string(8, '\0'), std::string("\0\0\0\0\0\0\0\x80", 8), "\xc0\xaf"};
  for (uint64_t n = 1 + random.below(4); n > 0 && !text.empty(); --n) {
    const size_t at = random.below(random.below(8) == 0 ? text.size() : std::min(head, text.size()));
    switch (random.below(7)) {
      case 0: text[at] = static_cast<char>(text[at] ^ (1 << random.below(8))); break;
      case 1: text[at] = static_cast<char>(random.below(256)); break;
      case 2: text.replace(at, 1 + random.below(8), kWords[random.below(std::size(kWords))]); break;
      case 3: text.resize(at); break;
      case 4: text.insert(at, text.substr(random.below(text.size()), random.below(40))); break;
      case 5: text.erase(at, random.below(16)); break;
      default: {
        const std::string& word = kWords[9 + random.below(3)];
        text.replace(at, std::min(word.size(), text.size() - at), word);
      }
    }
  }
  return text;
}

struct Tally {
  int accepted = 0, refused = 0;
};

void attempt(Tally& tally, const std::string& what, const std::function<void()>& run) {
  try {
    run();
    ++tally.accepted;
  } catch (const Error&) {
    ++tally.refused;
  } catch (const std::exception& error) {
    check(false, what + " threw something else: " + error.what());
  }
}

void load_everything(const std::string& path) {
  const auto checkpoint = open_checkpoint(path, {WeightFormat::kNF4, "", {}});
  for (int m = 0; m < kModules; ++m) checkpoint->linear(0, static_cast<Module>(m));
  checkpoint->embedding();
  checkpoint->head();
  checkpoint->norm("norm");
}

void report(const char* what, const Tally& tally, int rounds) {
  std::printf("%s: %d accepted, %d refused\n", what, tally.accepted, tally.refused);
  check(tally.accepted + tally.refused == rounds, std::string(what) + ": every mutation is answered");
  check(tally.refused > rounds / 10, std::string(what) + ": the mutations do break files");
}

void fuzz_safetensors(int rounds, Random& random) {
  const Scratch dir;
  std::vector<TinyTensor> tensors = tiny_tensors();
  quantise_q_proj(tensors);
  write_tiny(dir, tiny_config().text(), tensors);
  const std::string file = read_text(dir / "model.safetensors");
  Tally tally;
  for (int i = 0; i < rounds; ++i) {
    write_text(dir / "model.safetensors", mutate(file, 3000, random));
    attempt(tally, "safetensors", [&] { load_everything(dir.path()); });
  }
  report("safetensors", tally, rounds);
}

void fuzz_config(int rounds, Random& random) {
  const std::string text =
      tiny_config()
          .set("rope_parameters",
               "{\"full_attention\": {\"rope_type\": \"linear\", \"factor\": 8.0}, \"sliding_attention\": {\"rope_theta\": 1e4}}")
          .set("layer_types", "[\"full_attention\"]")
          .set("eos_token_id", "[1, 2]")
          .text();
  Tally tally;
  for (int i = 0; i < rounds; ++i) {
    attempt(tally, "config", [&] { parse_config_json(mutate(text, text.size(), random)); });
  }
  report("config.json", tally, rounds);
}

void fuzz_gguf(int rounds, Random& random) {
  const Scratch dir;
  const std::string file = tiny_gguf().text();
  Tally models, tokenizers;
  for (int i = 0; i < rounds; ++i) {
    write_text(dir / "x.gguf", mutate(file, 2800, random));
    attempt(models, "GGUF", [&] { load_everything(dir / "x.gguf"); });
    attempt(tokenizers, "GGUF tokenizer", [&] {
      const auto tokenizer = GgufTokenizer::open(dir / "x.gguf");
      tokenizer->encode("ab <b> aba  \xE2\x96\x81\xff<eos>", i % 2 == 0);
      tokenizer->table();
    });
  }
  report("GGUF", models, rounds);
  report("GGUF tokenizer", tokenizers, rounds);
}

void fuzz_adapter(int rounds, Random& random) {
  const Scratch dir;
  const Gemma3Config base = parse_config_json(tiny_config().text());
  const std::string config = Fields{{"peft_type", "\"LORA\""}, {"r", "2"}, {"lora_alpha", "4"}, {"target_modules", "[\"q_proj\"]"},
      {"rank_pattern", "{\"layers\\\\.[01]\\\\.self_attn\\\\.(q|v)_proj\": 2}"}, {"alpha_pattern", "{\"q_proj\": 8}"},
      {"layers_to_transform", "[0]"}, {"trainable_token_indices", "[1, 2]"}, {"use_rslora", "true"}}.text();
  const std::string q = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
  std::vector<TinyTensor> tensors = {
      {q + "A.weight", FileDtype::kBF16, {2, 64}, noise(256, 1)},
      {q + "B.weight", FileDtype::kBF16, {64, 2}, noise(256, 2)},
      {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", FileDtype::kBF16, {2, 64}, noise(256, 3)}};
  write_tensors(dir / "adapter_model.safetensors", tensors);
  const std::string file = read_text(dir / "adapter_model.safetensors");
  Tally tally;
  for (int i = 0; i < rounds; ++i) {
    write_text(dir / "adapter_config.json", i % 2 == 0 ? config : mutate(config, config.size(), random));
    write_text(dir / "adapter_model.safetensors", i % 2 == 1 ? file : mutate(file, 800, random));
    attempt(tally, "adapter", [&] { read_adapter(dir.path(), base, 16); });
  }
  report("adapter", tally, rounds);
}

void fuzz_patterns(int rounds, Random& random) {
  Tally tally;
  for (int i = 0; i < rounds; ++i) {
    const std::string expression = mutate("((a|[b-d])*x{1,3})+\\.(?:q|v)_proj[^\\w.]?", 40, random);
    Pattern::renew_budget();
    attempt(tally, "pattern", [&] { Pattern(expression).matches_suffix("abcdxx.aaaaaaaaaaaaaaaaaaaaaaaaaaaa.q_proj"); });
  }
  report("pattern", tally, rounds);
}

}  // namespace
}  // namespace lorikeet::testing

int main(int n_args, char** args) {
  using namespace lorikeet::testing;
  const int rounds = n_args > 1 ? std::atoi(args[1]) : 3000;
  Random random(n_args > 2 ? std::strtoull(args[2], nullptr, 10) : 1);
  fuzz_safetensors(rounds, random);
  fuzz_config(4 * rounds, random);
  fuzz_gguf(rounds, random);
  fuzz_adapter(rounds, random);
  fuzz_patterns(4 * rounds, random);
  return finish();
}
