// A trainer over a model of one layer made here: gradients against finite differences of the whole loss, work that is ended anywhere,
// files. Small enough for the sanitizers.
#include <sys/resource.h>

#include <cmath>
#include <set>

#include "../core/model.h"
#include "../core/trained_files.h"
#include "../core/trainer.h"
#include "../cpu/allocate.h"
#include "tiny_model.h"

namespace lorikeet::testing {
namespace {

const Pause kNoPause = [] {};

std::unique_ptr<Model> tiny(const Scratch& dir, const char* compute, const char* isa) {
  write_tiny(dir, tiny_config().text(), tiny_tensors());
  ModelOptions o;
  o.path = dir.path();
  o.compute = compute;
  o.isa = isa;
  o.n_threads = 2;
  o.kv_cache_bytes = 1 << 20;
  return Model::load(o, {});
}

TrainerOptions every_module() {
  TrainerOptions o;
  o.trained.rank = 3;
  o.trained.alpha = 6;
  for (int m = 0; m < kModules; m++) o.trained.modules.push_back(Module(m));
  o.max_tokens = 64;
  return o;
}

/// Documents of 13, 1 and 20 tokens over 16 ids: longer than the window of 8.
MicroBatch batch() {
  MicroBatch b;
  b.document_starts = {0, 13, 14, 34};
  for (int t = 0; t < 34; t++) {
    b.token_ids.push_back((t * 7 + t * t) % int(kVocab));
    b.targets.push_back(t == 12 || t == 13 || t % 4 == 3 ? -1 : (t * 5 + 3) % int(kVocab));
  }
  b.token_counter = 1000;
  return b;
}

/// Values that make every part matter: B away from zero, the rest moved a little.
void stir(Trainer& trainer) {
  TrainedAdapter& t = trainer.trained();
  for (const Parameter& p : t.parameters())
    for (int64_t i = 0; i < p.size; i++) {
      const float wave = float(std::sin(double(i * 31 + p.begin)));
      float& value = t.values()[p.begin + i];
      value = p.kind == ParameterKind::kB ? 0.1f * wave : value * (1 + 0.1f * wave);
    }
  t.refresh(kNoPause);
}

double loss_of(Trainer& trainer) { return trainer.accumulate(batch(), 0, kNoPause).loss_sum; }

/// d loss / d parameter along a direction, by the trainer and by central differences.
void check_gradient(Trainer& trainer, const Parameter& p, const std::string& name) {
  TrainedAdapter& t = trainer.trained();
  trainer.optimizer().clear_gradients();
  trainer.accumulate(batch(), 1, kNoPause);
  double along = 0, norm = 0;
  std::vector<float> direction(p.size), before(t.values() + p.begin, t.values() + p.begin + p.size);
  for (int64_t i = 0; i < p.size; i++) {
    const float gradient = t.gradients()[p.begin + i];
    direction[i] = gradient;  // where the loss changes most
    norm += double(gradient) * gradient;
  }
  norm = std::sqrt(norm);
  const double step = 0.02 / std::max(norm, 1e-6);  // the loss moves by some hundredths of a nat
  const auto at = [&](double sign) {
    for (int64_t i = 0; i < p.size; i++) t.values()[p.begin + i] = before[i] + float(sign * step * direction[i] / norm);
    t.refresh(kNoPause);
    return loss_of(trainer);
  };
  along = (at(1) - at(-1)) / (2 * step);
  std::copy(before.begin(), before.end(), t.values() + p.begin);
  t.refresh(kNoPause);
  check(norm > 1e-4 && std::fabs(along / norm - 1) < 0.01,
        name + ": gradient " + std::to_string(norm) + ", by differences " + std::to_string(along));
}

void test_gradients(const char* isa) {
  const Scratch dir;
  const auto model = tiny(dir, "fp32", isa);
  const auto check_all = [&](const TrainerOptions& o, const std::string& name, bool of_layers) {
    Trainer trainer(model->backend(), model->weights(), o, kNoPause);
    stir(trainer);
    for (const Parameter& p : trainer.trained().parameters())
      if ((p.layer >= 0) == of_layers) check_gradient(trainer, p, std::string(isa) + ", " + name + ", " + p.name);
  };
  TrainerOptions o = every_module();
  check_all(o, "plain", true);
  o.trained.dropout = 0.2f;
  check_all(o, "dropout", true);
  o.trained.token_ids = {4, 7};
  check_all(o, "tokens", false);
  o.trained.token_ids.clear();
  o.trained.saves_embedding = o.trained.saves_head = true;
  check_all(o, "matrices", false);
}

/// DoRA's magnitudes: A and B see a constant norm, which differences do not.
void test_magnitudes() {
  const Scratch dir;
  const auto model = tiny(dir, "fp32", "auto");
  TrainerOptions o = every_module();
  o.trained.use_dora = true;
  Trainer trainer(model->backend(), model->weights(), o, kNoPause);
  stir(trainer);
  for (const Parameter& p : trainer.trained().parameters())
    if (p.kind == ParameterKind::kMagnitude) check_gradient(trainer, p, p.name);
}

/// Work ended at its n-th pause, for every n; the next run is as if nothing had been.
void test_ended_anywhere(const char* compute) {
  const Scratch dir;
  const auto model = tiny(dir, compute, "auto");
  TrainerOptions o = every_module();
  o.trained.use_dora = true;
  o.trained.token_ids = {4, 7};
  Trainer trainer(model->backend(), model->weights(), o, kNoPause);
  stir(trainer);
  const double loss = trainer.evaluate(batch(), kNoPause).loss_sum;
  int n_pauses = 0;
  trainer.accumulate(batch(), 1, [&] { n_pauses++; });
  check(n_pauses >= 6, "a layer's pieces and the head's end with pauses");
  for (int last = 1; last <= n_pauses; last++) {
    int n = 0;
    check_error("a pause ends the work", "ABORTED", "here", [&] {
      trainer.accumulate(batch(), 1, [&] {
        if (++n == last) throw Error("ABORTED", "here");
      });
    });
  }
  check(trainer.evaluate(batch(), kNoPause).loss_sum == loss, "ended work leaves the adapter as it was");
}

void test_files(bool eight_bit) {
  const Scratch dir;
  const auto model = tiny(dir, "fp32", "auto");
  TrainerOptions o = every_module();
  o.trained.rank = 64;  // tensors large enough for 8-bit moments
  o.trained.saves_embedding = true;
  o.eight_bit = eight_bit;
  const auto steps = [&](Trainer& trainer, int n) {
    for (int i = 0; i < n; i++) {
      trainer.accumulate(batch(), 0.05, kNoPause);
      trainer.optimizer_step({1e-2, 0.9, 0.999, 1e-8, 0.1, 1.0}, kNoPause);
    }
  };
  const Transfer copy = [](void* to, const void* from, size_t n) { std::memcpy(to, from, n); };
  Trainer whole(model->backend(), model->weights(), o, kNoPause), resumed(model->backend(), model->weights(), o, kNoPause);
  stir(whole);
  steps(whole, 2);
  save_state(dir / "state", whole.trained(), whole.optimizer(), copy);
  load_state(open_state(dir / "state", resumed.trained(), resumed.optimizer()), resumed.trained(), resumed.optimizer(), copy);
  resumed.trained().refresh(kNoPause);
  check(resumed.optimizer().n_steps() == 2, "the number of steps is restored");
  steps(whole, 2);
  steps(resumed, 2);
  save_adapter(dir / "whole", whole.trained(), DType::kF32, copy);
  save_adapter(dir / "resumed", resumed.trained(), DType::kF32, copy);
  check(read_text(dir / "whole") == read_text(dir / "resumed"), "a resumed run ends in the same bytes");
  const ParameterValues values = read_adapter_values(dir / "whole", whole.trained().parameters());
  check(std::memcmp(values[0].data(), whole.trained().values(), values[0].size() * 4) == 0, "values come back from the file");
  o.trained.rank = 32;
  const std::vector<Parameter> other = plan_parameters(o.trained, model->weights().config);
  check_error("an adapter of another rank", "ADAPTER_INVALID", "shape", [&] { read_adapter_values(dir / "whole", other); });
  // Cut anywhere, a file is refused, not read past its end.
  const std::string state = read_text(dir / "state");
  for (size_t size : {size_t{0}, size_t{7}, size_t{100}, state.size() / 2, state.size() - 1}) {
    write_text(dir / "cut", std::string_view(state).substr(0, size));
    check_error("a state cut short", "FILE_INVALID", "", [&] { open_state(dir / "cut", whole.trained(), whole.optimizer()); });
  }
}

void test_not_finite() {
  const Scratch dir;
  const auto model = tiny(dir, "fp32", "auto");
  Trainer trainer(model->backend(), model->weights(), every_module(), kNoPause);
  trainer.accumulate(batch(), 1, kNoPause);
  trainer.trained().gradients()[5] = INFINITY;
  const std::vector<float> before(trainer.trained().values(), trainer.trained().values() + trainer.trained().size());
  check_error("an infinite gradient", "TRAINING_DIVERGED", "norm", [&] { trainer.optimizer_step({1e-3}, kNoPause); });
  check(std::memcmp(before.data(), trainer.trained().values(), before.size() * 4) == 0, "nothing has moved");
  check(trainer.optimizer_step({1e-3}, kNoPause) == 0, "the gradients are cleared");
}

/// torch.nn.utils.clip_grad_norm_: times max / (norm + 1e-6), and never more than one.
void test_clipping() {
  const Scratch dir;
  const auto model = tiny(dir, "fp32", "auto");
  const auto first_moment = [&](double max_grad_norm) {
    Trainer trainer(model->backend(), model->weights(), every_module(), kNoPause);
    trainer.trained().gradients()[0] = 3e-3f;
    const double norm = trainer.optimizer_step({.lr = 1e-3, .max_grad_norm = max_grad_norm}, kNoPause);
    check(std::fabs(norm / 3e-3 - 1) < 1e-6, "the norm before clipping is told");
    return trainer.optimizer().moments(0).exp_avg[0] / (0.1 * 3e-3);
  };
  check(std::fabs(first_moment(1e-3) / (1e-3 / (3e-3 + 1e-6)) - 1) < 1e-6, "a gradient above the limit is scaled down to it");
  check(std::fabs(first_moment(1e-2) - 1) < 1e-6, "a gradient below the limit stays as it is");
  check(std::fabs(first_moment(0) - 1) < 1e-6, "without a limit nothing is clipped");
}

void test_scale() {
  const Scratch dir;
  const auto model = tiny(dir, "fp32", "auto");
  TrainerOptions o = every_module();  // alpha 6, rank 3
  const auto scale = [&] {
    Trainer trainer(model->backend(), model->weights(), o, kNoPause);
    return trainer.trained().module(0, Module::q_proj)->pair.scale;
  };
  check(scale() == 2, "LoRA is scaled by alpha / r");
  o.trained.use_rslora = true;
  check(std::fabs(scale() - 6 / std::sqrt(3.0)) < 1e-6, "rsLoRA by alpha / sqrt(r)");
}

/// A mask of its own for every module of every layer, as every Linear of PEFT has its own dropout.
void test_dropout_of_modules() {
  const Scratch dir;
  std::vector<TinyTensor> tensors = tiny_tensors();
  for (const TinyTensor& t : tiny_tensors()) {
    const size_t at = t.name.find("layers.0");
    if (at == std::string::npos) continue;
    tensors.push_back(t);
    tensors.back().name.replace(at, 8, "layers.1");
  }
  write_tiny(dir, tiny_config().set("num_hidden_layers", "2").text(), tensors);
  ModelOptions o;
  o.path = dir.path();
  o.compute = "fp32";
  o.kv_cache_bytes = 1 << 20;
  const auto model = Model::load(o, {});
  TrainerOptions options = every_module();
  options.trained.dropout = 0.2f;
  Trainer trainer(model->backend(), model->weights(), options, kNoPause);
  const Gemma3Config& config = model->weights().config;
  const Tape tape(model->backend(), config, options.trained.rank, Checkpointing::kNone, 64);
  const MicroBatch micro_batch = batch();
  TrainingStep step{model->backend(), *model->backend().training(), model->weights(), trainer.trained(), micro_batch, tape.views(34), true};
  std::set<uint32_t> modules;
  for (int layer = 0; layer < 2; layer++)
    for (int m = 0; m < kModules; m++) {
      const Dropout dropout = step.pair(layer, Module(m)).dropout;
      modules.insert(dropout.module);
      check(dropout.p == 0.2f && dropout.token_counter == 1000, "dropout counts the run's tokens");
    }
  check(modules.size() == 2 * kModules, "modules of two layers drop " + std::to_string(modules.size()) + " different masks");
  step.drops = false;
  check(step.pair(1, Module::q_proj).dropout.p == 0, "nothing is dropped where only the loss is asked for");
}

/// As under ulimit -v: while it lives the process may take that many bytes more.
class AddressSpaceLimit {
 public:
  explicit AddressSpaceLimit(uint64_t bytes_more) {
    getrlimit(RLIMIT_AS, &before_);
    uint64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlimit limit{pages * 4096 + bytes_more, before_.rlim_max};
    setrlimit(RLIMIT_AS, &limit);
  }
  ~AddressSpaceLimit() { setrlimit(RLIMIT_AS, &before_); }

