// Speed of a whole model without Node: prefill, decode of one sequence, decode of several together.
// Usage: model_bench [PATH] [--prompt N] [--tokens N] [--sequences 1,4,16] [--repeat N] [--isa I] [--head H] [--weights W] [--threads N] [--cache DIR] [--device D]
//        [--kv MIB of cache, 0 = automatic] [--together TOKENS: prompts share steps of as many]
//        [--adapters DIR,DIR: sequence s uses adapter s modulo their number]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <sstream>

#include "arguments.h"
#include "step_plan.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

/// Processor time of all threads: what a step costs however busy the machine is.
double cpu_ms() { return double(std::clock()) * 1e3 / CLOCKS_PER_SEC; }

double now_ms() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::stringstream list(text);
  for (std::string part; std::getline(list, part, ',');) parts.push_back(part);
  return parts;
}

struct Speeds { double prefill, decode, best_step_ms, prefill_cpu_ms, step_cpu_ms; };

/// Tokens a second over all sequences; prompts run as many a step as max_step tokens allow, decode all together. Sequence s uses adapter
/// s % n_adapters.
Speeds measure(Model& model, int n_sequences, int prompt, int tokens, int max_step, int n_adapters) {
  const int per = (prompt + tokens) / kBlockTokens + 1, vocab = model.info().vocab_size;
  const double t0 = now_ms(), c0 = cpu_ms();
  for (int begin = 0, each = std::max(1, max_step / prompt); begin < n_sequences; begin += each) {
    StepPlanner planner(per);
    for (int s = begin; s < std::min(n_sequences, begin + each); s++) {
      planner.start(s, n_adapters ? s % n_adapters : -1);
      planner.add(s, some_prompt(prompt, vocab, s), 0);
    }
    model.check(planner.plan());
    model.step(planner.plan());
  }
  const double t1 = now_ms(), c1 = cpu_ms();
  double best = 1e30;
  for (int t = 0; t < tokens; t++) {
    const double begin = now_ms();
    StepPlanner planner(per);
    for (int s = 0; s < n_sequences; s++) planner.add(s, {-1}, prompt + t);
    model.step(planner.plan());
    best = std::min(best, now_ms() - begin);
  }
  const double t2 = now_ms(), c2 = cpu_ms();
  return {n_sequences * prompt / (t1 - t0) * 1e3, n_sequences * tokens / (t2 - t1) * 1e3, best, (c1 - c0) / n_sequences, (c2 - c1) / tokens};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Arguments args(argc, argv, {{"path", "random:gemma-3-270m"}, {"prompt", "512"}, {"tokens", "128"}, {"sequences", "1,16"}, {"repeat", "3"},
                                      {"isa", "auto"}, {"head", "auto"}, {"weights", "nf4"}, {"threads", "0"}, {"cache", ""}, {"device", "auto"},
                                      {"together", "0"}, {"adapters", ""}, {"kv", "0"}});
    ModelOptions o;
    o.path = args.text("path");
    o.isa = args.text("isa");
    o.device = args.text("device");
    o.head = args.text("head");
    o.weights = args.text("weights");
    o.kv_cache_bytes = uint64_t(args.number("kv")) << 20;
    o.cache_dir = args.text("cache");
    o.n_threads = args.number("threads");
    o.max_batch_tokens = std::max({512, args.number("prompt"), args.number("together")});
    const std::vector<std::string> adapters = split(args.text("adapters"));
    const int n_adapters = int(adapters.size());
    o.max_loras = std::max(o.max_loras, n_adapters);
    const double begin = now_ms();
    const auto model = Model::load(o, {});
    std::printf("%s on %s, head %s, loaded in %.0f ms\n", model->info().name.c_str(), model->info().device.c_str(), model->info().head.c_str(), now_ms() - begin);
    for (const auto& [purpose, bytes] : model->memory()) std::printf("  %-10s %8.1f MiB\n", purpose.c_str(), double(bytes) / (1 << 20));
    for (int i = 0; i < n_adapters; i++) model->load_adapter(i, model->read_adapter_file(adapters[i]));
    for (const std::string& n : split(args.text("sequences"))) {
      Speeds best{0, 0, 1e30, 1e30, 1e30};
      for (int r = 0; r < args.number("repeat"); r++) {
        const Speeds s = measure(*model, std::atoi(n.c_str()), args.number("prompt"), args.number("tokens"), args.number("together"), n_adapters);
        best = {std::max(best.prefill, s.prefill), std::max(best.decode, s.decode), std::min(best.best_step_ms, s.best_step_ms),
                std::min(best.prefill_cpu_ms, s.prefill_cpu_ms), std::min(best.step_cpu_ms, s.step_cpu_ms)};
      }
      std::printf("sequences %3s  prefill %s: %8.1f tok/s   decode: %8.1f tok/s (best step %.2f ms); processor time %.1f ms a prompt, %.2f ms a step\n",
                  n.c_str(), args.text("prompt").c_str(), best.prefill, best.decode, best.best_step_ms, best.prefill_cpu_ms, best.step_cpu_ms);
      std::fflush(stdout);
    }
  } catch (const Error& e) {
    std::fprintf(stderr, "%s: %s\n", e.code(), e.what());
    return 1;
  }
}
