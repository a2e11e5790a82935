// Faults on purpose, for tests of what follows. LORIKEET_TEST_CUDA_FAULT names a file; the step that finds it there takes it away and
// meets what it says: "illegal_address", "trap" or "out_of_memory". Without the variable nothing looks.
#pragma once
#include <cuda_runtime.h>

namespace lorikeet::cuda {

/// Queues the fault that was asked for. @throws Error OUT_OF_MEMORY, INVALID_REQUEST for a word that is none of these
void inject_fault(cudaStream_t stream);

}  // namespace lorikeet::cuda
