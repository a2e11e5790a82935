// The loss and its gradients against differences in double precision: frozen heads of every format, trained rows, a trained head; on each
// instruction set of this machine, in fp32 and bf16. Prints "N passed, N failed".
#include <array>

#include "../core/nf4.h"
#include "training_testing.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

struct LossCase {
  int64_t S, V, H;
  int n_ids;       // trained rows
  bool trained;    // modules_to_save
  WeightFormat format;
};

void test_cross_entropy(std::vector<Setting>& settings) {
  for (const LossCase& c : {LossCase{1, 1, 64, 0, false, WeightFormat::kBF16}, LossCase{31, 257, 64, 2, false, WeightFormat::kBF16},
                            LossCase{33, 513, 128, 0, true, WeightFormat::kF32}, LossCase{257, 300, 64, 3, false, WeightFormat::kBF16},
                            LossCase{300, 260, 64, 0, true, WeightFormat::kF32}, LossCase{19, 8200, 640, 1, false, WeightFormat::kBF16},
                            LossCase{33, 516, 128, 2, false, WeightFormat::kNF4}}) {
    std::vector<float> hidden = rounded(normal(c.S * c.H)), head = rounded(normal(c.V * c.H, 0.2f)),
                       rows = rounded(normal(c.n_ids * c.H, 0.2f));
    std::vector<bf16> halves;
    for (float x : head) halves.push_back(to_bf16(x));
    if (c.format == WeightFormat::kNF4) {  // the head quantises what it is given: the reference has the values that result
      std::vector<uint8_t> packed(head.size() / 2);
      std::vector<float> absmax(head.size() / 64);
      std::vector<bf16> expanded(head.size());
      nf4_quantize(head.data(), int64_t(head.size()), packed.data(), absmax.data());
      nf4_dequantize_bf16(packed.data(), absmax.data(), int64_t(head.size()), expanded.data());
      for (size_t i = 0; i < head.size(); i++) head[i] = to_f32(expanded[i]);
    }
    std::vector<int32_t> targets, ids;
    for (int i = 0; i < c.n_ids; i++) ids.push_back(int32_t((c.V - 1) * i / 2));
    for (int64_t s = 0; s < c.S; s++)
      targets.push_back(int32_t(s == 0 ? c.V - 1 : s % 5 == 1 && c.n_ids ? ids[size_t(s) % ids.size()] : (s * 37) % c.V));
    int64_t n_correct = 0;
    const float scale = 0.125f;
    // The scaled loss, and the sum of it: one output.
    const Forward forward = [&](const std::vector<Values>& in) {
      double total = 0;
      n_correct = 0;
      for (int64_t s = 0; s < c.S; s++) {
        Values logits(c.V);
        for (int64_t n = 0; n < c.V; n++) {
          const auto replaced = std::find(ids.begin(), ids.end(), n);
          const double* row = replaced == ids.end() ? &in[1][n * c.H] : &in[2][(replaced - ids.begin()) * c.H];
          for (int64_t h = 0; h < c.H; h++) logits[n] += row[h] * in[0][s * c.H + h];
        }
        const double max = *std::max_element(logits.begin(), logits.end());
        double sum = 0;
        for (double l : logits) sum += std::exp(l - max);
        total += max + std::log(sum) - logits[targets[s]];
        n_correct += logits[targets[s]] == max;
      }
      return Values{total * scale};
    };
    const std::vector<Values> inputs = {doubles(hidden), doubles(head), doubles(rows)};
    const double loss = forward(inputs)[0] / scale;
    const int64_t hits = n_correct;
    const std::vector<float> one = {1};
    const int n = c.V > 1000 ? 3 : 8;
    const Differences by_hidden(forward, inputs, 0, one, n);
    std::vector<Differences> by_rows;
    if (c.trained) by_rows.emplace_back(forward, inputs, 1, one, n);
    if (c.n_ids) by_rows.emplace_back(forward, inputs, 2, one, n);
    const std::string what = "cross_entropy " + std::to_string(c.S) + " of " + std::to_string(c.V);
    on_every_setting(settings, what, kRoundedTwice,
                     [&](Setting& s) {
                       Rows x(s.act, hidden, c.H);
                       const HostMatrix matrix{WeightFormat::kBF16, c.V, c.H, halves.data(), nullptr, nullptr};
                       const HeadFormat of_size = c.S % 2 ? HeadFormat::kInt8 : HeadFormat::kBF16;
                       const HeadFormat format = c.format == WeightFormat::kNF4 ? HeadFormat::kNF4 : of_size;
                       const auto frozen = c.trained ? nullptr : s.backend->make_head(matrix, format);
                       std::vector<float> dhidden(c.S * c.H, NAN), dhead(c.trained ? c.V * c.H : 0), drows(c.n_ids * c.H);
                       TrainingOps::LossHead lh{};
                       lh.head = frozen.get();
                       if (c.trained) lh.trained_head = view(head, c.H), lh.dhead = view(dhead, c.H);
                       lh.token_ids = ids;
                       if (c.n_ids) lh.token_rows = view(rows, c.H), lh.dtoken_rows = view(drows, c.H);
                       lh.scale = scale;
                       lh.gradient = true;
                       int n_pauses = 0;
                       const std::function<void()> pause = [&] { n_pauses++; };
                       lh.pause = &pause;
                       const LossResult result = s.ops->cross_entropy(view(dhidden, c.H), x.tensor(), targets, lh);
                       check(std::fabs(result.loss_sum - loss) < 1e-5 * std::max(1.0, loss), s.name + " " + what + " loss");
                       check(result.n_targets == c.S && result.n_correct == hits, s.name + " " + what + " counts");
                       check(n_pauses > 0, s.name + " " + what + " pauses");
                       lh.gradient = false;
                       const LossResult only = s.ops->cross_entropy(Tensor{}, x.tensor(), targets, lh);
                       check(only.loss_sum == result.loss_sum && only.n_correct == hits,
                             s.name + " " + what + ": the same loss without gradients");
                       return std::vector{dhidden, dhead, drows};
                     },
                     [&](Setting& s, const auto& got) {
                       const double tolerance = s.rounded_tolerance(kRounded);
                       by_hidden.compare(s.name + " " + what + " dhidden", got[0], tolerance);
                       if (!by_rows.empty())
                         by_rows[0].compare(s.name + " " + what + (c.trained ? " dhead" : " dtoken_rows"), got[c.trained ? 1 : 2],
                                            tolerance);
                     });
  }
}

