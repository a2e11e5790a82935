// Speed of the training operations on the shape of Gemma 3 270M: milliseconds of wall and of processor time, GFLOP/s a core, and what
// they come to per token. Usage: training_bench [--isa I] [--threads N] [--tokens N] [--rank N] [--compute fp32] [--dropout P] [--repeat N]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../core/backend.h"
#include "../core/nf4.h"
#include "arguments.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

struct Options {
  std::string isa, only;
  int threads, tokens, rank, repeat;
  bool fp32;
  float dropout;
};

double now_ms() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double cpu_ms() { return double(std::clock()) * 1e3 / CLOCKS_PER_SEC; }

constexpr int64_t kHidden = 640, kIntermediate = 2048, kHeads = 4, kKvHeads = 1, kHeadDim = 256, kVocabulary = 262144, kLayers = 18;

std::mt19937 generator(1);

struct Matrix {
  Buffer buffer;
  Tensor tensor;
  Matrix(DType dtype, int64_t rows, int64_t cols, Backend& backend) : buffer(backend.allocate(size_t(rows * cols) * size_of(dtype))) {
    tensor = {buffer.data(), dtype, rows, cols, cols};
    for (int64_t i = 0; i < rows * cols; i++) {
      const float v = float(int32_t(generator() % 2001) - 1000) * 1e-3f;
      if (dtype == DType::kF32) tensor.f32()[i] = v;
      else tensor.b16()[i] = to_bf16(v);
    }
  }
};

