// CUDA against the CPU: the weights' layout bit for bit, then whole models with and without adapters (cuda_*_test: single operations).
// Usage: cuda_test [MODEL [ADAPTER_DIR...]]   (default: random:gemma-3-270m). Says so and ends well where there is no GPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "../core/safetensors.h"
#include "check.h"
#include "operands.h"
#include "random_adapter.h"
#include "step_plan.h"
#if defined(LORIKEET_CUDA_BUILT)
#include "../cuda/nf4_layout.h"
#endif

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

#if defined(LORIKEET_CUDA_BUILT)
void test_layout() {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{16, 64}, {48, 192}, {1536, 640}}) {
    const TestMatrix m(WeightFormat::kNF4, rows, cols);
    std::vector<uint8_t> tiles(m.packed.size()), back(m.packed.size());
    cuda::pack_tiles(m.packed.data(), rows, cols, tiles.data());
    cuda::unpack_tiles(tiles.data(), rows, cols, back.data());
    check(back == m.packed, "tiles of [" + std::to_string(rows) + ", " + std::to_string(cols) + "] unpack to what was packed");
  }
}
#endif

/// Largest difference of a row's logits, against the largest logit that is wanted.
float row_difference(const float* want, const float* got, int n) {
  float largest = 0, off = 0;
  for (int v = 0; v < n; v++) {
    largest = std::max(largest, std::fabs(want[v]));
    off = std::max(off, std::isfinite(got[v]) ? std::fabs(got[v] - want[v]) : 1e30f);
  }
  return off / largest;
}

/// Logits of whole prompts: rows that differ, and choices where the CPU's margin is clear. A model of random weights has tokens that any
/// rounding turns over (the CPU in bf16 differs from itself in fp32 by up to twice the largest logit there): no more rows than one may be off
/// by 5 % beyond as many as are off by half of that on the CPU.
void test_logits(Model& cpu, Model& exact, Model& gpu, int adapter, const std::string& name) {
  const int V = cpu.info().vocab_size;
  for (int n : {1, 7, 31, 33, 257}) {
    const std::vector<int32_t> ids = some_prompt(n, V, n);
    const std::vector<float> want = cpu.logits(ids, adapter), fp32 = exact.logits(ids, adapter), got = gpu.logits(ids, adapter);
    int clear = 0, equal = 0, far = 0, own = 0;
    for (int t = 0; t < n; t++) {
      const float *w = &want[size_t(t) * V], *g = &got[size_t(t) * V];
      far += row_difference(w, g, V) > 0.05f;
      own += row_difference(&fp32[size_t(t) * V], w, V) > 0.025f;
      std::vector<float> top(w, w + V);
      std::partial_sort(top.begin(), top.begin() + 2, top.end(), std::greater<float>());
      const float largest = std::max(top[0], -*std::min_element(w, w + V));
      if (top[0] - top[1] < 0.05f * largest) continue;
      clear++;
      equal += std::max_element(w, w + V) - w == std::max_element(g, g + V) - g;
    }
    check(far <= own + 1 && equal == clear, name + ": logits of " + std::to_string(n) + " tokens: " + std::to_string(far) + " rows off, " + std::to_string(own) +
                                                " on the CPU itself; " + std::to_string(equal) + " of " + std::to_string(clear) + " clear choices equal");
  }
}

struct Decoded {
  std::vector<int32_t> ids;     // [tokens][sequences]
  std::vector<float> margins;   // log-probability of the best less that of the next; empty where not asked for
};

/// Steps as the scheduler plans them: prompts in one step, then decode together.
Decoded decode(Model& model, int n_sequences, int n_prompt, int n_tokens, int adapter, bool with_margins) {
  const int V = model.info().vocab_size, per = (n_prompt + n_tokens) / kBlockTokens + 1;
  Decoded out;
  for (int step = 0; step < n_tokens; step++) {
    StepPlanner planner(per);
    for (int s = 0; s < n_sequences; s++) {
      if (step == 0) planner.start(s, s % 2 ? adapter : -1);
      if (step == 0) planner.add(s, some_prompt(n_prompt, V, s), 0, -1, with_margins ? 2 : -1);
      else planner.add(s, {-1}, n_prompt + step - 1, -1, with_margins ? 2 : -1);
    }
    model.check(planner.plan());
    const SampleResult result = model.step(planner.plan());
    out.ids.insert(out.ids.end(), result.token_ids.begin(), result.token_ids.end());
    for (int s = 0; with_margins && s < n_sequences; s++) out.margins.push_back(result.top_logprobs[s * 2] - result.top_logprobs[s * 2 + 1]);
  }
  return out;
}

/// What the goldens' README finds between runs in bf16 and in fp32 on its models, in logits: up to 0.37. A wrong kernel is off by whole units.
constexpr double kBf16 = 0.5;
/// Of a token whose value turns on any rounding: 0.72 seen on random weights, the same in every kernel and batch.
constexpr double kFarthest = 1;