/// A token that is predicted nearly surely still has a gradient of full relative precision.
void test_sure_targets(std::vector<Setting>& settings) {
  const int64_t V = 600, H = 64;
  std::vector<float> hidden(H, 0.0f), head = rounded(normal(V * H, 0.1f));
  hidden[3] = 8;
  for (int64_t n = 0; n < V; n++) head[n * H + 3] = n == 7 ? 2.0f : 0.0f;
  std::vector<bf16> halves;
  for (float x : head) halves.push_back(to_bf16(x));
  const std::vector<int32_t> targets = {7};
  const double p = std::exp(-16.0) / (1 + (V - 1) * std::exp(-16.0));  // of each other token
  Values want(H);
  for (int64_t h = 0; h < H; h++)
    for (int64_t n = 0; n < V; n++) want[h] += (n == 7 ? -(V - 1) * p : p) * head[n * H + h];
  for (Setting& s : settings) {
    Rows x(s.act, hidden, H);
    const auto frozen = s.backend->make_head({WeightFormat::kBF16, V, H, halves.data(), nullptr, nullptr}, HeadFormat::kBF16);
    std::vector<float> dhidden(H, NAN);
    TrainingOps::LossHead lh{};
    lh.head = frozen.get();
    lh.scale = 1;
    lh.gradient = true;
    s.ops->cross_entropy(view(dhidden, H), x.tensor(), targets, lh);
    check(worst(dhidden, want) < s.rounded_tolerance(kRounded),
          s.name + " a sure target's gradient differs by " + std::to_string(worst(dhidden, want)));
  }
}

}  // namespace

int main() {
  std::vector<Setting> settings = every_setting();
  test_cross_entropy(settings);
  test_sure_targets(settings);
  return finish();
}
