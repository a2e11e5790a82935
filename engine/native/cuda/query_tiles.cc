#include "query_tiles.h"

#include <algorithm>

namespace lorikeet::cuda {

int count_query_tiles(std::span<const BatchRow> rows, int size) {
  int n = 0;
  for (const BatchRow& row : rows) n += row.length() > 1 ? ceil_div(row.length(), size) : 0;
  return n;
}

void write_query_tiles(std::span<const BatchRow> rows, int size, QueryTile* tiles) {
  int n = 0;
  for (int r = 0; r < int(rows.size()); r++)
    for (int first = 0; rows[r].length() > 1 && first < rows[r].length(); first += size) tiles[n++] = {r, first};
  const auto position = [&](QueryTile tile) { return rows[tile.row].position + tile.first; };
  std::stable_sort(tiles, tiles + n, [&](QueryTile a, QueryTile b) { return position(a) > position(b); });
}

}  // namespace lorikeet::cuda
