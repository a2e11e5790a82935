// Every operation of a Gemma 3 shape on CUDA: microseconds, GB/s, TFLOP/s and the share of the limit, which is the larger of the bytes over
// the card's copy rate and the operations over cuBLASLt's best, both measured first. Operands lie in DRAM, not in the second-level cache.
// Moving adapters is cuda_adapter_bench's.
// Usage: cuda_bench [--model gemma-3-1b] [--only linear,lora,attention,elementwise,head,sample,step]
#include <cstdio>

#include "arguments.h"
#include "../core/backend.h"
#include "../core/config.h"
#if defined(LORIKEET_CUDA_BUILT)
#include "cuda_timing.h"
#include "step_plan.h"
#include "../cuda/kv_pool.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

constexpr float kEps = 1e-6f;

std::string named(const char* what, int64_t tokens) { return std::string(what) + ", " + std::to_string(tokens) + " tokens"; }

HostTensor as_host(const std::vector<bf16>& values, int64_t rows, int64_t cols) {
  return {FileDtype::kBF16, {rows, cols}, values.data(), nullptr};
}

/// Rows of equal length, each at the same position, whose blocks lie anywhere.
struct Step {
  Batch batch;
  std::vector<int32_t> table;

  Step(int n_rows, int position, int length, int n_vocabulary) {
    const int per_row = (position + length + kBlockTokens - 1) / kBlockTokens;
    table.resize(size_t(n_rows * per_row));
    for (size_t i = 0; i < table.size(); i++) table[i] = int32_t(i);
    std::shuffle(table.begin(), table.end(), std::mt19937(3));
    for (int r = 0; r < n_rows; r++) {
      BatchRow row;
      row.begin = r * length;
      row.end = row.begin + length;
      row.position = position;
      row.global_blocks = row.sliding_blocks = table.data() + r * per_row;
      row.n_global = row.n_sliding = per_row;
      batch.rows.push_back(row);
      for (int t = 0; t < length; t++) {
        batch.token_ids.push_back(int32_t(int64_t(row.begin + t) * 7919 % n_vocabulary));
        batch.positions.push_back(position + t);
      }
    }
  }
};

class Bench {
 public:
  Bench(Backend& gpu, Gemma3Config config) : gpu_(gpu), c_(std::move(config)), timer_(gpu), ceilings_(gpu, timer_) {
    std::printf("copy %.2f TB/s, cuBLASLt bf16 %.0f TFLOP/s\n", ceilings_.bytes / 1e12, ceilings_.flops / 1e12);
  }

  void linear() {
    for (const Site& site : sites())
      for (int64_t T : {1, 8, 64, 2048}) measure_linear(site, T, 0);
  }

  /// r=16, every token on an adapter of its own, but of 2,048 all on one.
  void lora() {
    for (const Site& site : sites())
      for (int64_t T : {1, 8, 64, 2048}) measure_linear(site, T, 16);
  }

  void attention() {
    for (int window : {c_.sliding_window, 0}) {
      for (int rows : {1, 8, 64})
        for (int context : {512, 2048, 8192}) measure_attention(rows, context - 1, 1, window);
      for (const auto& [rows, length] : {std::pair{1, 512}, {1, 2048}, {4, 2048}, {1, 8192}}) measure_attention(rows, 0, length, window);
    }
  }

  void elementwise() {
    for (int T : {64, 2048}) measure_elementwise(T);
  }

  void head() {
    make_heads();
    for (const Head* head : {bf16_head_.get(), int8_head_.get()})
      for (int n : {1, 8, 64}) {
        const bool reads_int8 = head == int8_head_.get() && n <= 32;
        const double bytes = double(head->rows) * (double(head->cols) * (reads_int8 ? 1 : 2) + (reads_int8 ? 8 : 0) + 4.0 * n);
        const double us = timer_.device(1, [&](int) {
          Scores s = scores(*head, n);
          gpu_.logits(s);
        });
        row(std::string(head == bf16_head_.get() ? "head bf16, " : "head int8, ") + std::to_string(n) + " outputs", us, bytes,
            2.0 * n * double(head->rows) * double(head->cols));
      }
  }

