#include "nf4_layout.h"

#include <cstring>

#include "../core/parallel.h"

namespace lorikeet::cuda {

void pack_tiles(const uint8_t* packed, int64_t rows, int64_t cols, uint8_t* tiles) {
  parallel_for(rows / kTileRows, [&](int64_t r) {
    std::memset(tiles + r * kTileRows * cols / 2, 0, size_t(kTileRows * cols / 2));
    for (int64_t row = r * kTileRows; row < (r + 1) * kTileRows; row++)
      for (int64_t col = 0; col < cols; col++) {
        const uint8_t byte = packed[(row * cols + col) / 2], code = col & 1 ? byte & 15 : byte >> 4;
        const TilePlace place = tile_place(row, col, cols);
        tiles[place.byte] |= uint8_t(place.high ? code << 4 : code);
      }
  });
}

void unpack_tiles(const uint8_t* tiles, int64_t rows, int64_t cols, uint8_t* packed) {
  std::memset(packed, 0, size_t(rows * cols / 2));
  for (int64_t row = 0; row < rows; row++)
    for (int64_t col = 0; col < cols; col++) {
      const TilePlace place = tile_place(row, col, cols);
      const uint8_t code = place.high ? tiles[place.byte] >> 4 : tiles[place.byte] & 15;
      packed[(row * cols + col) / 2] |= uint8_t(col & 1 ? code : code << 4);
    }
}

void pack_scales(const float* absmax, int64_t rows, int64_t cols, float* scales) {
  const int64_t blocks = cols / kTileCols;
  for (int64_t row = 0; row < rows; row++)
    for (int64_t b = 0; b < blocks; b++)
      scales[(row / kTileRows * blocks + b) * kTileRows + row % 8 * 2 + row % kTileRows / 8] = absmax[row * blocks + b];
}

}  // namespace lorikeet::cuda