/// Log-probabilities of given tokens, fed one a step to several sequences on different adapters: the way of decode.
std::vector<float> forced(Model& model, int n_sequences, int n_prompt, int n_tokens, int n_adapters) {
  const int V = model.info().vocab_size, per = (n_prompt + n_tokens) / kBlockTokens + 2;
  std::vector<float> out;
  for (int step = 0; step < n_tokens; step++) {
    StepPlanner planner(per);
    for (int s = 0; s < n_sequences; s++) {
      const std::vector<int32_t> ids = some_prompt(n_prompt + s + n_tokens + 1, V, s);
      const int begin = step ? n_prompt + s + step - 1 : 0, end = n_prompt + s + step;  // prompts of different lengths
      if (step == 0) planner.start(s, (s + 1) % (n_adapters + 1) - 1);
      planner.add(s, {ids.begin() + begin, ids.begin() + end}, begin, ids[size_t(end)]);
    }
    model.check(planner.plan());
    const SampleResult result = model.step(planner.plan());
    out.insert(out.end(), result.logprobs.begin(), result.logprobs.end());
  }
  return out;
}

/// Of random weights one in 30 tokens (and one more) may be far off, as in test_logits: the others count for the average.
void test_forced(Model& cpu, Model& gpu, int n_adapters, const std::string& name, bool random, double most_on_average) {
  const double most = random ? 5 * most_on_average : kBf16;
  for (const auto& [n, prompt] : {std::pair{1, 3}, {1, 200}, {2, 33}, {3, 40}, {8, 5}, {9, 20}, {16, 30}}) {
    const std::vector<float> want = forced(cpu, n, prompt, 12, n_adapters), got = forced(gpu, n, prompt, 12, n_adapters);
    double off = 0, sum = 0;
    size_t far = 0;
    for (size_t i = 0; i < want.size(); i++) {
      const double d = std::isfinite(got[i]) ? std::fabs(double(got[i]) - want[i]) : 1e30;
      off = std::max(off, d);
      far += d > most;
      sum += d > most ? 0 : d;
    }
    const double average = sum / double(want.size() - far);
    std::printf("%s: %d sequences after %d tokens: log-probabilities differ by %.4f, %.4f on average; %zu of %zu far off\n", name.c_str(), n, prompt, off,
                average, far, want.size());
    check(want.size() == got.size() && off < (random ? kFarthest : kBf16) && far <= (random ? 1 + want.size() / 30 : 0) && average < most_on_average, name + ": log-probabilities of decode");
  }
}

/// Against transformers, PEFT and bitsandbytes, where a directory holds their figures (expected.safetensors; adapters: those over the NF4 base).
void test_goldens(Model& gpu, int adapter, const std::string& dir, const std::string& prefix, const std::string& name) {
  const std::string path = dir + "/expected.safetensors";
  if (!std::filesystem::exists(path)) return;
  const Safetensors file = Safetensors::map(path);
  const auto floats = [&](const std::string& tensor) {
    const TensorInfo* info = file.find(tensor);
    return info ? to_float(file.tensor(*info)) : std::vector<float>();
  };
  const auto ids_of = [&](const std::string& tensor) {
    const TensorInfo* info = file.find(tensor);
    const HostTensor ids = info ? file.tensor(*info) : HostTensor();
    return info ? std::vector<int32_t>(static_cast<const int32_t*>(ids.data), static_cast<const int32_t*>(ids.data) + ids.numel()) : std::vector<int32_t>();
  };
  for (const std::string prompt : {"p1", "p9", "p40", "p100"}) {
    const std::vector<int32_t> ids = ids_of(prompt + ".input_ids"), greedy = ids_of(prefix + prompt + ".greedy.ids");
    const std::vector<float> want = floats(prefix + prompt + ".logits"), margins = floats(prefix + prompt + ".greedy.margin");
    if (ids.empty() || want.empty()) continue;
    const std::vector<float> got = gpu.logits(ids, adapter);
    double off = 0;
    for (size_t i = 0; i < want.size(); i++) off = std::max(off, std::isfinite(got[i]) ? double(std::fabs(got[i] - want[i])) : 1e30);
    size_t step = 0;
    for (; step < greedy.size(); step++) {
      StepPlanner planner(int(ids.size() + greedy.size()) / kBlockTokens + 1);
      if (step == 0) planner.start(0, adapter);
      if (step == 0) planner.add(0, ids, 0);
      else planner.add(0, {-1}, int(ids.size() + step) - 1);
      if (gpu.step(planner.plan()).token_ids[0] != greedy[step]) break;
    }
    const bool ended_well = step == greedy.size() || margins[step] < kBf16;
    std::printf("%s %s: logits differ by %.3f, %zu of %zu greedy tokens equal\n", name.c_str(), prompt.c_str(), off, step, greedy.size());
    check(off < kBf16 && ended_well, name + " " + prompt + ": goldens");
  }
}