  /// With the wait and the answer, as a step has them.
  void sample() {
    make_heads();
    const std::vector<std::pair<const char*, Sampling>> kinds = {
        {"greedy", {}},
        {"temperature", {.temperature = 1}},
        {"top_k 64, top_p 0.95", {.temperature = 1, .top_k = 64, .top_p = 0.95f}},
        {"top_p 0.95", {.temperature = 1, .top_p = 0.95f}},
        {"top_p 0.95, a wide nucleus", {.temperature = 4, .top_p = 0.95f}},
        {"top_k 64, top_p, penalties", {.temperature = 1, .top_k = 64, .top_p = 0.95f, .repetition_penalty = 1.1f}}};
    for (int n : {1, 8, 64}) {
      for (const auto& [name, sampling] : kinds) measure_sample(name, sampling, n, -1);
      measure_sample("top_k 64, 20 alternatives", kinds[2].second, n, 20);
    }
    for (const Head* head : {bf16_head_.get(), int8_head_.get()})
      for (int n : {1, 8}) {
        std::vector<BatchRow> rows;
        std::vector<BatchOutput> outputs;
        SequenceTable table = sequences({}, n, -1, rows, outputs);
        const double us = timer_.host(30, [&] {
          Scores s = scores(*head, n);
          gpu_.logits(s);
          gpu_.sample(s, outputs, table, rows);
        });
        host_row(std::string("head ") + (head == bf16_head_.get() ? "bf16" : "int8") + " and greedy choice, " + std::to_string(n), us);
      }
  }

  /// Whole steps of decode as the engine runs them, against what they must read: weights and head once, keys and values.
  void step() {
    constexpr int kPrompt = 128, kSteps = 64;
    ModelOptions options{.path = "random:" + c_.name, .device = "cuda", .head = "bf16"};
    options.max_batch_tokens = 64 * kPrompt;
    constexpr int kBlocks = (kPrompt + kSteps) / kBlockTokens + 1;
    options.kv_cache_bytes = uint64_t(2 * 64) * kBlocks * kBlockTokens * c_.kv_dim() * 4 * c_.n_layers;  // sliding layers get half of it
    const auto model = Model::load(options, {});
    double n_weights = 0;
    for (const Site& site : sites()) n_weights += double(site.n_out() * site.n_in) * c_.n_layers;
    const double n_head = double(c_.vocab_size) * c_.hidden_size;
    for (int n : {1, 8, 64}) {
      std::vector<double> us;
      for (int step = 0; step <= kSteps; step++) {
        StepPlanner planner(kBlocks);
        for (int s = 0; s < n; s++) {
          if (step == 0) planner.start(s, -1);
          if (step == 0)
            planner.add(s, some_prompt(kPrompt, c_.vocab_size, s), 0);
          else
            planner.add(s, {-1}, kPrompt + step - 1);
        }
        model->check(planner.plan());
        const auto start = std::chrono::steady_clock::now();
        model->step(planner.plan());
        us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
      }
      std::nth_element(us.begin(), us.begin() + kSteps / 2, us.end());
      const double kv = double(n) * (kPrompt + kSteps / 2) * c_.kv_dim() * 4 * c_.n_layers;
      row("decode step, " + std::to_string(n) + " sequences", us[kSteps / 2], n_weights * (0.5 + 4.0 / 64) + n_head * 2 + kv,
          2.0 * n * (n_weights + n_head));
    }
  }

 private:
  /// A fused matrix of a layer.
  struct Site {
    const char* name;
    std::vector<int64_t> parts;  // outputs of its modules
    int64_t n_in;
    bool projected;  // the output's dtype
    int64_t n_out() const {
      int64_t n = 0;
      for (int64_t part : parts) n += part;
      return n;
    }
  };
  std::vector<Site> sites() const {
    return {{"qkv", {c_.q_dim(), c_.kv_dim(), c_.kv_dim()}, c_.hidden_size, true},
            {"o", {c_.hidden_size}, c_.q_dim(), false},
            {"gate_up", {c_.intermediate_size, c_.intermediate_size}, c_.hidden_size, true},
            {"down", {c_.hidden_size}, c_.intermediate_size, false}};
  }

