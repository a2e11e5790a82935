// Microseconds of a choice over 262,144 scores and of the head before it, with the share of the memory's speed.
#include <chrono>
#include <cstdio>
#include <random>

#include "../core/backend.h"
#include "arguments.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kVocabulary = 262144;
constexpr int kOutputs = 64;

struct Bench {
  Backend& gpu;
  int64_t H;
  double peak;  // GB/s
  std::unique_ptr<Head> bf16_head, int8_head;
  Buffer values, hidden;

  Bench(Backend& gpu, int64_t H, double peak) : gpu(gpu), H(H), peak(peak) {
    std::mt19937 rng(1);
    std::normal_distribution<float> normal;
    std::vector<bf16> noise(1 << 20), rows(size_t(kVocabulary * H));
    for (bf16& v : noise) v = to_bf16(0.03f * normal(rng));
    for (size_t i = 0, at = 0; i < rows.size(); i += size_t(H), at = rng() % (noise.size() - size_t(H)))
      std::copy_n(noise.begin() + int64_t(at), H, rows.begin() + int64_t(i));
    const HostMatrix matrix{WeightFormat::kBF16, kVocabulary, H, rows.data(), nullptr, nullptr};
    bf16_head = gpu.make_head(matrix, HeadFormat::kBF16);
    int8_head = gpu.make_head(matrix, HeadFormat::kInt8);
    values = gpu.allocate(size_t(kOutputs * kVocabulary) * 4);
    hidden = gpu.allocate(size_t(kOutputs * H) * 2);
    std::vector<bf16> x(size_t(kOutputs * H));
    for (bf16& v : x) v = to_bf16(normal(rng) * 3);
    gpu.upload(hidden.data(), x.data(), x.size() * 2);
  }

  Scores scores(const Head& head, int n) {
    Scores s;
    s.values = {values.data(), DType::kF32, n, kVocabulary, kVocabulary};
    s.hidden = {hidden.data(), DType::kBF16, n, H, H};
    s.heads.assign(size_t(n), &head);
    s.edges.assign(size_t(n), nullptr);
    s.greedy.assign(size_t(n), true);
    return s;
  }

  /// Microseconds of one of `rounds` calls; the device is idle before and after.
  template <class F>
  double time(int rounds, F call) {
    float word;
    for (int i = 0; i < 3; i++) call();
    gpu.download(&word, values.data(), 4);
    const auto start = Clock::now();
    for (int i = 0; i < rounds; i++) call();
    gpu.download(&word, values.data(), 4);
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count() / rounds;
  }

  void head(const char* name, const Head& head, double bytes_of_weight, int n) {
    const double us = time(50, [&] { Scores s = scores(head, n); gpu.logits(s); });
    const double bytes = double(kVocabulary * H) * bytes_of_weight + double(n) * kVocabulary * 4, rate = bytes / us / 1e3;
    std::printf("head %s, %2d outputs: %8.1f us, %6.0f GB/s, %5.1f %% of %.0f\n", name, n, us, rate, 100 * rate / peak, peak);
  }

  void choose(const char* name, const Sampling& sampling, int n, int n_logprobs = -1) {
    SequenceTable table(n);
    std::vector<BatchRow> rows((size_t(n)));
    std::vector<BatchOutput> outputs((size_t(n)));
    for (int s = 0; s < n; s++) {
      table[s].sampling = sampling;
      table[s].sampling.seed = uint64_t(s);
      for (int i = 0; i < 200; i++) table[s].push(i * 1000 + s);
      rows[size_t(s)].slot = s;
      outputs[size_t(s)] = {s, s, -1, n_logprobs};
    }
    Scores s = scores(*bf16_head, n);
    gpu.logits(s);
    const double us = time(100, [&] {
      s.ticket = 0;  // finished scores
      gpu.sample(s, outputs, table, rows);
    });
    std::printf("sample %-34s %2d outputs: %7.1f us (with upload, wait and answer)\n", name, n, us);
  }

  void greedy_step(const char* name, const Head& head, int n) {
    SequenceTable table(n);
    std::vector<BatchRow> rows((size_t(n)));
    std::vector<BatchOutput> outputs((size_t(n)));
    for (int s = 0; s < n; s++) rows[size_t(s)].slot = s, outputs[size_t(s)] = {s, s, -1, -1};
    const double us = time(50, [&] {
      Scores s = scores(head, n);
      gpu.logits(s);
      gpu.sample(s, outputs, table, rows);
    });
    std::printf("head and greedy choice %s, %2d outputs: %8.1f us\n", name, n, us);
  }
};

}  // namespace

int main(int n_args, char** args) {
  try {
    const Arguments arguments(n_args, args, {{"path", ""}, {"hidden", "1152"}, {"peak", "3000"}});
    if (cuda_devices().empty()) {
      std::printf("skipped: %s\n", cuda_built() ? "no GPU here" : "built without CUDA");
      return 0;
    }
    const auto gpu = make_cuda_backend(0);
    Bench bench(*gpu, arguments.number("hidden"), arguments.real("peak"));
    float word;
    std::printf("%s; an empty round trip: %.1f us\n", gpu->name().c_str(), bench.time(200, [&] { gpu->download(&word, bench.values.data(), 4); }));
    for (const int n : {1, 8, 16, 32, 64}) bench.head("bf16", *bench.bf16_head, 2, n);
    for (const int n : {1, 8, 16, 32, 64}) bench.head("int8", *bench.int8_head, n > 32 ? 2 : 1, n);
    for (const int n : {1, 8, 32}) {
      bench.greedy_step("bf16", *bench.bf16_head, n);
      bench.greedy_step("int8", *bench.int8_head, n);
    }
    for (const int n : {1, 8, 64}) {
      bench.choose("greedy", {}, n);
      bench.choose("temperature", {.temperature = 1}, n);
      bench.choose("top_k 64, top_p 0.95", {.temperature = 1, .top_k = 64, .top_p = 0.95f}, n);
      bench.choose("top_p 0.95", {.temperature = 1, .top_p = 0.95f}, n);
      bench.choose("top_p 0.95, hot (a wide nucleus)", {.temperature = 4, .top_p = 0.95f}, n);
      bench.choose("top_k 64, top_p, penalties", {.temperature = 1, .top_k = 64, .top_p = 0.95f, .repetition_penalty = 1.1f}, n);
      bench.choose("top_k 64, top_p, 20 alternatives", {.temperature = 1, .top_k = 64, .top_p = 0.95f}, n, 20);
    }
  } catch (const Error& e) {
    std::printf("%s: %s\n", e.code(), e.what());
    return 1;
  }
}
