#include "cublaslt.h"

#include <dlfcn.h>

#include "ops.h"

namespace lorikeet::cuda {
namespace {

constexpr size_t kWorkspaceBytes = 32 << 20;  // what Hopper's kernels ask for at most

void* open_library() {
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"})
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  throw Error("CUDA_ERROR", std::string("cuBLASLt was not found (libcublasLt.so.13; add its folder to LD_LIBRARY_PATH): ") + dlerror());
}

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  check(cudaGetLastError(), what);  // cuBLASLt's own words hide a lost device
  throw Error("CUDA_ERROR", std::string(what) + ": cuBLASLt status " + std::to_string(int(status)));
}

}  // namespace

#define LORIKEET_BLAS_FUNCTIONS(F)                                                                                                     \
  F(cublasLtCreate)                                                                                                                    \
  F(cublasLtDestroy) F(cublasLtMatmul) F(cublasLtMatmulAlgoGetHeuristic) F(cublasLtMatmulDescCreate) F(cublasLtMatmulDescDestroy)      \
      F(cublasLtMatmulDescSetAttribute) F(cublasLtMatrixLayoutCreate) F(cublasLtMatrixLayoutDestroy) F(cublasLtMatmulPreferenceCreate) \
          F(cublasLtMatmulPreferenceDestroy) F(cublasLtMatmulPreferenceSetAttribute)

struct CublasLt::Functions {
  void* library;
#define LORIKEET_DECLARE(name) decltype(&::name) name;
  LORIKEET_BLAS_FUNCTIONS(LORIKEET_DECLARE)
};

struct CublasLt::Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm;
};

CublasLt::CublasLt() : f_(std::make_unique<Functions>()) {
  f_->library = open_library();
#define LORIKEET_LOAD(name)                                                  \
  f_->name = reinterpret_cast<decltype(&::name)>(dlsym(f_->library, #name)); \
  if (!f_->name) throw Error("CUDA_ERROR", "cuBLASLt has no " #name);
  LORIKEET_BLAS_FUNCTIONS(LORIKEET_LOAD)
  check_blas(f_->cublasLtCreate(&handle_), "cublasLtCreate");
  workspace_ = allocate_device(kWorkspaceBytes);
}

CublasLt::~CublasLt() {
  for (auto& [key, p] : plans_) {
    f_->cublasLtMatmulDescDestroy(p->operation);
    for (cublasLtMatrixLayout_t layout : {p->w, p->x, p->out}) f_->cublasLtMatrixLayoutDestroy(layout);
  }
  if (handle_) f_->cublasLtDestroy(handle_);
}

/// cuBLASLt counts by columns: out^T [n, T] = w [n, k] (stored as k x n, transposed) times x^T [k, T].
const CublasLt::Plan& CublasLt::plan(int64_t n, int64_t tokens, int64_t k, int64_t x_stride, int64_t out_stride, DType out) {
  std::unique_ptr<Plan>& slot = plans_[{n, tokens, k, x_stride, out_stride, out}];
  if (slot) return *slot;
  auto p = std::make_unique<Plan>();
  check_blas(f_->cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check_blas(f_->cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed), "transpose");
  check_blas(f_->cublasLtMatrixLayoutCreate(&p->w, CUDA_R_16BF, uint64_t(k), uint64_t(n), k), "layout of w");
  check_blas(f_->cublasLtMatrixLayoutCreate(&p->x, CUDA_R_16BF, uint64_t(k), uint64_t(tokens), x_stride), "layout of x");
  check_blas(
      f_->cublasLtMatrixLayoutCreate(&p->out, out == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF, uint64_t(n), uint64_t(tokens), out_stride),
      "layout of out");
  cublasLtMatmulPreference_t preference;
  check_blas(f_->cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const size_t bytes = kWorkspaceBytes;
  f_->cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
  cublasLtMatmulHeuristicResult_t result;
  int found = 0;
  const cublasStatus_t status =
      f_->cublasLtMatmulAlgoGetHeuristic(handle_, p->operation, p->w, p->x, p->out, p->out, preference, 1, &result, &found);
  f_->cublasLtMatmulPreferenceDestroy(preference);
  check_blas(status, "cublasLtMatmulAlgoGetHeuristic");
  if (found == 0)
    throw Error("CUDA_ERROR", "cuBLASLt has no way to multiply [" + std::to_string(tokens) + ", " + std::to_string(k) + "] by [" +
                                  std::to_string(n) + ", " + std::to_string(k) + "]^T");
  p->algorithm = result.algo;
  slot = std::move(p);
  return *slot;
}

void CublasLt::matmul(Tensor out, Tensor x, const nv_bf16* w, int64_t n, cudaStream_t stream) {
  const Plan& p = plan(n, x.rows, x.cols, x.stride, out.stride, out.dtype);
  const float one = 1, zero = 0;
  check_blas(f_->cublasLtMatmul(handle_, p.operation, &one, w, p.w, x.data, p.x, &zero, out.data, p.out, out.data, p.out, &p.algorithm,
                                workspace_.data(), kWorkspaceBytes, stream),
             "cublasLtMatmul");
}

}  // namespace lorikeet::cuda
