// Greedy choices of the CPU in bf16 and of CUDA over random prompts. CUDA is fed the CPU's tokens, so one near tie does not make another text.
// Where the CPU's margin (best less second log-probability) is clear, both must choose alike. What is clear is measured, not chosen: the CPU
// in bf16 is held against the CPU in fp32 first, and two that are each that far from fp32 are at most twice as far from each other.
// Usage: cuda_greedy_test [MODEL] [--prompts 200] [--steps 32] [--exact 64] [--head bf16] [--against cuda]
//   --exact N: prompts that fp32 computes too; --against fp32: only that, for machines without a GPU
#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <set>

#include "arguments.h"
#include "check.h"
#include "step_plan.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

constexpr int kBatch = 64, kShortest = 5, kLongest = 60, kTop = 20;

struct Choice {
  std::vector<int32_t> ids;  // the best kTop, best first
  std::vector<float> logprobs;

  float margin() const { return logprobs[0] - logprobs[1]; }
  /// Log-probability of a token, or of the last that is listed, which is an upper bound of it.
  float of(int32_t id) const {
    const auto at = std::find(ids.begin(), ids.end(), id);
    return at == ids.end() ? logprobs.back() : logprobs[size_t(at - ids.begin())];
  }
};
using Text = std::vector<Choice>;  // [steps]

std::vector<std::vector<int32_t>> random_prompts(int n, int vocab) {
  std::mt19937 random(20261124);
  std::vector<std::vector<int32_t>> prompts(static_cast<size_t>(n));
  for (auto& ids : prompts) {
    ids.resize(kShortest + random() % (kLongest - kShortest + 1));
    for (int32_t& id : ids) id = int32_t(random() % uint32_t(vocab));
    ids[0] = 2;
  }
  return prompts;
}

/// Prompts in one step, then a token each a step: `forced` gives them, else the model's own best.
std::vector<Text> continue_all(Model& model, const std::vector<std::vector<int32_t>>& prompts, int n_steps, const std::vector<Text>* forced) {
  std::vector<Text> texts(prompts.size());
  for (size_t begin = 0; begin < prompts.size(); begin += kBatch) {
    const int n = int(std::min(prompts.size() - begin, size_t(kBatch)));
    for (int step = 0; step < n_steps; step++) {
      StepPlanner planner((kLongest + n_steps) / kBlockTokens + 1);
      for (int s = 0; s < n; s++) {
        const size_t at = begin + size_t(s);
        if (step == 0) planner.start(s, -1);
        if (step == 0) planner.add(s, prompts[at], 0, -1, kTop);
        else planner.add(s, {(forced ? *forced : texts)[at][size_t(step) - 1].ids[0]}, int(prompts[at].size()) + step - 1, -1, kTop);
      }
      model.check(planner.plan());
      const SampleResult r = model.step(planner.plan());
      for (int s = 0; s < n; s++)
        texts[begin + size_t(s)].push_back({{r.top_ids.begin() + s * kTop, r.top_ids.begin() + (s + 1) * kTop},
                                            {r.top_logprobs.begin() + s * kTop, r.top_logprobs.begin() + (s + 1) * kTop}});
    }
  }
  return texts;
}

struct Comparison {
  std::vector<float> shifts;  // [steps of all texts] by how much the margin between the two best tokens of `want` moved
  int equal = 0;
  double largest_logprob = 0, sum_logprob = 0;  // differences over the kTop alternatives of every step

  float largest() const { return *std::max_element(shifts.begin(), shifts.end()); }
  float share(double of_all) const {
    std::vector<float> sorted = shifts;
    const auto at = sorted.begin() + int64_t(of_all * double(sorted.size() - 1));
    std::nth_element(sorted.begin(), at, sorted.end());
    return *at;
  }
};

Comparison compare(const std::vector<Text>& want, const std::vector<Text>& got) {
  Comparison c;
  for (size_t i = 0; i < got.size(); i++)
    for (size_t step = 0; step < got[i].size(); step++) {
      const Choice &w = want[i][step], &g = got[i][step];
      const float margin = g.of(w.ids[0]) - g.of(w.ids[1]);
      c.shifts.push_back(std::isfinite(margin) ? std::fabs(margin - w.margin()) : 1e30f);
      c.equal += g.ids[0] == w.ids[0];
      for (size_t k = 0; k < w.ids.size(); k++) {
        const double off = std::fabs(double(g.of(w.ids[k])) - w.logprobs[k]);
        c.largest_logprob = std::max(c.largest_logprob, std::isfinite(off) ? off : 1e30);
        c.sum_logprob += off;
      }
    }
  return c;
}

