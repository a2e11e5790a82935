// NF4 on the device: tiles of 16 rows x 64 columns (one absmax block wide) in the order in which mma.m16n8k16 wants its A operand, so a
// warp reads a tile as one uint4 a lane. A pure permutation: pack and unpack are inverse, tested bit for bit.
//
// Tile (r, c) holds rows [16 r, 16 r + 16), columns [64 c, 64 c + 64); tiles of one row of tiles follow each other.
// Byte s * 4 + i of lane l is register i of step s (16 columns each): two codes, even column in the low nibble, of
//   row    l / 4 + 8 * (i % 2),   columns 16 s + l % 4 * 2 + 8 * (i / 2)  and the next.
#pragma once
#include <cstdint>

namespace lorikeet::cuda {

constexpr int kTileRows = 16, kTileCols = 64, kTileBytes = 512;

struct TilePlace {
  int64_t byte;  // within the matrix
  bool high;     // nibble
};

inline TilePlace tile_place(int64_t row, int64_t col, int64_t cols) {
  const int64_t tile = row / kTileRows * (cols / kTileCols) + col / kTileCols;
  const int r = int(row % kTileRows), c = int(col % kTileCols), step = c / 16, in_step = c % 16;
  const int lane = r % 8 * 4 + in_step % 8 / 2, reg = r / 8 + in_step / 8 * 2;
  return {tile * kTileBytes + lane * 16 + step * 4 + reg, (c & 1) != 0};
}

/// bitsandbytes' order (row-major, even element in the high nibble) to tiles and back. rows must divide by 16, cols by 64.
void pack_tiles(const uint8_t* packed, int64_t rows, int64_t cols, uint8_t* tiles);
void unpack_tiles(const uint8_t* tiles, int64_t rows, int64_t cols, uint8_t* packed);
/// absmax [rows][cols / 64] to [row tile][cols / 64][8][2]: the scales of a tile lie together, those of rows g and g + 8 side by side.
void pack_scales(const float* absmax, int64_t rows, int64_t cols, float* scales);

}  // namespace lorikeet::cuda
