// Zeroed, page-aligned memory of the CPU backend, counted. It comes straight from the kernel: untouched pages cost nothing.
#pragma once
#include "../core/tensor.h"

namespace lorikeet {

/// @throws Error OUT_OF_MEMORY with the size asked for.
Buffer allocate(size_t bytes);
size_t allocated_bytes();

}  // namespace lorikeet