 private:
  rlimit before_{};
};

void test_out_of_memory() {
#if !defined(__SANITIZE_ADDRESS__)  // it takes all address space there is
  const Scratch dir;
  const auto model = tiny(dir, "fp32", "auto");
  TrainerOptions large = every_module();
  large.trained.rank = 1024;
  const size_t before = allocated_bytes();
  {
    const AddressSpaceLimit limit(4 << 20);
    const auto make = [&] { Trainer(model->backend(), model->weights(), large, kNoPause); };
    check_error("a trainer that does not fit", "OUT_OF_MEMORY", "MiB are free", make);
    check_error("what it is made of", "OUT_OF_MEMORY", "MiB (parameters", make);
  }
  check(allocated_bytes() == before, "a trainer that does not fit has taken nothing");
  Trainer trainer(model->backend(), model->weights(), every_module(), kNoPause);
#pragma omp parallel  // the threads have their stacks before
  { }
  {
    const AddressSpaceLimit limit(2 << 20);  // less than a chunk of an arena
    check_error("a step without room for its scratch", "OUT_OF_MEMORY", "could not allocate",
                [&] { trainer.accumulate(batch(), 1, kNoPause); });
  }
  Trainer other(model->backend(), model->weights(), every_module(), kNoPause);
  check(loss_of(trainer) == loss_of(other), "once there is room the trainer goes on");
#endif
}

}  // namespace
}  // namespace lorikeet::testing

int main() {
  using namespace lorikeet::testing;
  test_out_of_memory();  // first: no scratch has been kept yet
  for (const std::string& isa : lorikeet::cpu_isas()) test_gradients(isa.c_str());
  test_magnitudes();
  test_ended_anywhere("fp32");
  test_ended_anywhere("bf16");
  test_files(false);
  test_files(true);
  test_not_finite();
  test_clipping();
  test_scale();
  test_dropout_of_modules();
  return finish();
}
