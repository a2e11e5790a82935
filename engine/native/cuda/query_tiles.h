// Which queries a thread block of prefill attention takes. Lists of several tile sizes are made once a step: which one fits depends on
// the model's head groups and on the GPU.
#pragma once
#include <span>

#include "device.h"

namespace lorikeet::cuda {

/// Tiles of `size` queries that cover the rows of more than one token.
int count_query_tiles(std::span<const BatchRow> rows, int size);

/// Writes them to tiles [count_query_tiles], those that see the most keys first: a heavy tile that starts last would end last.
void write_query_tiles(std::span<const BatchRow> rows, int size, QueryTile* tiles);

}  // namespace lorikeet::cuda
