#include <atomic>

#include "ops.h"

namespace lorikeet::cuda {
namespace {

std::atomic<size_t> allocated{0};

void release(void* data, size_t bytes) {
  cudaFree(data);
  allocated -= bytes;
}

}  // namespace

Buffer allocate_device(size_t bytes) {
  void* data = nullptr;
  const size_t size = bytes < 256 ? 256 : bytes;
  if (cudaMalloc(&data, size) != cudaSuccess) {
    size_t free = 0, total = 0;
    cudaGetLastError();
    cudaMemGetInfo(&free, &total);
    throw Error("OUT_OF_MEMORY", "GPU memory: " + std::to_string(size >> 20) + " MiB wanted, " + std::to_string(free >> 20) + " of " +
                                     std::to_string(total >> 20) + " MiB free");
  }
  check(cudaMemset(data, 0, size), "clearing of memory");
  check(cudaStreamSynchronize(nullptr), "clearing of memory");  // the backend's stream does not wait for this one
  allocated += size;
  return Buffer(data, size, release);
}

size_t allocated_device_bytes() { return allocated; }

}  // namespace lorikeet::cuda