  void row(const std::string& what, double us, double bytes, double flops) const { print_row(ceilings_, what, us, bytes, flops); }
  static void host_row(const std::string& what, double us) { std::printf("%-44s %10.2f as the host sees it\n", what.c_str(), us); }

  void measure_linear(const Site& site, int64_t T, int rank) {
    const int64_t K = site.n_in, N = site.n_out();
    const std::vector<bf16> bits = noise(size_t(N * K / 4));
    const std::vector<float> absmax(size_t(N * K / 64), 0.05f);
    const HostMatrix matrix{WeightFormat::kNF4, N, K, bits.data(), absmax.data(), nullptr};
    const double weights = double(N * K) * (0.5 + 4.0 / 64);
    // Many tokens go through bf16 weights: four times as large, and that many fewer are needed.
    const int n_sets = timer_.sets_of(T > 64 ? double(N * K) * 2 : weights);
    std::vector<std::unique_ptr<Linear>> sets;
    for (int i = 0; i < n_sets; i++) sets.push_back(gpu_.make_linear({&matrix, 1}));
    const DType out_dtype = site.projected ? gpu_.projected_dtype() : DType::kF32;
    const RotatingTensors x(gpu_, n_sets, DType::kBF16, T, K), out(gpu_, n_sets, out_dtype, T, N);
    const int n_adapters = rank == 0 ? 0 : T > 64 ? 1 : int(T);
    std::vector<std::unique_ptr<LoraWeights>> pairs;
    std::vector<LoraPart> parts;
    double bytes = weights + double(T) * (double(K) * 2 + double(N) * double(size_of(out_dtype))), flops = 2.0 * double(T) * double(N * K);
    int64_t begin = 0;
    for (size_t m = 0; m < site.parts.size() && n_adapters > 0; begin += site.parts[m++]) {
      const std::vector<bf16> a = noise(size_t(rank * K)), b = noise(size_t(site.parts[m] * rank));
      LoraPart& part = parts.emplace_back(LoraPart{begin, {}});
      for (int i = 0; i < n_adapters; i++) {
        pairs.push_back(gpu_.make_lora(as_host(a, rank, K), as_host(b, site.parts[m], rank), 1e-3f, {}));
        part.segments.push_back({int(T * i / n_adapters), int(T * (i + 1) / n_adapters), pairs.back().get()});
      }
      bytes += double(n_adapters) * double(a.size() + b.size()) * 2;
      flops += 2.0 * double(T) * double(a.size() + b.size());
    }
    const double us = timer_.device(n_sets, [&](int i) { gpu_.linear(out[i], x[i], *sets[size_t(i % n_sets)], parts); });
    const std::string adapted = rank == 0 ? "" : n_adapters == 1 ? ", r=16" : ", r=16 each";
    row(named((std::string(site.name) + " [" + std::to_string(N) + ", " + std::to_string(K) + "]").c_str(), T) + adapted, us, bytes, flops);
  }

  void measure_attention(int n_rows, int position, int length, int window) {
    const int D = c_.head_dim;
    const Step step(n_rows, position, length, c_.vocab_size);
    double seen = 0, keys = 0;  // keys over all queries; different ones
    for (int t = 0; t < length; t++) seen += window ? std::min(position + t + 1, window) : position + t + 1;
    keys = length == 1 ? seen : position + length;
    const double kv_bytes = keys * n_rows * c_.kv_dim() * 2 * 2;
    const int64_t T = step.batch.n_tokens();
    const int n_layers = timer_.sets_of(double(step.table.size()) * kBlockTokens * c_.kv_dim() * 4);
    const auto pool = gpu_.make_kv_pool(int(step.table.size()), n_layers, c_.n_kv_heads, D);
    fill_with_noise(gpu_, static_cast<cuda::KvPoolCuda&>(*pool).buffer.data(), pool->bytes);
    const RotatingTensors q(gpu_, 2, DType::kBF16, T, c_.q_dim()), out(gpu_, 2, DType::kBF16, T, c_.q_dim());
    gpu_.begin_step(step.batch);
    const double us = timer_.device(
        n_layers,
        [&](int i) {
          gpu_.attention(
              out[i], q[i],
              {pool.get(), i % n_layers, window > 0, c_.n_heads, c_.n_kv_heads, D, 1 / std::sqrt(float(D)), window, step.batch.rows});
        },
        length == 1 ? 32 : 8);
    const std::string what = std::string("attention ") + (window ? "window, " : "global, ") + std::to_string(n_rows) + " x " +
                             (length == 1 ? "1 after " + std::to_string(position) : std::to_string(length));
    row(what, us, kv_bytes + double(T) * c_.q_dim() * 4, seen * n_rows * c_.q_dim() * 4);
  }

