// Zeroed, page-aligned memory of the CPU backend, counted. It comes straight from the kernel: untouched pages cost nothing.
#pragma once
#include "../core/tensor.h"

namespace lorikeet {

/// @throws Error OUT_OF_MEMORY with the size asked for and what is free.
Buffer allocate(size_t bytes);
size_t allocated_bytes();
/// What the machine, the control group of this process or its address space (ulimit -v) has left; file cache counts as free.
uint64_t available_bytes();

}  // namespace lorikeet
