// What a failed call of CUDA becomes.
#include "device.h"

#include "sticky.h"

namespace lorikeet::cuda {
namespace {

static_assert(kEccUncorrectable == cudaErrorECCUncorrectable && kNvlinkUncorrectable == cudaErrorNvlinkUncorrectable);
static_assert(kIllegalAddress == cudaErrorIllegalAddress && kLaunchTimeout == cudaErrorLaunchTimeout);
static_assert(kContextIsDestroyed == cudaErrorContextIsDestroyed && kAssert == cudaErrorAssert);
static_assert(kHardwareStackError == cudaErrorHardwareStackError && kIllegalInstruction == cudaErrorIllegalInstruction);
static_assert(kMisalignedAddress == cudaErrorMisalignedAddress && kInvalidAddressSpace == cudaErrorInvalidAddressSpace);
static_assert(kInvalidPc == cudaErrorInvalidPc && kLaunchFailure == cudaErrorLaunchFailure);
static_assert(kMpsClientTerminated == cudaErrorMpsClientTerminated && kExternalDevice == cudaErrorExternalDevice);
static_assert(kUnknown == cudaErrorUnknown);

}  // namespace

void fail(cudaError_t status, const char* what) {
  cudaGetLastError();  // forgets one that does no lasting harm: the next launch would report it as its own
  const cudaError_t left = cudaPeekAtLastError();
  const char* code = left == cudaErrorMemoryAllocation || left == cudaSuccess ? error_code(int(status)) : "DEVICE_LOST";
  throw Error(code, std::string(what) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ", " +
                        std::to_string(int(status)) + ")");
}

}  // namespace lorikeet::cuda