  void measure_elementwise(int T) {
    const int64_t H = c_.hidden_size, I = c_.intermediate_size, D = c_.head_dim, width = c_.q_dim() + 2 * c_.kv_dim();
    const int n = timer_.sets_of(double(T * H) * 6);
    const DType projected = gpu_.projected_dtype();
    const double of_projected = double(size_of(projected));
    const RotatingTensors x(gpu_, n, DType::kF32, T, H), y(gpu_, n, DType::kF32, T, H), normed(gpu_, n, DType::kBF16, T, H);
    const RotatingTensors weights(gpu_, 1, DType::kF32, 2, H), rope(gpu_, n, DType::kF32, T, D);
    const RotatingTensors qkv(gpu_, n, projected, T, width), q(gpu_, n, DType::kBF16, T, c_.q_dim());
    const Step step(1, 0, T, c_.vocab_size);
    gpu_.begin_step(step.batch);
    make_heads();
    row(named("embed", T), timer_.device(n, [&](int i) { gpu_.embed(x[i], step.batch.token_ids, *embedding_, 34, {}); }), double(T * H) * 6,
        0);
    row(named("rmsnorm", T), timer_.device(n, [&](int i) { gpu_.rmsnorm(normed[i], x[i], weights[0].f32(), kEps); }), double(T * H) * 6, 0);
    row(named("residual_rmsnorm", T),
        timer_.device(n, [&](int i) { gpu_.residual_rmsnorm(normed[i], x[i], y[i], weights[0].f32(), weights[0].f32(1), kEps); }),
        double(T * H) * 14, 0);
    row(named("rope_table", T), timer_.device(n, [&](int i) { gpu_.rope_table(rope[i], step.batch.positions, 1e4f, 1); }),
        double(T * D) * 4, 0);
    const auto pool = gpu_.make_kv_pool(int(step.table.size()), n, c_.n_kv_heads, int(D));
    row(named("qk_norm_rope_append", T),
        timer_.device(n,
                      [&](int i) {
                        gpu_.qk_norm_rope_append(q[i], {qkv[i], rope[i], weights[0].f32(), weights[0].f32(), kEps, c_.n_heads,
                                                        c_.n_kv_heads, int(D), pool.get(), i % n, false, step.batch.rows});
                      }),
        double(T) * (double(width) * (of_projected + 2) + double(D) * 4), 0);
    std::vector<int32_t> tokens(size_t(T), 0);
    for (int t = 0; t < T; t++) tokens[size_t(t)] = T - 1 - t;
    row(named("gather_rows f32", T), timer_.device(n, [&](int i) { gpu_.gather_rows(y[i], x[i], tokens); }), double(T * H) * 8, 0);
    const int n_wide = timer_.sets_of(double(T * I) * 6);
    const RotatingTensors gate_up(gpu_, n_wide, projected, T, 2 * I), inner(gpu_, n_wide, DType::kBF16, T, I);
    row(named("geglu", T), timer_.device(n_wide, [&](int i) { gpu_.geglu(inner[i], gate_up[i]); }), double(T * I) * (2 * of_projected + 2),
        0);
  }

