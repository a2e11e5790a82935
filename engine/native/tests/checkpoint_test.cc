// Checkpoints of every source against each other and the reference data, and the NF4 cache after damage. Usage:
// checkpoint_test [GOLDENS_DIR]
#include <cmath>

#include "../core/checkpoint.h"
#include "../core/nf4.h"
#include "tiny_model.h"

namespace lorikeet::testing {
namespace {

bool same_matrix(const HostMatrix& a, const HostMatrix& b) {
  if (a.format != b.format || a.rows != b.rows || a.cols != b.cols) return false;
  const int64_t n = a.rows * a.cols, bytes = a.format == WeightFormat::kF32 ? 4 * n : a.format == WeightFormat::kBF16 ? 2 * n : n / 2;
  const bool scales = a.format != WeightFormat::kNF4 || std::memcmp(a.absmax, b.absmax, static_cast<size_t>(n / kNF4Block * 4)) == 0;
  return scales && std::memcmp(a.data, b.data, static_cast<size_t>(bytes)) == 0;
}

bool same_weights(Checkpoint& a, Checkpoint& b) {
  bool same = same_matrix(a.embedding(), b.embedding()) && same_matrix(a.head(), b.head()) && a.norm("norm") == b.norm("norm");
  for (int layer = 0; layer < a.config().n_layers; ++layer) {
    for (int m = 0; m < kModules; ++m)
      same = same && same_matrix(a.linear(layer, static_cast<Module>(m)), b.linear(layer, static_cast<Module>(m)));
    const std::string norm = "layers." + std::to_string(layer) + ".self_attn.k_norm";
    same = same && a.norm(norm) == b.norm(norm);
  }
  return same;
}

std::unique_ptr<Checkpoint> open(const std::string& path, WeightFormat weights, const std::string& cache = "", bool* quantised = nullptr) {
  LoadOptions options{weights, cache, {}};
  options.progress = [quantised](const char* phase, uint64_t, uint64_t) {
    if (quantised != nullptr && std::string_view(phase) == "quantising") *quantised = true;
  };
  return open_checkpoint(path, options);
}

void test_checkpoints(const std::string& goldens) {
  const auto bnb = open(goldens + "/gemma3-tiny-bnb4", WeightFormat::kNF4);
  const auto plain = open(goldens + "/gemma3-tiny", WeightFormat::kNF4);
  check(same_weights(*bnb, *plain), "bf16 weights quantise to what bitsandbytes stored");
  const auto full = open(goldens + "/gemma3-tiny", WeightFormat::kF32), half = open(goldens + "/gemma3-tiny", WeightFormat::kBF16);
  const HostMatrix f = full->linear(3, Module::up_proj), h = half->linear(3, Module::up_proj);
  std::vector<float> widened(static_cast<size_t>(h.rows * h.cols));
  to_float(FileDtype::kBF16, h.data, h.rows * h.cols, widened.data());
  check(std::memcmp(widened.data(), f.data, widened.size() * 4) == 0, "f32 weights are the bf16 ones widened");
  check(full->hash() == half->hash() && full->hash() != bnb->hash() && full->hash().size() == 64, "a hash names the content");
}

void test_cache(const std::string& goldens) {
  const Scratch scratch;
  const std::string cache = scratch / "cache", model = goldens + "/gemma3-tiny";
  const auto direct = open(model, WeightFormat::kNF4);
  const auto rebuilt = [&](const std::string& behaviour, bool expected) {
    bool quantised = false;
    const auto cached = open(model, WeightFormat::kNF4, cache, &quantised);
    check(quantised == expected && same_weights(*direct, *cached) && cached->hash() == direct->hash() &&
              cached->config().name == "gemma3-tiny",
          behaviour);
  };
  rebuilt("the first start makes the NF4 form", true);
  rebuilt("the second start maps it", false);
  const std::string entry = cache + "/" + direct->hash(), weights = entry + "/model.safetensors", manifest = entry + "/manifest.json";
  const std::string bytes = read_text(weights);
  write_text(weights, bytes.substr(0, bytes.size() - 1));
  rebuilt("a form cut short is made again", true);
  std::string flipped = bytes;
  flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 1);
  write_text(weights, flipped);
  rebuilt("a form with one flipped bit is made again", true);
  write_text(manifest, "{}");
  rebuilt("a form with another manifest is made again", true);
  std::filesystem::remove(entry + "/config.json");
  rebuilt("a form without config is made again", true);
  std::filesystem::create_directory(cache + "/x.tmp-2147483646");
  std::filesystem::remove(manifest);
  rebuilt("a form that was never finished is made again", true);
  check(!std::filesystem::exists(cache + "/x.tmp-2147483646"), "what a dead process left is swept");
  rebuilt("the form that was made again is mapped", false);
  write_text(scratch / "file", "");
  const auto uncached = open(model, WeightFormat::kNF4, scratch / "file/cache");
  check(same_weights(*direct, *uncached), "without a place for the cache the weights are quantised in memory");
}

void test_random() {
  const auto first = open("random:gemma-3-270m:7", WeightFormat::kNF4), second = open("random:gemma-3-270m:7", WeightFormat::kNF4);
  const auto other = open("random:gemma-3-270m:8", WeightFormat::kNF4);
  const HostMatrix a = first->linear(2, Module::down_proj), b = second->linear(2, Module::down_proj),
                   c = other->linear(2, Module::down_proj);
  check(same_matrix(a, b) && !same_matrix(a, c) && first->hash() != other->hash(), "a seed names one set of random weights");
  std::vector<float> values(static_cast<size_t>(a.rows * a.cols));
  nf4_dequantize(static_cast<const uint8_t*>(a.data), a.absmax, a.rows * a.cols, values.data());
  double squares = 0;
  for (const float v : values) squares += double{v} * v;
  check(std::fabs(std::sqrt(squares / static_cast<double>(values.size())) - 0.02) < 0.001,
        "random weights have the deviation of an untrained model");
}

}  // namespace
}  // namespace lorikeet::testing

int main(int n_args, char** args) {
  using namespace lorikeet::testing;
  test_random();
  const std::string goldens = goldens_directory(n_args, args);
  if (goldens.empty()) return finish();
  test_checkpoints(goldens);
  test_cache(goldens);
  return finish();
}
