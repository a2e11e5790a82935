// Host memory that the device copies from by itself. Pinned piece by piece: while the driver pins pages, launches of other threads wait,
// and an adapter at once would hold them up for many steps.
#pragma once
#include "../core/tensor.h"

namespace lorikeet::cuda {

/// A copy must not reach over the boundary of two pieces, counted from the block's begin.
constexpr size_t kPinnedPiece = 4 << 20;

/// Zeros. Where the system cannot pin it, plain memory, from which copies are slower. @throws Error OUT_OF_MEMORY
Buffer allocate_pinned(size_t bytes);

}  // namespace lorikeet::cuda
