// CUDA against the CPU: the weights' layout bit for bit, products at odd and real sizes, then whole models with and without adapters.
// Usage: cuda_test [MODEL [ADAPTER_DIR...]]   (default: random:gemma-3-270m). Says so and ends well where there is no GPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "../core/nf4.h"
#include "check.h"
#include "step_plan.h"
#if defined(LORIKEET_CUDA_BUILT)
#include "../cuda/nf4_layout.h"
#endif

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

std::mt19937 generator(7);

std::vector<float> normal(int64_t n, float sigma) {
  std::normal_distribution<float> draw(0, sigma);
  std::vector<float> out = std::vector<float>(size_t(n));
  for (float& v : out) v = draw(generator);
  return out;
}

struct Nf4Matrix {
  std::vector<uint8_t> packed;
  std::vector<float> absmax;
  HostMatrix matrix;
  Nf4Matrix(int64_t rows, int64_t cols) : packed(size_t(rows * cols / 2)), absmax(size_t(rows * cols / 64)) {
    const std::vector<float> values = normal(rows * cols, 0.05f);
    nf4_quantize(values.data(), rows * cols, packed.data(), absmax.data());
    matrix = {WeightFormat::kNF4, rows, cols, packed.data(), absmax.data(), nullptr};
  }
};

#if defined(LORIKEET_CUDA_BUILT)
void test_layout() {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{16, 64}, {48, 192}, {1536, 640}}) {
    const Nf4Matrix m(rows, cols);
    std::vector<uint8_t> tiles(m.packed.size()), back(m.packed.size());
    cuda::pack_tiles(m.packed.data(), rows, cols, tiles.data());
    cuda::unpack_tiles(tiles.data(), rows, cols, back.data());
    check(back == m.packed, "tiles of [" + std::to_string(rows) + ", " + std::to_string(cols) + "] unpack to what was packed");
  }
}
#endif

/// A product on one device, from and to host memory.
std::vector<float> product(Backend& backend, const HostMatrix& matrix, const std::vector<bf16>& x, int64_t T) {
  const auto w = backend.make_linear({&matrix, 1});
  Buffer in = backend.allocate(x.size() * 2), out = backend.allocate(size_t(T * matrix.rows) * 4);
  backend.upload(in.data(), x.data(), x.size() * 2);
  backend.linear({out.data(), DType::kF32, T, matrix.rows, matrix.rows}, {in.data(), DType::kBF16, T, matrix.cols, matrix.cols}, *w);
  std::vector<float> got(size_t(T * matrix.rows));
  backend.download(got.data(), out.data(), got.size() * 4);
  return got;
}

/// Largest difference over the largest value.
double relative(const std::vector<float>& got, const std::vector<float>& want) {
  double off = 0, largest = 1e-30;
  for (size_t i = 0; i < want.size(); i++) {
    off = std::max(off, std::isfinite(got[i]) ? double(std::fabs(got[i] - want[i])) : 1e30);
    largest = std::max(largest, double(std::fabs(want[i])));
  }
  return off / largest;
}

void test_linear(Backend& cpu, Backend& gpu) {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{16, 64}, {48, 192}, {1536, 640}, {640, 2048}, {13824, 1152}}) {
    const Nf4Matrix m(rows, cols);
    for (int64_t T : {1, 7, 8, 9, 31, 33, 257}) {
      const std::vector<float> values = normal(T * cols, 1);
      std::vector<bf16> x;
      for (float v : values) x.push_back(to_bf16(v));
      const double off = relative(product(gpu, m.matrix, x, T), product(cpu, m.matrix, x, T));
      // Few tokens: codes are rounded to bf16 before absmax, not after it.
      check(off < 4e-3, "linear [" + std::to_string(T) + ", " + std::to_string(cols) + "] x [" + std::to_string(rows) + "] differs by " + std::to_string(off));
    }
  }
}

