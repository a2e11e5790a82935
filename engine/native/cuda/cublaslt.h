// cuBLASLt, loaded at run time: the binary starts on machines that have none.
#pragma once
#include <cublasLt.h>

#include <map>
#include <tuple>

#include "device.h"

namespace lorikeet::cuda {

class CublasLt {
 public:
  /// @throws Error CUDA_ERROR naming what was looked for.
  CublasLt();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;

  /// out [T, n] f32 or bf16 = x [T, k] bf16 @ w [n, k]^T bf16; rows of out and x may be strided.
  void matmul(Tensor out, Tensor x, const nv_bf16* w, int64_t n, cudaStream_t stream);

 private:
  struct Plan;
  const Plan& plan(int64_t n, int64_t tokens, int64_t k, int64_t x_stride, int64_t out_stride, DType out);

  struct Functions;
  std::unique_ptr<Functions> f_;
  cublasLtHandle_t handle_ = nullptr;
  Buffer workspace_;
  std::map<std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, DType>, std::unique_ptr<Plan>> plans_;
};

}  // namespace lorikeet::cuda
