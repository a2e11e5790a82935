// Scores over the vocabulary on CUDA: every format of a head, what adapters change of them, against double precision. What the scores make
// of choices is cuda_sampler_test's. Usage: cuda_head_test [cpu]   (cpu: the CPU stands in for the device)
#include <numeric>

#include "ops_testing.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

/// Codes of rows whose largest element is 3.2 to 3.7 of its standard deviation: that / 127 / sqrt(12) is 0.0073 to 0.0084.
constexpr double kInt8 = 0.01;

class HeadCase {
 public:
  HeadCase(Backend& device, int64_t V, int64_t H) : device_(device), rows_(WeightFormat::kBF16, V, H, 0.03f), V_(V), H_(H) {}

  /// values of S outputs; edges [S] or empty: none, greedy: of all of them only the best is wanted.
  std::vector<float> scores(const Head& head, const std::vector<float>& x, const std::vector<EdgeSegment>& edges, bool greedy,
                            const std::string& name) {
    const int64_t S = int64_t(x.size()) / H_;
    DeviceRows hidden(device_, DType::kBF16, x, H_, false), values(device_, DType::kF32, S, V_, false);
    Scores s;
    s.values = values.tensor();
    s.hidden = hidden.tensor();
    for (int64_t i = 0; i < S; i++) {
      const EdgeSegment* edge = edges.empty() ? nullptr : &edges[size_t(i)];
      s.heads.push_back(edge && edge->head ? edge->head : &head);
      s.edges.push_back(edge);
    }
    s.greedy.assign(size_t(S), greedy);
    device_.logits(s);
    return values.get(name);
  }

  double product(const TestMatrix& m, int64_t row, const std::vector<float>& x, int64_t s) const {
    double sum = 0;
    for (int64_t i = 0; i < H_; i++) sum += double(m.values[size_t(row * H_ + i)]) * x[size_t(s * H_ + i)];
    return sum;
  }

  std::vector<double> exact(const std::vector<float>& x, const std::vector<int64_t>& columns) const {
    const int64_t S = int64_t(x.size()) / H_;
    std::vector<double> out(size_t(S) * columns.size());
    parallel_for(S, [&](int64_t s) {
      for (size_t c = 0; c < columns.size(); c++) out[size_t(s) * columns.size() + c] = product(rows_, columns[c], x, s);
    });
    return out;
  }

  void test_bf16(const std::vector<int64_t>& outputs) {
    const auto head = device_.make_head(rows_.matrix, HeadFormat::kBF16);
    for (int64_t S : outputs) {
      const std::vector<float> x = rounded(normal(S * H_));
      const std::vector<int64_t> columns = some_of(V_);
      const std::string name = "bf16 " + sized("head", V_, H_) + ", " + std::to_string(S) + " outputs";
      expect(name, worst_row(scores(*head, x, {}, false, name), exact(x, columns), V_, columns), kSums);
    }
  }

  /// |score - exact| <= ||x|| ||w - codes scale|| + ||x - x'|| ||w||: what the choice among approximate scores relies on. Where more than
  /// the best is wanted CUDA gives the exact ones. (The CPU scores a greedy output by upper bytes alone, so it is asked for more.)
  void test_int8(const std::vector<int64_t>& outputs) {
    const auto head = device_.make_head(rows_.matrix, HeadFormat::kInt8);
    for (int64_t S : outputs) {
      std::vector<float> x = normal(S * H_);
      for (int64_t s = 0; s < S; s++) x[size_t(s * H_ + 5)] = 40;
      x = rounded(x);
      std::vector<int64_t> columns(size_t(V_), 0);
      std::iota(columns.begin(), columns.end(), 0);
      const std::vector<double> want = exact(x, columns);
      const std::string name = "int8 " + sized("head", V_, H_) + ", " + std::to_string(S) + " outputs";
      // More than 32 outputs of one head go to cuBLASLt: bf16 rows.
      const std::vector<float> got = scores(*head, x, {}, is_cuda(device_), name);
      expect(name + ": error over its bound", worst_over_bound(got, want, x), 1);
      expect(name, worst_row(got, want, V_), kInt8);
      if (is_cuda(device_)) expect(name + " that are drawn", worst_row(scores(*head, x, {}, false, name), want, V_), kSums);
    }
  }