/// Logits of whole prompts: largest difference against the spread, and choices where the CPU's margin is clear.
void test_logits(Model& cpu, Model& gpu, int adapter, const std::string& name) {
  const int V = cpu.info().vocab_size;
  for (int n : {1, 7, 31, 33, 257}) {
    const std::vector<int32_t> ids = some_prompt(n, V, n);
    const std::vector<float> want = cpu.logits(ids, adapter), got = gpu.logits(ids, adapter);
    double off = 0;
    int clear = 0, equal = 0;
    for (int t = 0; t < n; t++) {
      const float *w = &want[size_t(t) * V], *g = &got[size_t(t) * V];
      std::vector<float> top(w, w + V);
      std::partial_sort(top.begin(), top.begin() + 2, top.end(), std::greater<float>());
      float largest = 0, row_off = 0;
      for (int v = 0; v < V; v++) {
        largest = std::max(largest, std::fabs(w[v]));
        row_off = std::max(row_off, std::isfinite(g[v]) ? std::fabs(g[v] - w[v]) : 1e30f);
      }
      off = std::max(off, double(row_off / largest));
      if (top[0] - top[1] < 0.05f * largest) continue;
      clear++;
      equal += std::max_element(w, w + V) - w == std::max_element(g, g + V) - g;
    }
    check(off < 0.05 && equal == clear, name + ": logits of " + std::to_string(n) + " tokens differ by " + std::to_string(off) + " of the largest; " +
                                            std::to_string(equal) + " of " + std::to_string(clear) + " clear choices equal");
  }
}

/// Steps as the scheduler plans them: prompts in one step, then decode together.
std::vector<int32_t> decode(Model& model, int n_sequences, int n_prompt, int n_tokens, int adapter) {
  const int V = model.info().vocab_size, per = (n_prompt + n_tokens) / kBlockTokens + 1;
  std::vector<int32_t> out;
  for (int step = 0; step < n_tokens; step++) {
    StepPlanner planner(per);
    for (int s = 0; s < n_sequences; s++) {
      if (step == 0) planner.start(s, s % 2 ? adapter : -1);
      if (step == 0) planner.add(s, some_prompt(n_prompt, V, s), 0);
      else planner.add(s, {-1}, n_prompt + step - 1);
    }
    model.check(planner.plan());
    const SampleResult result = model.step(planner.plan());
    out.insert(out.end(), result.token_ids.begin(), result.token_ids.end());
  }
  return out;
}

void test_model(const std::string& path, const std::vector<std::string>& adapters) {
  ModelOptions options{.path = path, .compute = "bf16", .head = "bf16", .max_batch_tokens = 512, .max_num_seqs = 16};
  const auto cpu = Model::load(options, {});
  options.device = "cuda";
  const auto gpu = Model::load(options, {});
  std::printf("%s on %s\n", path.c_str(), gpu->info().device.c_str());
  test_logits(*cpu, *gpu, -1, "base");
  int adapter = -1;
  for (const std::string& dir : adapters) {
    adapter++;
    cpu->load_adapter(adapter % 8, cpu->read_adapter_file(dir));
    gpu->load_adapter(adapter % 8, gpu->read_adapter_file(dir));
    test_logits(*cpu, *gpu, adapter % 8, dir.substr(dir.rfind('/') + 1));
    if (adapter + 1 == int(adapters.size())) break;
    cpu->unload_adapter(adapter % 8);
    gpu->unload_adapter(adapter % 8);
  }
  for (int n : {1, 5, 16}) {
    const std::vector<int32_t> want = decode(*cpu, n, 20, 24, adapter), got = decode(*gpu, n, 20, 24, adapter);
    int equal = 0;  // of each sequence until the first difference: near ties may fall either way
    for (int s = 0; s < n; s++)
      for (int i = 0; i < 24 && want[size_t(i) * n + s] == got[size_t(i) * n + s]; i++) equal++;
    check(equal >= n * 24 / 2, "decode of " + std::to_string(n) + " sequences: " + std::to_string(equal) + " of " + std::to_string(n * 24) + " tokens before a difference");
  }
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
    const auto cpu = make_cpu_backend({}), gpu = make_cuda_backend(0);
    test_linear(*cpu, *gpu);
    test_model(argc > 1 ? argv[1] : "random:gemma-3-270m", {argv + std::min(argc, 2), argv + argc});
  } catch (const Error& e) {
    check(false, std::string(e.code()) + ": " + e.what());
  }
  return finish();
}
