// out = softmax(scale * q k^T) v over paged keys, causal, with or without a window.
// Keys are taken in chunks at fixed positions; each chunk has a running softmax of its own and chunks are merged in order. So a
// query's result is the same bytes whether its chunks run on one thread or many, alone or among other queries.
#include <omp.h>

#include <algorithm>
#include <limits>

#include "allocate.h"
#include "kv_pool.h"

namespace lorikeet::CPU_NS {
namespace {

constexpr int kChunkBlocks = 32;   // 512 keys
constexpr int kTileTokens = 8;     // query tokens that share a pass over the keys
constexpr int kScoreQueries = 8;   // queries scored together: their accumulators fill a quarter of the registers
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

/// Running softmax of one query: o = sum of exp(score - max) * v, sum = sum of exp(score - max).
struct Partial {
  float max, sum;
  float* o;  // [D]
};

void reset(Partial& p, int64_t D) {
  p.max = kMinusInfinity;
  p.sum = 0;
  std::memset(p.o, 0, size_t(D) * 4);
}

void scale_row(float* o, int64_t D, float by) {
  for (int64_t d = 0; d < D; d += kLanes) store(o + d, load(o + d) * by);
}

void merge(Partial& into, const Partial& from, int64_t D) {
  if (from.sum == 0) return;
  if (into.sum == 0) {
    into.max = from.max;
    into.sum = from.sum;
    std::memcpy(into.o, from.o, size_t(D) * 4);
    return;
  }
  const float max = std::max(into.max, from.max);
  const float a = exp(splat(into.max - max))[0], b = exp(splat(from.max - max))[0];
  into.sum = into.sum * a + from.sum * b;
  into.max = max;
  for (int64_t d = 0; d < D; d += kLanes) store(into.o + d, load(into.o + d) * a + load(from.o + d) * b);
}

/// scores[i] = q[i] . keys of one block, N queries.
template <class T, int N>
inline void score_block(const T* keys, const T* const* q, int64_t D, f32x16* scores) {
  f32x16 acc[N];
  for (int i = 0; i < N; i++) acc[i] = f32x16{};
  for (int64_t d = 0; d < D; d += kPair<T>) {
    for (int i = 0; i < N; i++) {
      if constexpr (sizeof(T) == 2) acc[i] = dot_bf16_pair(acc[i], keys + d * kBlockTokens, q[i] + d);
      else acc[i] += load(keys + d * kBlockTokens) * q[i][d];
    }
  }
  for (int i = 0; i < N; i++) scores[i] = acc[i];
}

/// o += weights @ values of one block.
template <class T>
inline void weigh_block(float* o, const T* values, f32x16 weights, int64_t D) {
  alignas(64) T w[kBlockTokens];
  if constexpr (sizeof(T) == 2) store_bf16(w, weights);
  else store(w, weights);
  constexpr int P = kPair<T>, kWide = 4;
  for (int64_t d = 0; d < D; d += kWide * kLanes) {
    const int n = int(std::min<int64_t>(kWide, (D - d) / kLanes));
    f32x16 acc[kWide];
    for (int j = 0; j < n; j++) acc[j] = load(o + d + j * kLanes);
    for (int t = 0; t < kBlockTokens; t += P) {
      for (int j = 0; j < n; j++) {
        const T* v = values + (t / P * D + d + j * kLanes) * P;
        if constexpr (sizeof(T) == 2) acc[j] = dot_bf16_pair(acc[j], v, w + t);
        else acc[j] += load(v) * w[t];
      }
    }
    for (int j = 0; j < n; j++) store(o + d + j * kLanes, acc[j]);
  }
}

/// Query tokens [begin, end) of one row and one kv head: (end - begin) * group queries.
struct Tile {
  const BatchRow* row;
  int begin, end;
  int kv_head;
  int first_chunk, n_chunks;
};

struct Call {
  const Backend::AttentionArgs& args;
  const KvPoolCpu& pool;
  Tensor q, out;
  int group;     // query heads of one kv head
  int64_t D;

