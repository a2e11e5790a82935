#include "allocate.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <fstream>
#include <optional>
#include <string>

namespace lorikeet {
namespace {

std::atomic<size_t> total{0};

void release(void* data, size_t bytes) {
  munmap(data, bytes);
  total -= bytes;
}

}  // namespace

Buffer allocate(size_t bytes) {
  const size_t rounded = bytes == 0 ? 4096 : (bytes + 4095) / 4096 * 4096;
  void* data = mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    const std::string free = std::to_string(available_bytes());
    throw Error("OUT_OF_MEMORY", "could not allocate " + std::to_string(bytes) + " bytes, " + free + " are free");
  }
  if (rounded >= (2u << 20)) madvise(data, rounded, MADV_HUGEPAGE);
  total += rounded;
  return Buffer(data, rounded, release);
}

size_t allocated_bytes() { return total; }

namespace {

/// The number behind a name in a file of lines "name number ..."; an empty name: the file's first number.
std::optional<uint64_t> number_in(const char* path, const std::string& name) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (name.empty()) return file >> value ? std::optional(value) : std::nullopt;
  for (std::string key, line; file >> key && std::getline(file, line);)
    if (key == name) return std::stoull(line);
  return std::nullopt;
}

/// Of the limit on the process's address space.
uint64_t free_address_space() {
  rlimit limit{};
  const auto pages = number_in("/proc/self/statm", "");
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || !pages) return UINT64_MAX;
  const uint64_t all = limit.rlim_cur, used = *pages * uint64_t(sysconf(_SC_PAGESIZE));
  return all - std::min(all, used);
}

}  // namespace

uint64_t available_bytes() {
  const std::string group = "/sys/fs/cgroup/memory.";
  uint64_t available = free_address_space();
  if (const auto kib = number_in("/proc/meminfo", "MemAvailable:")) available = std::min(available, *kib * 1024);
  const auto limit = number_in((group + "max").c_str(), ""), used = number_in((group + "current").c_str(), "");  // "max": no limit
  if (!limit || !used) return available;
  const uint64_t held = *used - std::min(*used, number_in((group + "stat").c_str(), "inactive_file").value_or(0));
  return std::min(available, *limit - std::min(*limit, held));
}

}  // namespace lorikeet