std::unique_ptr<Linear> nf4_linear(Backend& backend, int64_t rows, int64_t cols) {
  std::vector<uint8_t> packed(rows * cols / 2);
  for (uint8_t& b : packed) b = uint8_t(generator());
  std::vector<float> absmax(rows * cols / 64, 0.05f);
  const HostMatrix matrix{WeightFormat::kNF4, rows, cols, packed.data(), absmax.data(), nullptr};
  return backend.make_linear({&matrix, 1});
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : o_(options), backend_(make_cpu_backend({o_.isa, o_.threads, o_.fp32})), ops_(backend_->training()), act_(backend_->act_dtype()) {}

  void run() {
    std::printf("%s, %d tokens, rank %d\n%-34s %9s %9s %9s %9s\n", backend_->name().c_str(), o_.tokens, o_.rank, "operation", "wall ms",
                "cpu ms", "GFLOP/s", "us/token");
    linears();
    loras();
    attention();
    rows();
    std::printf("%-34s %9s %9.2f %9s %9.1f\n", "one layer", "", layer_ms_, "", layer_ms_ * 1e3 / o_.tokens);
    for (const int share : {100, 30}) cross_entropy(share);
    optimiser();
  }

 private:
  /// Times `op` (best of several by processor time); flops of one run. `weight`: how often a layer runs it, 0 for never.
  double time(const std::string& name, double flops, int weight, const std::function<void()>& op) {
    if (!o_.only.empty() && name.find(o_.only) == std::string::npos) return 0;
    op();
    double wall = 1e30, cpu = 1e30;
    for (int i = 0; i < o_.repeat; i++) {
      const double w = now_ms(), c = cpu_ms();
      op();
      wall = std::min(wall, now_ms() - w);
      cpu = std::min(cpu, cpu_ms() - c);
    }
    layer_ms_ += weight * cpu;
    std::printf("%-34s %9.2f %9.2f %9.1f %9.1f\n", name.c_str(), wall, cpu, flops / cpu * 1e-6, cpu * 1e3 / o_.tokens);
    std::fflush(stdout);
    return cpu;
  }

  void linears() {
    struct Shape { const char* name; int64_t n_out, n_in; };
    for (const Shape& s : {Shape{"qkv", (kHeads + 2 * kKvHeads) * kHeadDim, kHidden}, Shape{"o", kHidden, kHeads * kHeadDim},
                           Shape{"gate_up", 2 * kIntermediate, kHidden}, Shape{"down", kHidden, kIntermediate}}) {
      const auto w = nf4_linear(*backend_, s.n_out, s.n_in);
      Matrix x(act_, o_.tokens, s.n_in, *backend_), out(DType::kF32, o_.tokens, s.n_out, *backend_),
          dx(DType::kF32, o_.tokens, s.n_in, *backend_);
      const double flops = 2.0 * o_.tokens * s.n_out * s.n_in;
      time(std::string("linear ") + s.name, flops, 1, [&] { backend_->linear(out.tensor, x.tensor, *w); });
      time(std::string("linear_backward ") + s.name, flops, 1, [&] { ops_->linear_backward(dx.tensor, out.tensor, *w, false); });
    }
  }

  void loras() {
    struct Shape { const char* name; int64_t n_out, n_in; int weight; };
    for (const Shape& s :
         {Shape{"q", kHeads * kHeadDim, kHidden, 1}, Shape{"k", kHeadDim, kHidden, 2}, Shape{"o", kHidden, kHeads * kHeadDim, 1},
          Shape{"gate", kIntermediate, kHidden, 2}, Shape{"down", kHidden, kIntermediate, 1}}) {
      const int64_t r = o_.rank;
      Matrix x(act_, o_.tokens, s.n_in, *backend_), out(DType::kF32, o_.tokens, s.n_out, *backend_),
          dx(DType::kF32, o_.tokens, s.n_in, *backend_);
      Matrix a(DType::kF32, r, s.n_in, *backend_), b(DType::kF32, s.n_out, r, *backend_), da(DType::kF32, r, s.n_in, *backend_);
      Matrix db(DType::kF32, s.n_out, r, *backend_), kept(DType::kF32, o_.tokens, r, *backend_);
      TrainedPair pair{a.tensor, b.tensor, 1e-6f, Dropout{o_.dropout, 1, 0, 1}};
      const double flops = 2.0 * o_.tokens * r * (s.n_out + s.n_in);
      time(std::string("lora_forward ") + s.name, flops, s.weight, [&] {
        pair.dropout.token_counter += uint64_t(o_.tokens);  // forward draws what backward drops again
        ops_->lora_forward(out.tensor, kept.tensor, x.tensor, pair);
      });
      time(std::string("lora_backward ") + s.name, 2 * flops, s.weight,
           [&] { ops_->lora_backward(dx.tensor, da.tensor, db.tensor, out.tensor, kept.tensor, x.tensor, pair); });
    }
  }

  void attention() {
    const int64_t T = o_.tokens, wide = kHeads * kHeadDim, narrow = kKvHeads * kHeadDim;
    Matrix q(act_, T, wide, *backend_), k(act_, T, narrow, *backend_), v(act_, T, narrow, *backend_), out(act_, T, wide, *backend_);
    Matrix lse(DType::kF32, T, kHeads, *backend_), dq(DType::kF32, T, wide, *backend_), dk(DType::kF32, T, narrow, *backend_);
    Matrix dv(DType::kF32, T, narrow, *backend_), dout(DType::kF32, T, wide, *backend_);
    const std::vector<int32_t> starts = {0, int32_t(T)};
    const TrainingOps::AttentionShape shape{{starts}, int(kHeads), int(kKvHeads), int(kHeadDim), 0.0625f, 512};
    const double product = double(T) * double(T + 1) * kHeadDim * kHeads;
    time("attention_forward", 2 * product, 1,
         [&] { ops_->attention_forward(out.tensor, lse.tensor, q.tensor, k.tensor, v.tensor, shape); });
    time("attention_backward", 5 * product, 1, [&] {
      ops_->attention_backward(dq.tensor, dk.tensor, dv.tensor, dout.tensor, out.tensor, lse.tensor, q.tensor, k.tensor, v.tensor, shape);
    });
    const int64_t width = (kHeads + 2 * kKvHeads) * kHeadDim;
    Matrix qkv(DType::kF32, T, width, *backend_), dqkv(DType::kF32, T, width, *backend_), rope(DType::kF32, T, kHeadDim, *backend_);
    const std::vector<float> norm(kHeadDim, 0.1f);
    const TrainingOps::QkvShape qs{rope.tensor, norm.data(), norm.data(), 1e-6f, int(kHeads), int(kKvHeads), int(kHeadDim)};
    time("qk_norm_rope", 0, 1, [&] { ops_->qk_norm_rope(q.tensor, k.tensor, v.tensor, qkv.tensor, qs); });
    time("qk_norm_rope_backward", 0, 1, [&] { ops_->qk_norm_rope_backward(dqkv.tensor, dq.tensor, dk.tensor, dv.tensor, qkv.tensor, qs); });
  }

  void rows() {
    const int64_t T = o_.tokens;
    Matrix gate_up(DType::kF32, T, 2 * kIntermediate, *backend_), inner(act_, T, kIntermediate, *backend_);
    Matrix dinner(DType::kF32, T, kIntermediate, *backend_), dgate_up(DType::kF32, T, 2 * kIntermediate, *backend_);
    time("geglu", 0, 1, [&] { backend_->geglu(inner.tensor, gate_up.tensor); });
    time("geglu_backward", 0, 1, [&] { ops_->geglu_backward(dgate_up.tensor, dinner.tensor, gate_up.tensor); });
    Matrix x(DType::kF32, T, kHidden, *backend_), y(DType::kF32, T, kHidden, *backend_), out(act_, T, kHidden, *backend_);
    Matrix dx(DType::kF32, T, kHidden, *backend_), dy(DType::kF32, T, kHidden, *backend_), dout(DType::kF32, T, kHidden, *backend_);
    const std::vector<float> norm(kHidden, 0.1f);
    time("residual_rmsnorm", 0, 2, [&] { backend_->residual_rmsnorm(out.tensor, x.tensor, y.tensor, norm.data(), norm.data(), 1e-6f); });
    time("residual_rmsnorm_backward", 0, 2, [&] {
      ops_->residual_rmsnorm_backward(dx.tensor, dy.tensor, dout.tensor, x.tensor, y.tensor, norm.data(), norm.data(), 1e-6f);
    });
  }

  void cross_entropy(int share) {
    if (!o_.only.empty() && o_.only != "cross_entropy") return;
    const int64_t S = std::max(1, o_.tokens * share / 100);
    if (!head_) {
      weights_ = std::make_unique<Matrix>(DType::kBF16, kVocabulary, kHidden, *backend_);
      for (int64_t i = 0; i < kVocabulary * kHidden; i++) weights_->tensor.b16()[i] = to_bf16(to_f32(weights_->tensor.b16()[i]) * 0.1f);
      head_ = backend_->make_head({WeightFormat::kBF16, kVocabulary, kHidden, weights_->tensor.data, nullptr, nullptr}, HeadFormat::kBF16);
    }
    Matrix hidden(act_, S, kHidden, *backend_), dhidden(DType::kF32, S, kHidden, *backend_);
    std::vector<int32_t> targets(S);
    for (int32_t& t : targets) t = int32_t(generator() % kVocabulary);
    TrainingOps::LossHead lh{};
    lh.head = head_.get();
    lh.scale = 1.0f / float(S);
    lh.gradient = true;
    double between = 0, longest = 0;
    const std::function<void()> pause = [&] {
      const double now = now_ms();
      longest = std::max(longest, now - between);
      between = now;
    };
    lh.pause = &pause;
    const double ms = time("cross_entropy " + std::to_string(S) + " rows", 4.0 * S * kVocabulary * kHidden, 0, [&] {
      between = now_ms();
      ops_->cross_entropy(dhidden.tensor, hidden.tensor, targets, lh);
    });
    std::printf("  longest time between pauses %.1f ms; a token in %.2f core-ms: %.0f tokens/s on two cores\n", longest,
                (layer_ms_ * kLayers + ms) / o_.tokens, 2e3 * o_.tokens / (layer_ms_ * kLayers + ms));
  }

  void optimiser() {
    const int64_t n = 18 * 13184 * o_.rank;
    Matrix p(DType::kF32, 1, n, *backend_), g(DType::kF32, 1, n, *backend_), m(DType::kF32, 1, n, *backend_),
        v(DType::kF32, 1, n, *backend_);
    for (int64_t i = 0; i < n; i++) v.tensor.f32()[i] *= v.tensor.f32()[i];
    time("sum_squares", 2.0 * n, 0, [&] { ops_->sum_squares(g.tensor.f32(), n); });
    time("adamw", 12.0 * n, 0, [&] { ops_->adamw(p.tensor.f32(), g.tensor.f32(), m.tensor.f32(), v.tensor.f32(), n, AdamW{.lr = 1e-9}); });
  }

  Options o_;
  std::unique_ptr<Backend> backend_;
  TrainingOps* ops_;
  DType act_;
  std::unique_ptr<Matrix> weights_;
  std::unique_ptr<Head> head_;
  double layer_ms_ = 0;  // of processor time
};

Options parse(int n_args, char** args) {
  const Arguments a(n_args, args, {{"isa", "auto"}, {"threads", "0"}, {"tokens", "512"}, {"rank", "16"}, {"repeat", "5"}, {"dropout", "0"},
                                   {"compute", "bf16"}, {"only", ""}});
  return {a.text("isa"), a.text("only"), a.number("threads"), a.number("tokens"), a.number("rank"), a.number("repeat"),
          a.text("compute") == "fp32", a.real("dropout")};
}

}  // namespace

int main(int n_args, char** args) {
  try {
    Bench(parse(n_args, args)).run();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
