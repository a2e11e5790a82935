// Speed of a whole model without Node: prefill, decode of one sequence, decode of several together.
// Usage: model_bench PATH [--prompt N] [--tokens N] [--sequences 1,4,16] [--repeat N] [--isa I] [--head H] [--weights W] [--threads N] [--cache DIR] [--device D]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <sstream>

#include "../core/model.h"

using namespace lorikeet;

namespace {

/// Processor time of all threads: what a step costs however busy the machine is.
double cpu_ms() { return double(std::clock()) * 1e3 / CLOCKS_PER_SEC; }

double now_ms() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Sequence s owns blocks [s * per, (s + 1) * per) of both pools.
StepPlan plan_step(int n_sequences, int position, int n_tokens, int per, bool start, bool sample, int vocab_size) {
  StepPlan p;
  p.row_starts = p.global_starts = p.sliding_starts = {0};
  for (int s = 0; s < n_sequences; s++) {
    if (start) p.starts.push_back({s, -1, Sampling{}, {}, {}});
    for (int t = 0; t < n_tokens; t++) {
      p.token_ids.push_back(n_tokens == 1 ? -1 : 2 + (s * 977 + (position + t) * 7919) % (vocab_size - 2));
      p.positions.push_back(position + t);
    }
    p.row_starts.push_back(int(p.token_ids.size()));
    p.slots.push_back(s);
    for (int b = 0; b < per; b++) {
      p.global_table.push_back(s * per + b);
      p.sliding_table.push_back(s * per + b);
    }
    p.global_starts.push_back(int(p.global_table.size()));
    p.sliding_starts.push_back(int(p.sliding_table.size()));
    p.sliding_first.push_back(0);
    if (sample) {
      p.out_tokens.push_back(int(p.token_ids.size()) - 1);
      p.out_targets.push_back(-1);
      p.out_logprobs.push_back(-1);
    }
  }
  return p;
}

struct Speeds { double prefill, decode, best_step_ms, prefill_cpu_ms, step_cpu_ms; };

/// Tokens a second over all sequences; prompts run one sequence a step, decode all together.
Speeds measure(Model& model, int n_sequences, int prompt, int tokens) {
  const int per = (prompt + tokens) / kBlockTokens + 1, vocab = model.info().vocab_size;
  const double t0 = now_ms(), c0 = cpu_ms();
  for (int s = 0; s < n_sequences; s++) {
    StepPlan p = plan_step(1, 0, prompt, per, true, true, vocab);
    p.starts[0].slot = p.slots[0] = s;
    for (auto* table : {&p.global_table, &p.sliding_table})
      for (int b = 0; b < per; b++) (*table)[b] = s * per + b;
    model.check(p);
    model.step(p);
  }
  const double t1 = now_ms(), c1 = cpu_ms();
  double best = 1e30;
  for (int t = 0; t < tokens; t++) {
    const double begin = now_ms();
    model.step(plan_step(n_sequences, prompt + t, 1, per, false, true, vocab));
    best = std::min(best, now_ms() - begin);
  }
  const double t2 = now_ms(), c2 = cpu_ms();
  return {n_sequences * prompt / (t1 - t0) * 1e3, n_sequences * tokens / (t2 - t1) * 1e3, best, (c1 - c0) / n_sequences, (c2 - c1) / tokens};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: model_bench PATH [--prompt N] [--tokens N] [--sequences 1,4,16] [--repeat N] [--isa I] [--head H] [--weights W] [--threads N] [--cache DIR] [--device D]\n");
    return 2;
  }
  std::map<std::string, std::string> args{{"prompt", "512"}, {"tokens", "128"}, {"sequences", "1,16"}, {"repeat", "3"}, {"isa", "auto"},
                                          {"head", "auto"}, {"weights", "nf4"}, {"threads", "0"}, {"cache", ""}, {"device", "auto"}};
  for (int i = 2; i + 1 < argc; i += 2) args[argv[i] + 2] = argv[i + 1];
  try {
    ModelOptions o;
    o.path = argv[1];
    o.isa = args["isa"];
    o.device = args["device"];
    o.head = args["head"];
    o.weights = args["weights"];
    o.cache_dir = args["cache"];
    o.n_threads = std::atoi(args["threads"].c_str());
    o.max_batch_tokens = std::max(512, std::atoi(args["prompt"].c_str()));
    const double begin = now_ms();
    const auto model = Model::load(o, {});
    std::printf("%s on %s, head %s, loaded in %.0f ms\n", model->info().name.c_str(), model->info().device.c_str(), model->info().head.c_str(), now_ms() - begin);
    for (const auto& [purpose, bytes] : model->memory()) std::printf("  %-10s %8.1f MiB\n", purpose.c_str(), double(bytes) / (1 << 20));
    std::stringstream list(args["sequences"]);
    for (std::string n; std::getline(list, n, ',');) {
      Speeds best{0, 0, 1e30, 1e30, 1e30};
      for (int r = 0; r < std::atoi(args["repeat"].c_str()); r++) {
        const Speeds s = measure(*model, std::atoi(n.c_str()), std::atoi(args["prompt"].c_str()), std::atoi(args["tokens"].c_str()));
        best = {std::max(best.prefill, s.prefill), std::max(best.decode, s.decode), std::min(best.best_step_ms, s.best_step_ms),
                std::min(best.prefill_cpu_ms, s.prefill_cpu_ms), std::min(best.step_cpu_ms, s.step_cpu_ms)};
      }
      std::printf("sequences %3s  prefill %s: %8.1f tok/s   decode: %8.1f tok/s (best step %.2f ms); processor time %.1f ms a prompt, %.2f ms a step\n",
                  n.c_str(), args["prompt"].c_str(), best.prefill, best.decode, best.best_step_ms, best.prefill_cpu_ms, best.step_cpu_ms);
      std::fflush(stdout);
    }
  } catch (const Error& e) {
    std::fprintf(stderr, "%s: %s\n", e.code(), e.what());
    return 1;
  }
}