void test_model(const std::string& path, const std::vector<std::string>& adapters) {
  ModelOptions options{.path = path, .compute = "bf16", .head = "bf16", .max_batch_tokens = 1024, .max_num_seqs = 16, .max_loras = 16};
  const auto cpu = Model::load(options, {});
  options.compute = "fp32";
  const auto exact = Model::load(options, {});
  options.compute = "bf16";
  options.device = "cuda";
  const auto gpu = Model::load(options, {});
  std::printf("%s on %s\n", path.c_str(), gpu->info().device.c_str());
  test_logits(*cpu, *exact, *gpu, -1, "base");
  // Random weights differ by less: 0.002 seen on the 270M shape, 0.017 on the 1B one.
  const bool random = path.rfind("random:", 0) == 0;
  const double most_on_average = random ? 0.03 : kBf16 / 5;
  test_forced(*cpu, *gpu, 0, "base", random, most_on_average);
  test_goldens(*gpu, -1, path, "", "base");
  int n_adapters = 0;
  for (const std::string& dir : adapters) {
    cpu->load_adapter(n_adapters, cpu->read_adapter_file(dir));
    exact->load_adapter(n_adapters, exact->read_adapter_file(dir));
    gpu->load_adapter(n_adapters, gpu->read_adapter_file(dir));
    const std::string name = std::filesystem::path(dir + "/").parent_path().filename();
    test_logits(*cpu, *exact, *gpu, n_adapters, name);
    if (std::filesystem::exists(path + "/expected.safetensors")) test_goldens(*gpu, n_adapters, dir, "nf4.", name);
    n_adapters++;
  }
  if (n_adapters > 0) test_forced(*cpu, *gpu, n_adapters, "adapters", random, most_on_average);
  for (int n : {1, 5, 16}) {
    constexpr int kTokens = 24;
    constexpr float kClear = 0.3f;  // twice what log-probabilities differ by in test_forced
    const Decoded want = decode(*cpu, n, 20, kTokens, n_adapters - 1, true), got = decode(*gpu, n, 20, kTokens, n_adapters - 1, false);
    int equal = 0, wrong = 0;
    for (int s = 0; s < n; s++) {
      int i = 0;
      while (i < kTokens && want.ids[size_t(i) * n + s] == got.ids[size_t(i) * n + s]) i++;
      equal += i;
      wrong += i < kTokens && want.margins[size_t(i) * n + s] > kClear;  // what follows a near tie that fell the other way is another text
    }
    std::printf("decode of %d sequences: %d of %d tokens equal before a near tie\n", n, equal, n * kTokens);
    check(wrong == 0, "decode of " + std::to_string(n) + " sequences: " + std::to_string(wrong) + " differ where the choice was clear");
  }
}

/// Of rank 16 on all modules, 4 on q and v, 40 on all, 8 with DoRA on o, up and down.
std::vector<std::string> random_adapters(const std::string& path, const Scratch& scratch) {
  const auto bit = [](Module m) { return 1u << unsigned(m); };
  const struct { int rank; unsigned modules; bool dora; } kinds[] = {
      {16, ~0u, false}, {4, bit(Module::q_proj) | bit(Module::v_proj), false}, {40, ~0u, false},
      {8, bit(Module::o_proj) | bit(Module::up_proj) | bit(Module::down_proj), true}};
  const Gemma3Config config = open_checkpoint(path, {})->config();
  std::vector<std::string> dirs;
  for (const auto& kind : kinds) {
    dirs.push_back(scratch / ("rank-" + std::to_string(kind.rank)));
    std::filesystem::create_directory(dirs.back());
    write_random_adapter(dirs.back(), config, kind.rank, kind.rank, 0.03f, kind.modules, kind.dora);
  }
  return dirs;
}

}  // namespace

int main(int argc, char** argv) {
  try {
#if defined(LORIKEET_CUDA_BUILT)
    test_layout();
#endif
    if (cuda_devices().empty()) {
      std::printf("%d passed, %d failed; skipped the rest: %s\n", n_passed, n_failed, cuda_built() ? "no GPU here" : "built without CUDA");
      return n_failed ? 1 : 0;
    }
    const std::string path = argc > 1 ? argv[1] : "random:gemma-3-270m";
    std::vector<std::string> adapters(argv + std::min(argc, 2), argv + argc);
    const Scratch scratch;
    if (adapters.empty() && path.rfind("random:", 0) == 0) adapters = random_adapters(path, scratch);
    test_model(path, adapters);
  } catch (const Error& e) {
    check(false, std::string(e.code()) + ": " + e.what());
  }
  return finish();
}
