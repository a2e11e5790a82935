// The resident kernels for steps with adapters.
#include "resident_kernel.h"

namespace lorikeet::cuda {

template void launch_resident<PlanOf270m<1, true>>(const ResidentArgs&, int, cudaStream_t);
template void launch_resident<PlanOf270m<2, true>>(const ResidentArgs&, int, cudaStream_t);
template void launch_resident<PlanOf270m<4, true>>(const ResidentArgs&, int, cudaStream_t);
template void launch_resident<PlanOf270m<8, true>>(const ResidentArgs&, int, cudaStream_t);
template void launch_resident<PlanOf1b<1, true>>(const ResidentArgs&, int, cudaStream_t);
template void launch_resident<PlanOf1b<2, true>>(const ResidentArgs&, int, cudaStream_t);
template void launch_resident<PlanOf1b<4, true>>(const ResidentArgs&, int, cudaStream_t);
template void launch_resident<PlanOf1b<8, true>>(const ResidentArgs&, int, cudaStream_t);

}  // namespace lorikeet::cuda
