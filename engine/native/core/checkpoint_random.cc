// A model of a published shape with random weights: for benchmarks and tests where no real weights are at hand.
#include <array>
#include <charconv>
#include <cmath>

#include "error.h"
#include "float_types.h"
#include "nf4.h"
#include "parallel.h"
#include "sha256.h"
#include "weight_source.h"

namespace lorikeet {
namespace {

constexpr int64_t kPiece = 1 << 20;
constexpr float kStd = 0.02f;              // of every matrix, as the published initialiser_range
constexpr float kCodeRms = 0.5172f;        // of the sixteen NF4 codes, all equally likely

// Word i of stream `key`: splitmix64 over a counter, so that any piece can be drawn by any thread.
uint64_t random_word(uint64_t key, uint64_t i) {
  uint64_t z = key + (i + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Value of the normal distribution below which a share p of it lies, by bisection of erfc.
double normal_quantile(double p) {
  double low = -8, high = 8;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(-middle / std::sqrt(2.0)) / 2 < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

// 4096 equally likely values of N(0, kStd), as bf16.
const std::array<uint16_t, 4096>& normal_table() {
  static const auto table = [] {
    std::array<uint16_t, 4096> values{};
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = f32_to_bf16(kStd * static_cast<float>(normal_quantile((static_cast<double>(i) + 0.5) / 4096)));
    }
    return values;
  }();
  return table;
}

class RandomSource final : public WeightSource {
 public:
  RandomSource(std::string_view name, uint64_t seed) : seed_(seed) {
    config_ = config_by_name(name);
    config_.name = "random-" + config_.name;
  }

  bool prequantised() const override { return true; }

  std::optional<HostMatrix> nf4(const std::string& name) const override {
    for (int m = 0; m < kModules; ++m) {
      const auto module = static_cast<Module>(m);
      if (name.ends_with(module_path(module))) return draw_nf4(key(name), module_rows(config_, module), module_cols(config_, module));
    }
    return std::nullopt;
  }

  std::optional<HostTensor> in_place(const std::string& name) const override {
    if (name != "embed_tokens" && name != "lm_head") return std::nullopt;
    const int64_t n = int64_t{config_.vocab_size} * config_.hidden_size;
    auto data = allocate_bytes(static_cast<uint64_t>(n) * 2);
    auto* out = reinterpret_cast<uint16_t*>(data.get());
    const uint64_t stream = key(name);
    const auto& table = normal_table();
    parallel_pieces(n, kPiece, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += 4) {
        const uint64_t word = random_word(stream, static_cast<uint64_t>(i / 4));
        for (int k = 0; k < 4; ++k) out[i + k] = table[word >> (16 * k) & 4095];
      }
    });
    return HostTensor{FileDtype::kBF16, {config_.vocab_size, config_.hidden_size}, data.get(), data};
  }

  void read(const std::string& name, int64_t begin, int64_t end, float* out) const override {
    if (const auto embedding = in_place(name)) {
      return to_float(FileDtype::kBF16, static_cast<const uint16_t*>(embedding->data) + begin, end - begin, out);
    }
    // A norm: w within 0.1 of zero, so that 1 + w is near one.
    for (int64_t i = begin; i < end; ++i) {
      out[i - begin] = static_cast<float>(random_word(key(name), static_cast<uint64_t>(i)) >> 40) * (0.2f / (1 << 24)) - 0.1f;
    }
  }

 private:
  uint64_t key(const std::string& name) const {
    const Sha256Digest digest = sha256(std::to_string(seed_) + ":" + name);
    uint64_t key = 0;
    for (int i = 0; i < 8; ++i) key = key << 8 | digest[static_cast<size_t>(i)];
    return key;
  }

  // Equally likely codes under an absmax of about kStd / kCodeRms: close to the NF4 form of N(0, kStd), without drawing that.
  static HostMatrix draw_nf4(uint64_t stream, int64_t rows, int64_t cols) {
    const int64_t n_bytes = rows * cols / 2, n_blocks = rows * cols / kNF4Block;
    auto data = allocate_bytes(static_cast<uint64_t>(n_bytes + n_blocks * 4));
    auto* words = reinterpret_cast<uint64_t*>(data.get());
    auto* absmax = reinterpret_cast<float*>(data.get() + n_bytes);
    parallel_pieces(n_bytes / 8, kPiece, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) words[i] = random_word(stream, static_cast<uint64_t>(i));
    });
    for (int64_t b = 0; b < n_blocks; ++b) {
      const float jitter = static_cast<float>(random_word(~stream, static_cast<uint64_t>(b)) >> 40) * (0.4f / (1 << 24));
      absmax[b] = kStd / kCodeRms * (0.8f + jitter);
    }
    return {WeightFormat::kNF4, rows, cols, data.get(), absmax, data};
  }

  uint64_t seed_;
};

}  // namespace

// "random:gemma-3-1b" or "random:gemma-3-1b:7".
std::unique_ptr<Checkpoint> open_random_checkpoint(const std::string& name, const LoadOptions& options) {
  std::string_view shape = std::string_view(name).substr(std::string_view("random:").size());
  uint64_t seed = 0;
  if (const size_t colon = shape.find(':'); colon != std::string_view::npos) {
    const std::string_view digits = shape.substr(colon + 1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), seed);
    if (error != std::errc{} || end != digits.data() + digits.size()) {
      throw Error("MODEL_NOT_FOUND", name + ": the seed must be an unsigned integer");
    }
    shape = shape.substr(0, colon);
  }
  auto source = std::make_unique<RandomSource>(shape, seed);
  std::string hash = sha256_hex("random:" + std::string(shape) + ":" + std::to_string(seed));
  std::string model = source->config().name;
  return source_checkpoint(std::move(source), std::move(model), std::move(hash), options.weights);
}

}  // namespace lorikeet