  void make_heads() {
    if (embedding_) return;
    const int64_t V = c_.vocab_size, H = c_.hidden_size;
    const std::vector<bf16> rows = noise(size_t(V * H));
    const HostMatrix matrix{WeightFormat::kBF16, V, H, rows.data(), nullptr, nullptr};
    embedding_ = gpu_.make_embedding(matrix);
    bf16_head_ = gpu_.make_head(matrix, HeadFormat::kBF16, embedding_.get());
    int8_head_ = gpu_.make_head(matrix, HeadFormat::kInt8, embedding_.get());
    values_ = std::make_unique<RotatingTensors>(gpu_, 1, DType::kF32, 64, V);
    hidden_ = std::make_unique<RotatingTensors>(gpu_, 1, DType::kBF16, 64, H);
  }

  Scores scores(const Head& head, int n) const {
    Scores s;
    s.values = (*values_)[0].row_range(0, n);
    s.hidden = (*hidden_)[0].row_range(0, n);
    s.heads.assign(size_t(n), &head);
    s.edges.assign(size_t(n), nullptr);
    s.greedy.assign(size_t(n), true);
    return s;
  }

  static SequenceTable sequences(const Sampling& sampling, int n, int n_logprobs, std::vector<BatchRow>& rows,
                                 std::vector<BatchOutput>& outputs) {
    SequenceTable table(n);
    for (int s = 0; s < n; s++) {
      table[s].sampling = sampling;
      table[s].sampling.seed = uint64_t(s);
      for (int i = 0; i < 200; i++) table[s].push(i * 1000 + s);
      rows.emplace_back().slot = s;
      outputs.push_back({s, s, -1, n_logprobs});
    }
    return table;
  }

  void measure_sample(const char* name, const Sampling& sampling, int n, int n_logprobs) {
    std::vector<BatchRow> rows;
    std::vector<BatchOutput> outputs;
    SequenceTable table = sequences(sampling, n, n_logprobs, rows, outputs);
    Scores s = scores(*bf16_head_, n);
    gpu_.logits(s);
    const double us = timer_.host(50, [&] {
      s.ticket = 0;  // finished scores
      gpu_.sample(s, outputs, table, rows);
    });
    host_row(std::string("sample ") + name + ", " + std::to_string(n), us);
  }

  Backend& gpu_;
  Gemma3Config c_;
  Timer timer_;
  Ceilings ceilings_;
  std::unique_ptr<Embedding> embedding_;
  std::unique_ptr<Head> bf16_head_, int8_head_;
  std::unique_ptr<RotatingTensors> values_, hidden_;
};

void run(const std::string& model, const std::string& only) {
  const auto gpu = make_cuda_backend(0);
  std::printf("%s on %s\n", model.c_str(), cuda_devices()[0].c_str());
  Bench bench(*gpu, config_by_name(model));
  print_titles();
  const std::pair<const char*, void (Bench::*)()> groups[] = {{"linear", &Bench::linear},
                                                              {"lora", &Bench::lora},
                                                              {"attention", &Bench::attention},
                                                              {"elementwise", &Bench::elementwise},
                                                              {"head", &Bench::head},
                                                              {"sample", &Bench::sample},
                                                              {"step", &Bench::step}};
  for (const auto& [name, measure] : groups)
    if (only.empty() || ("," + only + ",").find("," + std::string(name) + ",") != std::string::npos) (bench.*measure)();
}

}  // namespace
#endif

int main(int n_args, char** args) {
  using namespace lorikeet;
  try {
    const testing::Arguments arguments(n_args, args, {{"model", "gemma-3-1b"}, {"only", ""}});
    config_by_name(arguments.text("model"));
    if (cuda_devices().empty()) {
      std::printf("skipped: %s\n", cuda_built() ? "no GPU here" : "built without CUDA");
      return 0;
    }
#if defined(LORIKEET_CUDA_BUILT)
    run(arguments.text("model"), arguments.text("only"));
#endif
  } catch (const Error& e) {
    std::printf("%s: %s\n", e.code(), e.what());
    return 1;
  }
  return 0;
}
