// Norm and rotation of queries and keys, and the way of keys and values into their blocks.
#include "kv_pool.h"

namespace lorikeet::CPU_NS {

void rope_table_cpu(Tensor table, std::span<const int32_t> positions, float theta, float scaling) {
  const int64_t half = table.cols / 2;
  std::vector<float> inverse(half);
  // Angles are fp32 products of position and fp32 inverse frequency, as transformers computes them.
  for (int64_t i = 0; i < half; i++) inverse[i] = 1.0f / std::pow(theta, float(2 * i) / float(table.cols)) / scaling;
#pragma omp parallel for if (table.rows > 1)
  for (int64_t t = 0; t < table.rows; t++) {
    float* row = table.f32(t);
    for (int64_t i = 0; i < half; i++) {
      const float angle = float(positions[t]) * inverse[i];
      row[i] = std::cos(angle);
      row[half + i] = std::sin(angle);
    }
  }
}

void norm_rope(float* out, const float* x, const float* w, const float* rope, int64_t D, float eps) {
  const float r = rsqrt_mean_square(x, D, eps);
  const int64_t half = D / 2;
  for (int64_t c = 0; c < half; c += kLanes) {
    const f32x16 a = load(x + c) * r * (1.0f + load(w + c));
    const f32x16 b = load(x + half + c) * r * (1.0f + load(w + half + c));
    const f32x16 cos = load(rope + c), sin = load(rope + half + c);
    store(out + c, a * cos - b * sin);
    store(out + half + c, b * cos + a * sin);
  }
}

namespace {

template <class T>
T as(float v) {
  if constexpr (sizeof(T) == 2) return to_bf16(v);
  else return v;
}

template <class T>
void append(const KvPoolCpu& pool, int block, int layer, int head, int offset, const float* k, const float* v) {
  constexpr int P = kPair<T>;
  const int64_t D = pool.head_dim;
  T* keys = pool.keys<T>(block, layer, head);
  T* values = keys + pool.elements();
  for (int64_t d = 0; d < D; d++) {
    keys[(d / P * kBlockTokens + offset) * P + d % P] = as<T>(k[d]);
    values[(offset / P * D + d) * P + offset % P] = as<T>(v[d]);
  }
}

/// Clears the values of every block that this row begins: what a former owner left must not meet a zero weight (0 * NaN is NaN).
void clear_new_blocks(const KvPoolCpu& pool, const BatchRow& row, int layer, bool sliding) {
  const int first = (row.position + kBlockTokens - 1) / kBlockTokens, last = (row.position + row.length() - 1) / kBlockTokens;
  const size_t bytes = size_t(pool.elements()) * size_of(pool.dtype);
  for (int logical = first; logical <= last; logical++) {
    const int block = sliding ? row.sliding_blocks[logical - row.sliding_first] : row.global_blocks[logical];
    for (int h = 0; h < pool.n_kv_heads; h++) {
      char* keys = pool.dtype == DType::kBF16 ? (char*)pool.keys<bf16>(block, layer, h) : (char*)pool.keys<float>(block, layer, h);
      std::memset(keys + bytes, 0, bytes);
    }
  }
}

}  // namespace

void qk_norm_rope_append_cpu(Tensor q, const Backend::QkvArgs& a) {
  const auto& pool = static_cast<const KvPoolCpu&>(*a.pool);
  const int64_t D = a.head_dim;
  expect_shape("qkv", a.qkv, q.rows, (a.n_heads + 2 * a.n_kv_heads) * D);
  for (const BatchRow& row : a.rows) {
    clear_new_blocks(pool, row, a.layer, a.sliding);
#pragma omp parallel for if (row.length() > 4)
    for (int t = row.begin; t < row.end; t++) {
      const float* in = a.qkv.f32(t);
      const float* rope = a.rope.f32(t);
      alignas(64) float turned[512];
      for (int h = 0; h < a.n_heads; h++) {
        norm_rope(turned, in + h * D, a.q_norm, rope, D, a.eps);
        for (int64_t c = 0; c < D; c += kLanes) store_act(q.row(t), q.dtype, h * D + c, load(turned + c));
      }
      const int position = row.position + (t - row.begin);
      const int logical = position / kBlockTokens, offset = position % kBlockTokens;
      const int block = a.sliding ? row.sliding_blocks[logical - row.sliding_first] : row.global_blocks[logical];
      for (int h = 0; h < a.n_kv_heads; h++) {
        const float* k = in + (a.n_heads + h) * D;
        norm_rope(turned, k, a.k_norm, rope, D, a.eps);
        if (pool.dtype == DType::kBF16) append<bf16>(pool, block, a.layer, h, offset, turned, k + a.n_kv_heads * D);
        else append<float>(pool, block, a.layer, h, offset, turned, k + a.n_kv_heads * D);
      }
    }
  }
}

}  // namespace lorikeet::CPU_NS
