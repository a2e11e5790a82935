// Moving adapters to a GPU: from files, from host memory, and what running streams notice of it. Without a GPU: what the host does.
// Usage: cuda_adapter_bench [PATH] [--rank 16] [--adapters 8] [--swaps 50] [--sequences 1,8]
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <mutex>
#include <sstream>
#include <thread>

#include "arguments.h"
#include "random_adapter.h"
#include "step_plan.h"
#if defined(LORIKEET_CUDA_BUILT)
#include <cuda_runtime.h>

#include "../cuda/adapter_layout.h"
#endif

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

double now_ms() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

constexpr int kMostSequences = 64, kPrompt = 32;

struct Times {
  std::vector<double> ms;
  double quantile(double q) const {
    std::vector<double> sorted = ms;
    std::sort(sorted.begin(), sorted.end());
    return sorted.empty() ? 0 : sorted[std::min(sorted.size() - 1, size_t(q * double(sorted.size())))];
  }
  double worst() const { return quantile(1); }
};

void print(const char* what, const Times& times, uint64_t bytes = 0) {
  std::printf("%-50s n %4zu  median %7.3f ms  p99 %7.3f  worst %7.3f", what, times.ms.size(), times.quantile(0.5), times.quantile(0.99),
              times.worst());
  if (bytes) std::printf("  %6.1f GB/s", double(bytes) / times.quantile(0.5) / 1e6);
  std::printf("\n");
  std::fflush(stdout);
}

#if defined(LORIKEET_CUDA_BUILT)
void host_part(const std::string& dir, const Gemma3Config& config) {
  Times read, convert;
  std::vector<char> image;
  uint64_t bytes = 0;
  for (int i = 0; i < 5; i++) {
    const double t0 = now_ms();
    const AdapterFile file = read_adapter(dir, config, 64);
    const double t1 = now_ms();
    const cuda::AdapterLayout layout = cuda::plan_adapter(file);
    image.resize(layout.bytes);
    const double t2 = now_ms();
    cuda::write_adapter(file, layout, nullptr, image.data());
    read.ms.push_back(t1 - t0);
    convert.ms.push_back(now_ms() - t2);
    bytes = file.bytes;
  }
  std::printf("%.1f MB of tensors, %.1f MB as an image\n", double(bytes) / 1e6, double(image.size()) / 1e6);
  print("host: files in the page cache read and checked", read);
  print("host: conversion into an image", convert);
}
#endif

