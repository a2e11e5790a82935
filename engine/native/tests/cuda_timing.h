// Microseconds of work on a backend's stream, the two ceilings of the card as measured in the same run, and a table of both.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <random>

#include "../core/backend.h"
#include "../core/parallel.h"
#include "../cuda/ops.h"

namespace lorikeet::testing {

/// bf16 values in [-2, 2); any two of them are an f32 of that size.
inline std::vector<bf16> noise(size_t n) {
  std::vector<bf16> out(n);
  parallel_pieces(int64_t(n), 1 << 20, [&](int64_t begin, int64_t end) {
    uint32_t state = uint32_t(begin) + 1;
    for (int64_t i = begin; i < end; i++) {
      state = state * 1664525u + 1013904223u;
      out[size_t(i)] = to_bf16(float(state >> 8) * (4.0f / 16777216.0f) - 2.0f);
    }
  });
  return out;
}

inline void fill_with_noise(Backend& gpu, void* to, size_t bytes) {
  static const std::vector<bf16> some = noise(32 << 20);
  for (size_t at = 0; at < bytes; at += some.size() * 2)
    gpu.upload(static_cast<char*>(to) + at, some.data(), std::min(bytes - at, some.size() * 2));
}

/// Copies of one operand, so many that the second-level cache holds none of them when its turn comes again.
class RotatingTensors {
 public:
  RotatingTensors(Backend& gpu, int n_sets, DType dtype, int64_t rows, int64_t cols)
      : n_sets_(n_sets), tensor_{nullptr, dtype, rows, cols, cols}, bytes_((size_t(rows * cols) * size_of(dtype) + 255) / 256 * 256) {
    memory_ = gpu.allocate(bytes_ * size_t(n_sets));
    fill_with_noise(gpu, memory_.data(), memory_.bytes());
  }
  Tensor operator[](int call) const {
    Tensor t = tensor_;
    t.data = static_cast<char*>(memory_.data()) + bytes_ * size_t(call % n_sets_);
    return t;
  }

 private:
  int n_sets_;
  Tensor tensor_;
  size_t bytes_;
  Buffer memory_;
};

class Timer {
 public:
  explicit Timer(Backend& gpu) : stream_(cuda::stream_of(gpu)) {
    int device = 0, bytes = 0;
    cuda::check(cudaGetDevice(&device), "cudaGetDevice");
    cuda::check(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device), "size of the second-level cache");
    cache_bytes_ = bytes;
    for (cudaEvent_t* event : {&begin_, &end_}) cuda::check(cudaEventCreate(event), "event");
  }
  ~Timer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Timer(const Timer&) = delete;

  cudaStream_t stream() const { return stream_; }

  /// Sets of so many bytes that together are twice the cache.
  int sets_of(double bytes) const { return int(std::clamp(2 * double(cache_bytes_) / bytes + 1, 2.0, 512.0)); }

  /// Microseconds of one of the calls run(0), run(1), ... : all of them in one graph, so that the host is not what is measured; the median
  /// of several launches. run queues on the backend's stream; its first n_sets calls come once before, to take memory.
  double device(int n_sets, const std::function<void(int)>& run, int at_least = 32) const {
    constexpr int kLaunches = 9;
    for (int i = 0; i < n_sets; i++) run(i);
    cuda::check(cudaStreamSynchronize(stream_), "warm-up");
    const int n_calls = std::max(n_sets, at_least);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cuda::check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "capture");
    for (int i = 0; i < n_calls; i++) run(i);
    cuda::check(cudaStreamEndCapture(stream_, &graph), "capture");
    cuda::check(cudaGraphInstantiate(&exec, graph, 0), "graph");
    std::vector<float> ms;
    for (int i = 0; i < kLaunches + 2; i++) {
      cuda::check(cudaEventRecord(begin_, stream_), "event");
      cuda::check(cudaGraphLaunch(exec, stream_), "graph");
      cuda::check(cudaEventRecord(end_, stream_), "event");
      cuda::check(cudaEventSynchronize(end_), "graph");
      float last = 0;
      cuda::check(cudaEventElapsedTime(&last, begin_, end_), "event");
      if (i >= 2) ms.push_back(last);
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    std::nth_element(ms.begin(), ms.begin() + kLaunches / 2, ms.end());
    return double(ms[kLaunches / 2]) * 1e3 / n_calls;
  }

  /// Microseconds of one call as the host sees it, the device idle before and after; the median.
  double host(int n_calls, const std::function<void()>& run) const {
    std::vector<double> us;
    for (int i = 0; i < n_calls + 3; i++) {
      cuda::check(cudaStreamSynchronize(stream_), "before the clock");
      const auto start = std::chrono::steady_clock::now();
      run();
      cuda::check(cudaStreamSynchronize(stream_), "work");
      const double last = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
      if (i >= 3) us.push_back(last);
    }
    std::nth_element(us.begin(), us.begin() + n_calls / 2, us.end());
    return us[size_t(n_calls / 2)];
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_, end_;
  int64_t cache_bytes_ = 0;
};

/// What the card does at most in a second, measured: bytes of a large copy, read and written; bf16 products of [8192, 8192] by cuBLASLt.
struct Ceilings {
  double bytes, flops;

  Ceilings(Backend& gpu, const Timer& timer) {
    const size_t size = size_t(1) << 30;
    {
      const Buffer from = gpu.allocate(size), to = gpu.allocate(size);
      constexpr int kCopies = 8;
      const double us = timer.host(5, [&] {
        for (int i = 0; i < kCopies; i++)
          cuda::check(cudaMemcpyAsync(to.data(), from.data(), size, cudaMemcpyDeviceToDevice, timer.stream()), "copy");
      }) / kCopies;
      bytes = 2 * double(size) / us * 1e6;
    }
    const int64_t n = 8192;
    const std::vector<bf16> values = noise(size_t(n * n));
    const HostMatrix matrix{WeightFormat::kBF16, n, n, values.data(), nullptr, nullptr};
    const auto w = gpu.make_linear({&matrix, 1});
    const RotatingTensors x(gpu, 1, DType::kBF16, n, n), out(gpu, 1, DType::kBF16, n, n);
    flops = 2.0 * double(n) * double(n) * double(n) / timer.device(1, [&](int i) { gpu.linear(out[i], x[i], *w); }, 4) * 1e6;
  }

  double floor_us(double work_bytes, double work_flops) const { return std::max(work_bytes / bytes, work_flops / flops) * 1e6; }
};

inline void print_titles() {
  std::printf("%-44s %10s %10s %8s %10s %8s %10s %7s\n", "", "us", "MB", "GB/s", "GFLOP", "TFLOP/s", "floor us", "share");
}

/// bytes, flops: what the operation must at least move and compute, however it is done.
inline void print_row(const Ceilings& ceilings, const std::string& what, double us, double bytes, double flops) {
  const double floor = ceilings.floor_us(bytes, flops);
  std::printf("%-44s %10.2f %10.3f %8.0f %10.3f %8.1f %10.2f %6.1f%%\n", what.c_str(), us, bytes / 1e6, bytes / us / 1e3, flops / 1e9,
              flops / us / 1e6, floor, 100 * floor / us);
  std::fflush(stdout);
}

}  // namespace lorikeet::testing
