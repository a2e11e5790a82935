// out[s] = x[token[s]]: one block a row. Which rows travels as a kernel argument, so nothing is uploaded.
#include <algorithm>

#include "ops.h"

namespace lorikeet::cuda {
namespace {

constexpr int kRows = 512, kThreads = 128;  // rows of a launch: 2 of the 4 KiB that arguments may have

struct Rows {
  int32_t token[kRows];
};

__global__ void gather_kernel(char* out, int64_t out_pitch, const char* x, int64_t x_pitch, int n_words,
                              const __grid_constant__ Rows rows) {
  const auto* from = reinterpret_cast<const uint2*>(x + rows.token[blockIdx.x] * x_pitch);
  auto* to = reinterpret_cast<uint2*>(out + blockIdx.x * out_pitch);
  for (int i = threadIdx.x; i < n_words; i += kThreads) to[i] = from[i];
}

}  // namespace

void gather_rows_cuda(Tensor out, Tensor x, std::span<const int32_t> tokens, cudaStream_t stream) {
  const int64_t size = int64_t(size_of(x.dtype)), width = x.cols * size;
  if (width % 8) throw Error("UNSUPPORTED", "rows of " + std::to_string(width) + " bytes on CUDA: a multiple of 8 is built");
  for (size_t begin = 0; begin < tokens.size(); begin += kRows) {
    const size_t n = std::min<size_t>(kRows, tokens.size() - begin);
    Rows rows{};
    std::copy_n(tokens.begin() + begin, n, rows.token);
    gather_kernel<<<unsigned(n), kThreads, 0, stream>>>(static_cast<char*>(out.row(int64_t(begin))), out.stride * size,
                                                        static_cast<const char*>(x.data), x.stride * size, int(width / 8), rows);
  }
  check_launch("gather_rows");
}

}  // namespace lorikeet::cuda
