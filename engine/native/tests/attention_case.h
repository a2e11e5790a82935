// One attention step as numbers on the host: queries, a pool whose blocks lie in random order, block tables, and what must come out.
// Whatever a kernel must not use (free blocks, keys behind the window or beyond the row) is NaN.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "../core/batch.h"
#include "../core/parallel.h"
#include "../core/tensor.h"

namespace lorikeet::testing {

struct AttentionShape {
  int n_heads, n_kv_heads, head_dim, window;  // window 0: all keys
};
struct RowLength {
  int position, length;
};

class AttentionCase {
 public:
  static constexpr int kLayers = 2, kLayer = 1;

  AttentionCase(AttentionShape shape, const std::vector<RowLength>& rows, unsigned seed) : shape(shape), generator_(seed) {
    for (const RowLength& row : rows) add_row(row);
    const int spare = 5;
    std::vector<int32_t> order(size_t(n_used_ + spare));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), generator_);
    for (auto& table : tables_)
      for (int32_t& block : table) block = order[block];
    n_blocks = n_used_ + spare;
    pool.assign(size_t(n_blocks) * kLayers * shape.n_kv_heads * 2 * kBlockTokens * shape.head_dim, 0x7fc0);
    for (size_t r = 0; r < rows.size(); r++) connect(batch.rows[r], tables_[r]);
    for (const BatchRow& row : batch.rows)
      for (int p = first_key(row.position); p < row.position + row.length(); p++)
        for (int h = 0; h < shape.n_kv_heads; h++) fill(&pool[key_at(row, p, h)], 1), fill(&pool[key_at(row, p, h) + kBlockTokens * shape.head_dim], 1);
    q.resize(size_t(n_tokens()) * shape.n_heads * shape.head_dim);
    for (size_t i = 0; i < q.size(); i += shape.head_dim) fill(&q[i], 2);  // scores of +-2: some keys count, none alone
  }

  int n_tokens() const { return batch.n_tokens(); }
  float scale() const { return 1.0f / std::sqrt(float(shape.head_dim)); }

  /// softmax(scale * q k^T) v of one token and head, in double. [D]
  std::vector<double> expected(const BatchRow& row, int token, int head) const {
    const int D = shape.head_dim, at = row.position + token - row.begin, first = first_key(at), kv_head = head / (shape.n_heads / shape.n_kv_heads);
    const bf16* query = &q[(size_t(token) * shape.n_heads + head) * D];
    std::vector<double> scores, out(size_t(D), 0.0);
    for (int p = first; p <= at; p++) {
      const bf16* key = &pool[key_at(row, p, kv_head)];
      double dot = 0;
      for (int d = 0; d < D; d++) dot += double(to_f32(query[d])) * to_f32(key[d]);
      scores.push_back(dot * scale());
    }
    const double top = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& s : scores) sum += s = std::exp(s - top);
    for (int p = first; p <= at; p++) {
      const bf16* value = &pool[key_at(row, p, kv_head) + kBlockTokens * D];
      for (int d = 0; d < D; d++) out[d] += scores[p - first] / sum * to_f32(value[d]);
    }
    return out;
  }

  /// The largest distance of a head's output from what is expected, over the length of the latter.
  double worst(const std::vector<bf16>& got) const {
    const int D = shape.head_dim;
    std::vector<double> off(size_t(n_tokens()), 0.0);
    parallel_for(n_tokens(), [&](int64_t t) {
      const BatchRow& row = *std::find_if(batch.rows.begin(), batch.rows.end(), [&](const BatchRow& r) { return t < r.end; });
      for (int h = 0; h < shape.n_heads; h++) {
        const std::vector<double> want = expected(row, int(t), h);
        double distance = 0, length = 0;
        for (int d = 0; d < D; d++) {
          const double by = to_f32(got[(size_t(t) * shape.n_heads + h) * D + d]) - want[d];
          distance += by * by;
          length += want[d] * want[d];
        }
        off[t] = std::max(off[t], std::isfinite(distance) ? std::sqrt(distance / length) : std::numeric_limits<double>::infinity());
      }
    });
    return *std::max_element(off.begin(), off.end());
  }

  AttentionShape shape;
  Batch batch;
  std::vector<bf16> q;     // [T, n_heads * D]
  std::vector<bf16> pool;  // [block][layer][kv head][K, V][16][D]
  int n_blocks = 0;

 private:
  int first_key(int position) const { return shape.window ? std::max(0, position - shape.window + 1) : 0; }

  void add_row(RowLength plan) {
    BatchRow row;
    row.begin = n_tokens();
    row.end = row.begin + plan.length;
    row.position = plan.position;
    row.sliding_first = first_key(plan.position) / kBlockTokens;
    const int n = (plan.position + plan.length - 1) / kBlockTokens + 1 - row.sliding_first;
    (shape.window ? row.n_sliding : row.n_global) = n;
    for (int i = 0; i < plan.length; i++) {
      batch.token_ids.push_back(i);
      batch.positions.push_back(plan.position + i);
    }
    tables_.emplace_back(size_t(n));
    std::iota(tables_.back().begin(), tables_.back().end(), n_used_);
    n_used_ += n;
    batch.rows.push_back(row);
  }

  void connect(BatchRow& row, const std::vector<int32_t>& table) const { (shape.window ? row.sliding_blocks : row.global_blocks) = table.data(); }

  size_t key_at(const BatchRow& row, int p, int kv_head) const {
    const int block = shape.window ? row.sliding_blocks[p / kBlockTokens - row.sliding_first] : row.global_blocks[p / kBlockTokens];
    return (((size_t(block) * kLayers + kLayer) * shape.n_kv_heads + kv_head) * 2 * kBlockTokens + p % kBlockTokens) * shape.head_dim;
  }

  void fill(bf16* to, float sigma) {
    std::normal_distribution<float> draw(0, sigma);
    for (int d = 0; d < shape.head_dim; d++) to[d] = to_bf16(draw(generator_));
  }

  std::mt19937 generator_;
  std::vector<std::vector<int32_t>> tables_;
  int n_used_ = 0;
};

}  // namespace lorikeet::testing
