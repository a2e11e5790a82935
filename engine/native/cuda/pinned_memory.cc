#include "pinned_memory.h"

#include <cuda_runtime.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

namespace lorikeet::cuda {
namespace {

constexpr size_t kHugePage = 2 << 20;  // fewer pages to pin

void unpin(char* data, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kPinnedPiece) cudaHostUnregister(data + at);
}

bool pin(char* data, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kPinnedPiece) {
    if (cudaHostRegister(data + at, std::min(kPinnedPiece, bytes - at), cudaHostRegisterDefault) == cudaSuccess) continue;
    cudaGetLastError();
    unpin(data, at);
    return false;
  }
  return true;
}

void release_registered(void* data, size_t bytes) {
  unpin(static_cast<char*>(data), bytes);
  std::free(data);
}

void release_plain(void* data, size_t) { std::free(data); }

void release_host(void* data, size_t) { cudaFreeHost(data); }

}  // namespace

Buffer allocate_pinned(size_t bytes) {
  const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* data = std::aligned_alloc(kHugePage, rounded);
  if (!data) throw Error("OUT_OF_MEMORY", "pinned memory of an adapter: " + std::to_string(rounded >> 20) + " MiB");
  madvise(data, rounded, MADV_HUGEPAGE);
  std::fill_n(static_cast<char*>(data), rounded, 0);  // every page is there before the driver is asked to pin it
  if (pin(static_cast<char*>(data), rounded)) return Buffer(data, rounded, release_registered);
  void* at_once = nullptr;
  if (cudaMallocHost(&at_once, rounded) != cudaSuccess) {
    cudaGetLastError();
    return Buffer(data, rounded, release_plain);
  }
  std::free(data);
  return Buffer(at_once, rounded, release_host);
}

}  // namespace lorikeet::cuda
