#include "allocate.h"

#include <sys/mman.h>

#include <atomic>

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
  if (data == MAP_FAILED) throw Error("OUT_OF_MEMORY", "could not allocate " + std::to_string(bytes) + " bytes");
  if (rounded >= (2u << 20)) madvise(data, rounded, MADV_HUGEPAGE);
  total += rounded;
  return Buffer(data, rounded, release);
}

size_t allocated_bytes() { return total; }

}  // namespace lorikeet