void print(const char* what, const Comparison& c) {
  std::printf("%s: %zu steps, %d choices equal; the margin moves by %.4f at the median, %.4f at 99 %%, %.4f at 99.9 %%, %.4f at most; "
              "log-probabilities of the best %d by %.4f on average, %.4f at most\n",
              what, c.shifts.size(), c.equal, c.share(0.5), c.share(0.99), c.share(0.999), c.largest(), kTop,
              c.sum_logprob / double(c.shifts.size() * kTop), c.largest_logprob);
}

void check_clear(const std::vector<Text>& want, const std::vector<Text>& got, float clear) {
  int n_clear = 0, n_equal = 0;
  float worst = 0;
  std::vector<float> margins;
  std::set<int32_t> distinct;
  for (size_t i = 0; i < got.size(); i++)
    for (size_t step = 0; step < got[i].size(); step++) {
      const Choice& w = want[i][step];
      const bool equal = got[i][step].ids[0] == w.ids[0];
      if (!equal) worst = std::max(worst, w.margin());
      margins.push_back(w.margin());
      distinct.insert(w.ids[0]);
      if (w.margin() <= clear) continue;
      n_clear++;
      n_equal += equal;
    }
  std::nth_element(margins.begin(), margins.begin() + int64_t(margins.size() / 2), margins.end());
  std::printf("%zu different tokens chosen, margin %.3f at the median; clear (over %.4f): %d steps, %d equal; largest margin of a choice that differs: %.4f\n",
              distinct.size(), margins[margins.size() / 2], clear, n_clear, n_equal, worst);
  check(n_clear > 0 && n_equal == n_clear, std::to_string(n_clear - n_equal) + " of " + std::to_string(n_clear) + " clear choices differ");
}

double seconds_since(std::chrono::steady_clock::time_point t) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count(); }

std::unique_ptr<Model> load(const Arguments& a, const char* device, const char* compute) {
  return Model::load({.path = a.text("path"), .device = device, .compute = compute, .head = a.text("head"), .max_model_len = 512,
                      .max_batch_tokens = kBatch * kLongest, .max_num_seqs = kBatch, .max_loras = 1}, {});
}

void run(const Arguments& a) {
  const auto started = std::chrono::steady_clock::now();
  const int n_steps = a.number("steps");
  const auto cpu = load(a, "cpu", "bf16");
  const auto prompts = random_prompts(a.number("prompts"), cpu->info().vocab_size);
  const std::vector<Text> want = continue_all(*cpu, prompts, n_steps, nullptr);
  std::printf("%s: %zu prompts of %d to %d tokens, %d steps each, on the CPU in %.0f s\n", a.text("path").c_str(), prompts.size(), kShortest, kLongest,
              n_steps, seconds_since(started));
  const auto some = std::vector(prompts.begin(), prompts.begin() + std::min(a.number("exact"), int(prompts.size())));
  const std::vector<Text> exact = continue_all(*load(a, "cpu", "fp32"), some, n_steps, &want);
  const Comparison own = compare(want, exact);
  print("CPU, bf16 against fp32", own);
  std::printf("after %.0f s\n", seconds_since(started));
  if (a.text("against") == "fp32") return check_clear(want, exact, 2 * own.largest());
  const std::vector<Text> got = continue_all(*load(a, "cuda", "bf16"), prompts, n_steps, &want);
  const Comparison theirs = compare(want, got);
  print("CUDA against the CPU in bf16", theirs);
  check_clear(want, got, 2 * own.largest());
  std::printf("%.0f s in all\n", seconds_since(started));
}

}  // namespace

int main(int n_args, char** args) {
  try {
    const Arguments a(n_args, args, {{"path", "random:gemma-3-270m"}, {"prompts", "200"}, {"steps", "32"}, {"exact", "64"}, {"head", "bf16"}, {"against", "cuda"}});
    if (a.text("against") == "cuda" && cuda_devices().empty()) {
      std::printf("skipped: %s\n", cuda_built() ? "no GPU here" : "built without CUDA");
      return 0;
    }
    run(a);
  } catch (const Error& e) {
    check(false, std::string(e.code()) + ": " + e.what());
  }
  return finish();
}
