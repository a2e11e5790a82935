// Which errors of CUDA end a process: after them every call on the device returns the same error, whatever it is asked.
// No CUDA header is needed here, so that this is tested everywhere; device.cc holds the numbers to CUDA's own.
#pragma once

namespace lorikeet::cuda {

constexpr int kEccUncorrectable = 214,
              kNvlinkUncorrectable = 220,
              kContained = 226,
              kIllegalAddress = 700,
              kLaunchTimeout = 702,
              kContextIsDestroyed = 709,
              kAssert = 710,
              kHardwareStackError = 714,
              kIllegalInstruction = 715,
              kMisalignedAddress = 716,
              kInvalidAddressSpace = 717,
              kInvalidPc = 718,
              kLaunchFailure = 719,
              kTensorMemoryLeak = 721,
              kMpsClientTerminated = 810,
              kExternalDevice = 911,
              kUnknown = 999;

/// A cudaError_t that "leaves the process in an inconsistent state" (CUDA runtime API, cudaError). Out of memory and bad arguments do not.
constexpr bool is_sticky(int error) {
  switch (error) {
    case kEccUncorrectable:
    case kNvlinkUncorrectable:
    case kContained:
    case kIllegalAddress:
    case kLaunchTimeout:
    case kContextIsDestroyed:
    case kAssert:
    case kHardwareStackError:
    case kIllegalInstruction:
    case kMisalignedAddress:
    case kInvalidAddressSpace:
    case kInvalidPc:
    case kLaunchFailure:
    case kTensorMemoryLeak:
    case kMpsClientTerminated:
    case kExternalDevice:
    case kUnknown:
      return true;
    default:
      return false;
  }
}

/// Code of the Error that a failed call becomes.
constexpr const char* error_code(int error) {
  constexpr int kMemoryAllocation = 2;
  return error == kMemoryAllocation ? "OUT_OF_MEMORY" : is_sticky(error) ? "DEVICE_LOST" : "CUDA_ERROR";
}

}  // namespace lorikeet::cuda
