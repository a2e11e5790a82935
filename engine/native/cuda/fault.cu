#include "fault.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "ops.h"

namespace lorikeet::cuda {
namespace {

__global__ void write_to(int* address) { *address = 1; }
__global__ void trap_kernel() { __trap(); }

}  // namespace

void inject_fault(cudaStream_t stream) {
  static const char* path = std::getenv("LORIKEET_TEST_CUDA_FAULT");
  if (!path) return;
  std::string fault;
  if (std::ifstream file(path); !(file >> fault)) return;
  std::remove(path);  // the process that comes after this one is spared
  if (fault == "illegal_address") {
    write_to<<<1, 1, 0, stream>>>(reinterpret_cast<int*>(0x10));
    check_launch("fault: illegal_address");
  } else if (fault == "trap") {
    trap_kernel<<<1, 1, 0, stream>>>();
    check_launch("fault: trap");
  } else if (fault == "out_of_memory") {
    allocate_device(size_t(1) << 50);
  } else {
    throw Error("INVALID_REQUEST", "LORIKEET_TEST_CUDA_FAULT: illegal_address, trap or out_of_memory, not \"" + fault + "\"");
  }
}

}  // namespace lorikeet::cuda
