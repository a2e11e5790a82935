// Device memory: pieces of it, and what the host puts there. Both are done when a call returns: the backend's stream does not wait for the
// default stream, on which they run.
#include <algorithm>
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
  check(cudaStreamSynchronize(nullptr), "clearing of memory");
  allocated += size;
  return Buffer(data, size, release);
}

void upload_device(void* to, const void* from, size_t bytes, const char* what) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), what);
  check(cudaStreamSynchronize(nullptr), what);  // cudaMemcpy returns once pageable memory is staged, its end still on its way
}

void upload_as_bf16(void* to, const HostMatrix& matrix, const char* what) {
  constexpr int64_t kPiece = 1 << 20;
  const int64_t n = matrix.rows * matrix.cols;
  if (matrix.format == WeightFormat::kBF16) return upload_device(to, matrix.data, size_t(n) * 2, what);
  std::vector<bf16> piece;
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    piece.resize(size_t(std::min(kPiece, n - begin)));
    const float* from = static_cast<const float*>(matrix.data) + begin;
    std::transform(from, from + piece.size(), piece.begin(), to_bf16);
    upload_device(static_cast<bf16*>(to) + begin, piece.data(), piece.size() * 2, what);
  }
}

size_t allocated_device_bytes() { return allocated; }

}  // namespace lorikeet::cuda
