// Speed of whole training steps without Node: rows of 512 tokens, all or a share of them supervised.
// Usage: trainer_bench [PATH] [--isa I] [--threads N] [--tokens N] [--rank N] [--dropout P] [--supervised PERCENT]
//   [--checkpointing none|mlp|layer] [--steps N]
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>

#include "../core/trainer.h"
#include "arguments.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

struct Options {
  std::string path, isa, checkpointing;
  int threads, tokens, rank, supervised, steps;
  float dropout;
};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double processor() { return double(std::clock()) / CLOCKS_PER_SEC; }

MicroBatch batch_of(const Options& o, int vocab, int step) {
  MicroBatch b;
  for (int t = 0; t < o.tokens; t++) {
    b.token_ids.push_back(2 + (step * 977 + t * 7919) % (vocab - 2));
    b.targets.push_back(t % 100 < o.supervised ? 2 + (step * 977 + (t + 1) * 7919) % (vocab - 2) : -1);
  }
  b.document_starts = {0, o.tokens};
  b.token_counter = uint64_t(step) * uint64_t(o.tokens);
  return b;
}

void run(const Options& o) {
  const auto backend = make_cpu_backend({o.isa, o.threads, false});
  const auto checkpoint = open_checkpoint(o.path, {});
  const Weights weights = load_weights(*checkpoint, *backend, HeadFormat::kInt8, false, {});
  TrainerOptions options;
  options.trained.rank = o.rank;
  options.trained.alpha = o.rank;
  options.trained.dropout = o.dropout;
  for (int m = 0; m < kModules; m++) options.trained.modules.push_back(Module(m));
  options.max_tokens = o.tokens;
  options.checkpointing = o.checkpointing == "none"  ? Checkpointing::kNone
                          : o.checkpointing == "mlp" ? Checkpointing::kMlp
                                                     : Checkpointing::kLayer;
  double longest = 0, last = now();
  const Pause pause = [&] {
    const double t = now();
    longest = std::max(longest, t - last);
    last = t;
  };
  Trainer trainer(*backend, weights, options, pause);
  for (int step = 0; step <= o.steps; step++) {
    const MicroBatch batch = batch_of(o, weights.config.vocab_size, step);
    const double wall = now(), cpu = processor();
    last = now();
    longest = 0;
    const LossResult loss = trainer.accumulate(batch, 1.0 / double(o.tokens), pause);
    const double norm = trainer.optimizer_step({.lr = 1e-4}, pause);
    const double w = now() - wall, c = processor() - cpu;
    std::printf("%s step %d: loss %.4f norm %.4f, %.3f s wall, %.3f s processor: %.0f tokens/s, %.0f at full use; longest piece %.0f ms\n",
                backend->name().c_str(), step, loss.loss_sum / double(loss.n_targets), norm, w, c, o.tokens / w,
                o.tokens / c * (o.threads ? o.threads : physical_cores()), longest * 1e3);
    std::fflush(stdout);
  }
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  std::printf("peak memory %.0f MiB\n", double(usage.ru_maxrss) / 1024);
}

Options parse(int n_args, char** args) {
  const Arguments a(n_args, args, {{"path", "random:gemma-3-270m"}, {"isa", "auto"}, {"threads", "0"}, {"tokens", "512"}, {"rank", "16"},
                                   {"steps", "4"}, {"supervised", "100"}, {"dropout", "0"}, {"checkpointing", "none"}});
  return {a.text("path"), a.text("isa"), a.text("checkpointing"), a.number("threads"), a.number("tokens"), a.number("rank"),
          a.number("supervised"), a.number("steps"), a.real("dropout")};
}

}  // namespace

int main(int n_args, char** args) {
  try {
    run(parse(n_args, args));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
