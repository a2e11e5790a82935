// The resident kernel and its launch, for one plan of a block: see decode_resident.cu.
#pragma once
#include "resident_merge.h"
#include "resident_norm.h"
#include "resident_product.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

template <class P>
__global__ void __launch_bounds__(P::kAllThreads, 1) resident_kernel(const __grid_constant__ ResidentArgs p) {
#if __CUDA_ARCH__ >= 900
  Block<P>(p).run();
#endif
}

/// Whether the device runs code of 9.0 or later: code of earlier ones, compiled again by the driver, has an empty kernel.
template <class P>
bool has_resident_code() {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, resident_kernel<P>), "the resident kernel's code");
  return attributes.ptxVersion >= 90;
}

template <class P>
void launch_resident(const ResidentArgs& p, int n_blocks, cudaStream_t stream) {
  constexpr auto kernel = resident_kernel<P>;
  allow_shared<kernel>();
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;  // all blocks at once or an error
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(n_blocks));
  config.blockDim = dim3(P::kAllThreads);
  config.dynamicSmemBytes = P::kBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, p), "launch of the resident kernel");
}

// What the kernel is built for: tokens, tiles of columns a warp, warps, query heads of a kv head, adapters.
template <int T, bool LORA>
using PlanOf270m = BlockPlan<T, 1, 10, 4, LORA>;
template <int T, bool LORA>
using PlanOf1b = BlockPlan<T, 1, 18, 4, LORA>;

// With adapters: decode_resident_lora.cu.
extern template void launch_resident<PlanOf270m<1, true>>(const ResidentArgs&, int, cudaStream_t);
extern template void launch_resident<PlanOf270m<2, true>>(const ResidentArgs&, int, cudaStream_t);
extern template void launch_resident<PlanOf270m<4, true>>(const ResidentArgs&, int, cudaStream_t);
extern template void launch_resident<PlanOf270m<8, true>>(const ResidentArgs&, int, cudaStream_t);
extern template void launch_resident<PlanOf1b<1, true>>(const ResidentArgs&, int, cudaStream_t);
extern template void launch_resident<PlanOf1b<2, true>>(const ResidentArgs&, int, cudaStream_t);
extern template void launch_resident<PlanOf1b<4, true>>(const ResidentArgs&, int, cudaStream_t);
extern template void launch_resident<PlanOf1b<8, true>>(const ResidentArgs&, int, cudaStream_t);

}  // namespace lorikeet::cuda
#endif