/// Streams that decode without a pause; what must happen between two steps is handed over, as the device's thread takes it.
class Streams {
 public:
  Streams(Model& model, int n_sequences, int adapter) : model_(model), n_(n_sequences), adapter_(adapter) {
    thread_ = std::thread([this] { loop(); });
  }
  ~Streams() {
    stop_ = true;
    thread_.join();
  }
  void between_steps(std::function<void()> piece) {
    std::atomic<bool> done = false;
    {
      const std::lock_guard lock(mutex_);
      piece_ = [&] { piece(), done = true; };
    }
    while (!done) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  /// Since the last call.
  Times take_steps() {
    const std::lock_guard lock(mutex_);
    return std::exchange(steps_, {});
  }

 private:
  static constexpr int kLength = 512;

  void loop() {
    const int vocab = model_.info().vocab_size, per = kLength / kBlockTokens + 1;
    for (int position = kLength; !stop_;) {
      const bool begins = position + 1 >= kLength;
      StepPlanner planner(per);
      for (int s = 0; s < n_; s++) {
        if (begins)
          planner.start(s, s % 2 ? adapter_ : -1), planner.add(s, some_prompt(kPrompt, vocab, s), 0);
        else
          planner.add(s, {-1}, position);
      }
      const double begin = last_end_ > 0 && !begins ? last_end_ : now_ms();
      if (begins) model_.check(planner.plan());
      model_.step(planner.plan());
      position = begins ? kPrompt : position + 1;
      const std::lock_guard lock(mutex_);
      last_end_ = now_ms();
      if (!begins) steps_.ms.push_back(last_end_ - begin);  // from one token to the next, whatever lay between
      if (piece_) piece_(), piece_ = nullptr;
    }
  }

  Model& model_;
  const int n_, adapter_;
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;
  std::function<void()> piece_;
  Times steps_;
  double last_end_ = 0;
  std::thread thread_;
};

struct Loads {
  Times prepare, load, whole;
};

void load(Model& model, int slot, const std::string& dir, Loads& loads) {
  const double t0 = now_ms();
  const auto adapter = model.prepare_adapter(dir);
  const double t1 = now_ms();
  model.load_adapter(slot, *adapter);
  const double t2 = now_ms();
  loads.prepare.ms.push_back(t1 - t0);
  loads.load.ms.push_back(t2 - t1);
  loads.whole.ms.push_back(t2 - t0);
}

/// So that its image is of other files.
void touch(const std::string& dir) {
  std::filesystem::last_write_time(dir + "/adapter_config.json", std::filesystem::file_time_type::clock::now());
}

void alone(Model& model, const std::vector<std::string>& dirs, int n_swaps) {
  Loads cold, warm;
  uint64_t bytes = 0;
  for (const std::string& dir : dirs) {
    load(model, 1, dir, cold);
    model.unload_adapter(1);
  }
  for (int i = 0; i < n_swaps; i++) {
    load(model, 1, dirs[size_t(i) % dirs.size()], warm);
    bytes = model.adapter(1)->bytes;
    model.unload_adapter(1);
  }
  print("from files: read and converted", cold.prepare);
  print("from files: copied", cold.load);
  print("from host memory, nothing running", warm.whole, bytes);
}

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

/// n loads of `dirs` in turn into slot 1, each left again; `before` is called with each folder.
void swap_beside(Streams& streams, Model& model, const char* what, const std::vector<std::string>& dirs, int n,
                 const std::function<void(const std::string&)>& before = {}) {
  Loads loads;
  streams.take_steps();
  for (int i = 0; i < n; i++) {
    const std::string& dir = dirs[size_t(i) % dirs.size()];
    if (before) before(dir);
    load(model, 1, dir, loads);
    sleep_ms(5);
    streams.between_steps([&] { model.unload_adapter(1); });
  }
  print((std::string("  swap-in ") + what).c_str(), loads.whole);
  print("    steps meanwhile", streams.take_steps());
}

/// The same files under names that no image has: new pinned memory for each.
std::vector<std::string> more_names(const std::vector<std::string>& dirs, const std::string& suffix) {
  std::vector<std::string> names;
  for (const std::string& dir : dirs) {
    names.push_back(dir + suffix);
    std::filesystem::create_directory_symlink(dir, names.back());
  }
  return names;
}

#if defined(LORIKEET_CUDA_BUILT)
/// What steps would notice of pinning an adapter's memory by one call.
void pin_at_once(Streams& streams, size_t bytes) {
  Times times;
  streams.take_steps();
  for (int i = 0; i < 5; i++) {
    void* data = nullptr;
    const double begin = now_ms();
    cudaMallocHost(&data, bytes);
    times.ms.push_back(now_ms() - begin);
    sleep_ms(5);
    cudaFreeHost(data);
  }
  print("  for comparison: memory pinned by one call", times);
  print("    steps meanwhile", streams.take_steps());
}
#endif

void beside_streams(Model& model, const std::vector<std::string>& dirs, int n_swaps, int n_sequences) {
  std::printf("beside %d streams\n", n_sequences);
  Streams streams(model, n_sequences, 0);
  sleep_ms(500);
  streams.take_steps();
  sleep_ms(1000);
  print("    steps without swaps", streams.take_steps());
  swap_beside(streams, model, "from host memory", dirs, n_swaps);
  swap_beside(streams, model, "from files", dirs, int(dirs.size()), touch);
  const std::vector<std::string> fresh = more_names(dirs, "-beside-" + std::to_string(n_sequences));
  swap_beside(streams, model, "from files, into memory newly pinned", fresh, int(fresh.size()));
#if defined(LORIKEET_CUDA_BUILT)
  pin_at_once(streams, model.prepare_adapter(dirs[0])->image->bytes);
#endif
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Arguments args(argc, argv,
                         {{"path", "random:gemma-3-1b"}, {"rank", "16"}, {"adapters", "8"}, {"swaps", "50"}, {"sequences", "1,8"}});
    if (!cuda_built()) return std::printf("built without CUDA\n"), 0;
    ModelOptions o{.path = args.text("path"),
                   .device = cuda_devices().empty() ? "cpu" : "cuda",
                   .head = "bf16",
                   .max_batch_tokens = kMostSequences * kPrompt,
                   .max_num_seqs = kMostSequences,
                   .max_loras = 4};
    const auto model = Model::load(o, {});
    std::printf("%s on %s, rank %d on every linear layer\n", model->info().name.c_str(), model->info().device.c_str(), args.number("rank"));
    const Scratch scratch;
    std::vector<std::string> dirs;
    for (int i = 0; i < args.number("adapters"); i++) {
      dirs.push_back(scratch / std::to_string(i));
      std::filesystem::create_directory(dirs.back());
      write_random_adapter(dirs.back(), model->weights().config, args.number("rank"), i);
    }
#if defined(LORIKEET_CUDA_BUILT)
    host_part(dirs[0], model->weights().config);
#endif
    if (cuda_devices().empty()) return std::printf("no GPU here: that was all\n"), 0;
    alone(*model, dirs, args.number("swaps"));
    model->load_adapter(0, *model->prepare_adapter(dirs[0]));
    std::stringstream list(args.text("sequences"));
    for (std::string n; std::getline(list, n, ',');) beside_streams(*model, dirs, args.number("swaps"), std::atoi(n.c_str()));
  } catch (const Error& e) {
    std::fprintf(stderr, "%s: %s\n", e.code(), e.what());
    return 1;
  }
}
