// Loading work over all processors of this process. Independent of OpenMP, whose threads belong to the forward pass.
#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace lorikeet {

inline int n_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

// Calls body(i) for every i of [0, n), in any order, on several threads; rethrows the first exception after all have ended.
template <typename Body>
void parallel_for(int64_t n, Body body) {
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex mutex;
  const auto work = [&] {
    try {
      for (int64_t i = next++; i < n; i = next++) body(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      next = n;
    }
  };
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < std::min<int64_t>(n_processors(), n); ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

// Calls body(begin, end) for pieces of [0, n) of at most `piece` elements.
template <typename Body>
void parallel_pieces(int64_t n, int64_t piece, Body body) {
  parallel_for((n + piece - 1) / piece, [&](int64_t i) { body(i * piece, std::min(n, (i + 1) * piece)); });
}

}  // namespace lorikeet