  /// Rows, pairs and matrices of adapters, each output of another kind.
  void test_edges(int64_t S) {
    const TestMatrix saved(WeightFormat::kBF16, V_, H_, 0.03f);
    const auto head = device_.make_head(rows_.matrix, HeadFormat::kBF16), own = device_.make_head(saved.matrix, HeadFormat::kBF16);
    const std::vector<float> replaced = rounded(normal(2 * H_, 0.03f));
    TokenRowsDevice token_rows{{3, int32_t(V_ - 1)}, device_.allocate(replaced.size() * 2)};
    device_.upload(token_rows.rows.data(), halves(replaced).data(), replaced.size() * 2);
    struct Pair {
      int rank;
      std::vector<float> a, b;
      std::unique_ptr<LoraWeights> weights;
    };
    std::vector<Pair> pairs;
    for (const int r : {1, 8, 16, 64}) {
      Pair& p = pairs.emplace_back(Pair{r, rounded(normal(r * H_, 0.03f)), rounded(normal(V_ * r, 1 / std::sqrt(float(r)))), nullptr});
      p.weights = device_.make_lora(host_tensor(p.a, {r, H_}), host_tensor(p.b, {V_, r}), 0.5f, {});
    }
    std::vector<EdgeSegment> edges;
    for (int s = 0; s < S; s++) {
      EdgeSegment& edge = edges.emplace_back(EdgeSegment{s, s + 1, nullptr, nullptr, nullptr, nullptr, nullptr});
      if (s % 3 == 0) edge.token_rows = &token_rows;
      if (s % 5 == 1) edge.head = own.get();
      if (s % 2 == 0) edge.head_lora = pairs[size_t(s / 2 % 4)].weights.get();
    }
    const std::vector<float> x = rounded(normal(S * H_));
    std::vector<int64_t> columns = some_of(V_);
    std::vector<double> want;
    for (int64_t s = 0; s < S; s++)
      for (int64_t n : columns) {
        const EdgeSegment& edge = edges[size_t(s)];
        double sum = product(edge.head ? saved : rows_, n, x, s);
        if (edge.token_rows && (n == 3 || n == V_ - 1)) {
          sum = 0;
          for (int64_t i = 0; i < H_; i++) sum += double(replaced[size_t((n == 3 ? 0 : H_) + i)]) * x[size_t(s * H_ + i)];
        }
        if (edge.head_lora) {
          const Pair& p = pairs[size_t(s / 2 % 4)];
          for (int r = 0; r < p.rank; r++) {
            double h = 0;
            for (int64_t i = 0; i < H_; i++) h += double(p.a[size_t(r * H_ + i)]) * x[size_t(s * H_ + i)];
            sum += 0.5 * h * p.b[size_t(n * p.rank + r)];
          }
        }
        want.push_back(sum);
      }
    const std::string name = sized("head of adapters", V_, H_) + ", " + std::to_string(S) + " outputs";
    expect(name, worst_row(scores(*head, x, edges, true, name), want, V_, columns), kSums);
  }

 private:
  double worst_over_bound(const std::vector<float>& got, const std::vector<double>& want, const std::vector<float>& x) const {
    std::vector<double> off(size_t(V_), 0.0), norm(size_t(V_), 0.0);
    double norm_max = 0, worst = 0;
    for (int64_t n = 0; n < V_; n++) {
      double largest = 0;
      for (int64_t i = 0; i < H_; i++) largest = std::max(largest, double(std::fabs(rows_.values[size_t(n * H_ + i)])));
      for (int64_t i = 0; i < H_; i++) {
        const double w = rows_.values[size_t(n * H_ + i)], rest = w - std::round(w / (largest / 127)) * largest / 127;
        off[size_t(n)] += rest * rest;
        norm[size_t(n)] += w * w;
      }
      norm_max = std::max(norm_max, std::sqrt(norm[size_t(n)]));
    }
    for (size_t s = 0; s < x.size() / size_t(H_); s++) {
      double length = 0, largest = 0;
      for (size_t i = s * size_t(H_); i < (s + 1) * size_t(H_); i++)
        length += double(x[i]) * x[i], largest = std::max(largest, double(std::fabs(x[i])));
      const double limit = std::min(16256.0, 0x1p31 / (128.0 * double(H_)));  // sums of hidden x codes fit in 31 bits
      const double rounding = std::sqrt(double(H_)) * largest / limit / 2 * norm_max;
      for (size_t n = 0; n < size_t(V_); n++) {
        const double bound = std::sqrt(length * off[n]) + rounding + kSums * std::sqrt(length * norm[n]);
        const double error = std::fabs(got[s * size_t(V_) + n] - want[s * size_t(V_) + n]);
        worst = std::isfinite(error) ? std::max(worst, error / bound) : std::numeric_limits<double>::infinity();
      }
    }
    return worst;
  }

  Backend& device_;
  TestMatrix rows_;
  int64_t V_, H_;
};

void test_heads(Backend& device) {
  for (const int64_t H : {640, 1152, 2560, 3840}) {
    HeadCase c(device, 4112, H), odd(device, 1003, H);
    c.test_bf16({1, 31, 33, 257});
    odd.test_bf16({1, 33});
    odd.test_int8({1, 31, 33, 257});
    for (int64_t S : {1, 31, 33}) c.test_edges(S);
  }
  HeadCase(device, 262144, 640).test_bf16({1, 8, 64});
  if (!is_cuda(device)) return;
  const TestMatrix rows(WeightFormat::kBF16, 64, 640);
  for (const HeadFormat format : {HeadFormat::kF32, HeadFormat::kNF4})
    check_error("a head in another format is refused", "UNSUPPORTED", "bf16 or int8", [&] { device.make_head(rows.matrix, format); });
}

}  // namespace

int main(int n_args, char** args) {
  try {
    if (const auto device = device_under_test(n_args, args)) test_heads(*device);
  } catch (const Error& e) {
    check(false, std::string(e.code()) + ": " + e.what());
  }
  return finish();
}