  int position(const Tile& tile, int token) const { return tile.row->position + token - tile.row->begin; }
  int first_key(int position) const { return args.window ? std::max(0, position - args.window + 1) : 0; }
  int block(const BatchRow& row, int logical) const {
    return args.sliding ? row.sliding_blocks[logical - row.sliding_first] : row.global_blocks[logical];
  }
};

inline f32x16 mask_scores(f32x16 scores, int first_key_of_block, int first_key, int last_key) {
  const i32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const i32x16 keys = lanes + first_key_of_block;
  return select((keys >= first_key) & (keys <= last_key), scores, splat(kMinusInfinity));
}

template <class T>
void absorb_block(Partial& p, f32x16 scores, const T* values, int64_t D) {
  const float block_max = reduce_max(scores);
  if (block_max == kMinusInfinity) return;  // nothing of this block is visible
  if (block_max > p.max) {
    const float shrink = exp(splat(p.max - block_max))[0];
    p.sum *= shrink;
    scale_row(p.o, D, shrink);
    p.max = block_max;
  }
  const f32x16 weights = exp(scores - p.max);
  p.sum += reduce_add(weights);
  weigh_block<T>(p.o, values, weights, D);
}

/// One chunk of keys for every query of a tile. parts: [tokens * group], reset here.
template <class T>
void attend_chunk(const Call& c, const Tile& tile, int chunk, Partial* parts) {
  const int n_queries = (tile.end - tile.begin) * c.group;
  const T* queries[kTileTokens * 64];
  for (int i = 0; i < n_queries; i++) {
    const int token = tile.begin + i / c.group, head = tile.kv_head * c.group + i % c.group;
    queries[i] = static_cast<const T*>(c.q.row(token)) + head * c.D;
    reset(parts[i], c.D);
  }
  const int last_position = c.position(tile, tile.end - 1);
  const int begin = std::max(chunk * kChunkBlocks, c.first_key(c.position(tile, tile.begin)) / kBlockTokens);
  const int end = std::min((chunk + 1) * kChunkBlocks, last_position / kBlockTokens + 1);
  for (int logical = begin; logical < end; logical++) {
    const T* keys = c.pool.keys<T>(c.block(*tile.row, logical), c.args.layer, tile.kv_head);
    const T* values = keys + c.pool.elements();
    for (int i = 0; i < n_queries; i += kScoreQueries) {
      f32x16 scores[kScoreQueries];
      const int n = std::min(kScoreQueries, n_queries - i);
      if (n == kScoreQueries) score_block<T, kScoreQueries>(keys, queries + i, c.D, scores);
      else if (n >= 4) {
        score_block<T, 4>(keys, queries + i, c.D, scores);
        for (int j = 4; j < n; j++) score_block<T, 1>(keys, queries + i + j, c.D, scores + j);
      } else {
        for (int j = 0; j < n; j++) score_block<T, 1>(keys, queries + i + j, c.D, scores + j);
      }
      for (int j = 0; j < n; j++) {
        const int position = c.position(tile, tile.begin + (i + j) / c.group);
        const f32x16 masked = mask_scores(scores[j] * c.args.scale, logical * kBlockTokens, c.first_key(position), position);
        absorb_block<T>(parts[i + j], masked, values, c.D);
      }
    }
  }
}

void write_tile(const Call& c, const Tile& tile, const Partial* totals) {
  for (int i = 0; i < (tile.end - tile.begin) * c.group; i++) {
    const int token = tile.begin + i / c.group, head = tile.kv_head * c.group + i % c.group;
    const float inverse = 1.0f / totals[i].sum;
    for (int64_t d = 0; d < c.D; d += kLanes) store_act(c.out.row(token), c.out.dtype, head * c.D + d, load(totals[i].o + d) * inverse);
  }
}

/// Partials over scratch memory of [n][D].
std::vector<Partial> make_partials(int n, int64_t D, std::vector<float>& memory) {
  memory.resize(size_t(n * D));
  std::vector<Partial> parts(n);
  for (int i = 0; i < n; i++) {
    parts[i].o = memory.data() + i * D;
    reset(parts[i], D);
  }
  return parts;
}

std::vector<Tile> make_tiles(const Call& c) {
  std::vector<Tile> tiles;
  for (const BatchRow& row : c.args.rows) {
    for (int begin = row.begin; begin < row.end; begin += kTileTokens) {
      for (int h = 0; h < c.args.n_kv_heads; h++) {
        Tile tile{&row, begin, std::min(begin + kTileTokens, row.end), h, 0, 0};
        tile.first_chunk = c.first_key(c.position(tile, begin)) / (kChunkBlocks * kBlockTokens);
        tile.n_chunks = c.position(tile, tile.end - 1) / (kChunkBlocks * kBlockTokens) + 1 - tile.first_chunk;
        tiles.push_back(tile);
      }
    }
  }
  return tiles;
}

/// Enough tiles for all threads: each tile walks its chunks.
template <class T>
void by_tile(const Call& c, const std::vector<Tile>& tiles) {
#pragma omp parallel if (tiles.size() > 1)
  {
    std::vector<float> total_memory, part_memory;
    const int n = kTileTokens * c.group;
    std::vector<Partial> totals = make_partials(n, c.D, total_memory), parts = make_partials(n, c.D, part_memory);
#pragma omp for schedule(dynamic, 1)
    for (size_t i = 0; i < tiles.size(); i++) {
      for (Partial& total : totals) reset(total, c.D);
      const int used = (tiles[i].end - tiles[i].begin) * c.group;
      for (int k = 0; k < tiles[i].n_chunks; k++) {
        attend_chunk<T>(c, tiles[i], tiles[i].first_chunk + k, parts.data());
        for (int j = 0; j < used; j++) merge(totals[j], parts[j], c.D);
      }
      write_tile(c, tiles[i], totals.data());
    }
  }
}

/// Few tiles with long contexts: threads share the chunks, then merge in order.
template <class T>
void by_chunk(const Call& c, const std::vector<Tile>& tiles) {
  struct Item { int tile, chunk; };
  std::vector<Item> items;
  for (size_t i = 0; i < tiles.size(); i++)
    for (int k = 0; k < tiles[i].n_chunks; k++) items.push_back({int(i), k});
  const int n = kTileTokens * c.group;
  std::vector<float> memory, total_memory;
  std::vector<Partial> parts = make_partials(int(items.size()) * n, c.D, memory), totals = make_partials(n, c.D, total_memory);
#pragma omp parallel for schedule(dynamic, 1)
  for (size_t i = 0; i < items.size(); i++) {
    const Tile& tile = tiles[items[i].tile];
    attend_chunk<T>(c, tile, tile.first_chunk + items[i].chunk, parts.data() + i * n);
  }
  size_t item = 0;
  for (const Tile& tile : tiles) {
    for (Partial& total : totals) reset(total, c.D);
    for (int k = 0; k < tile.n_chunks; k++, item++)
      for (int j = 0; j < (tile.end - tile.begin) * c.group; j++) merge(totals[j], parts[item * n + j], c.D);
    write_tile(c, tile, totals.data());
  }
}

template <class T>
void attend(const Call& c) {
  const std::vector<Tile> tiles = make_tiles(c);
  int longest = 0;
  for (const Tile& tile : tiles) longest = std::max(longest, tile.n_chunks);
  if (longest > 1 && int(tiles.size()) < 2 * omp_get_max_threads()) by_chunk<T>(c, tiles);
  else by_tile<T>(c, tiles);
}

}  // namespace

std::unique_ptr<KvPool> make_kv_pool_cpu(int n_blocks, int n_layers, int n_kv_heads, int head_dim, DType dtype) {
  auto pool = std::make_unique<KvPoolCpu>();
  pool->n_blocks = n_blocks;
  pool->n_layers = n_layers;
  pool->n_kv_heads = n_kv_heads;
  pool->head_dim = head_dim;
  pool->dtype = dtype;
  pool->bytes = size_t(n_blocks) * n_layers * n_kv_heads * 2 * pool->elements() * size_of(dtype);
  pool->buffer = allocate(pool->bytes);
  return pool;
}

void attention_cpu(Tensor out, Tensor q, const Backend::AttentionArgs& args) {
  const Call call{args, static_cast<const KvPoolCpu&>(*args.pool), q, out, args.n_heads / args.n_kv_heads, args.head_dim};
  expect_shape("attention q", q, out.rows, args.n_heads * call.D);
  if (q.dtype == DType::kBF16) attend<bf16>(call);
  else attend<float>(call);
}

}  // namespace lorikeet::CPU_NS
