// One step of norm, rotation and append as numbers on the host: queries, keys and values of scattered rows, random angles, a poisoned pool,
// and what must come out.
#pragma once
#include <numeric>

#include "ops_testing.h"
#if defined(LORIKEET_CUDA_BUILT)
#include "../cuda/ops.h"
#include "../cuda/kv_pool.h"
#endif

namespace lorikeet::testing {

constexpr float kEps = 1e-6f;

/// x * rsqrt(mean(x^2) + eps) * (1 + w), row by row.
inline std::vector<double> normed(const std::vector<double>& x, const std::vector<float>& w) {
  const size_t H = w.size();
  std::vector<double> out(x.size());
  for (size_t begin = 0; begin < x.size(); begin += H) {
    double sum = 0;
    for (size_t i = 0; i < H; i++) sum += x[begin + i] * x[begin + i];
    for (size_t i = 0; i < H; i++) out[begin + i] = x[begin + i] / std::sqrt(sum / double(H) + kEps) * (1 + double(w[i]));
  }
  return out;
}

struct HeadShape {
  int n_heads, n_kv_heads, head_dim;
  int width() const { return (n_heads + 2 * n_kv_heads) * head_dim; }
};

/// Rows of a step that bring keys and values to scattered blocks of one layer of three, random angles, and what must come out.
class AppendCase {
 public:
  static constexpr int kLayers = 3, kLayer = 1, kWindow = 64;

  AppendCase(HeadShape shape, bool sliding, const std::vector<std::pair<int, int>>& rows) : shape_(shape), sliding_(sliding) {
    for (const auto& [position, length] : rows) {
      BatchRow row;
      row.begin = batch_.n_tokens();
      row.end = row.begin + length;
      row.position = position;
      row.sliding_first = std::max(0, position - kWindow + 1) / kBlockTokens;
      for (int i = 0; i < length; i++) batch_.token_ids.push_back(i), batch_.positions.push_back(position + i);
      const int n = (position + length - 1) / kBlockTokens + 1 - (sliding ? row.sliding_first : 0);
      (sliding ? row.n_sliding : row.n_global) = n;
      tables_.emplace_back(size_t(n));
      std::iota(tables_.back().begin(), tables_.back().end(), n_blocks_);
      n_blocks_ += n;
      batch_.rows.push_back(row);
    }
    std::vector<int32_t> order(size_t(n_blocks_), 0);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), generator);
    for (size_t r = 0; r < tables_.size(); r++) {
      for (int32_t& block : tables_[r]) block = order[size_t(block)];
      (sliding ? batch_.rows[r].sliding_blocks : batch_.rows[r].global_blocks) = tables_[r].data();
    }
    const int64_t T = batch_.n_tokens(), D = shape.head_dim;
    qkv_ = rounded(normal(T * shape.width()));
    q_norm_ = normal(D, 0.3f);
    k_norm_ = normal(D, 0.3f);
    for (int64_t t = 0; t < T; t++) {
      std::vector<float> sines;
      for (int64_t i = 0; i < D / 2; i++) {
        const float angle = float(generator() % 100000) * 1e-3f;
        rope_.push_back(std::cos(angle));
        sines.push_back(std::sin(angle));
      }
      rope_.insert(rope_.end(), sines.begin(), sines.end());
    }
  }

  void run(Backend& device, DType dtype, const std::string& name) {
    const int64_t T = batch_.n_tokens(), D = shape_.head_dim, width = shape_.n_heads * D;
    DeviceRows qkv(device, dtype, qkv_, shape_.width()), rope(device, DType::kF32, rope_, D), q_norm(device, DType::kF32, q_norm_, D),
        k_norm(device, DType::kF32, k_norm_, D), q(device, DType::kBF16, T, width);
    const auto pool = device.make_kv_pool(n_blocks_, kLayers, shape_.n_kv_heads, int(D));
    poison_pool(device, *pool);
    device.begin_step(batch_);
    device.qk_norm_rope_append(q.tensor(), {qkv.tensor(), rope.tensor(), q_norm.f32(), k_norm.f32(), kEps, shape_.n_heads,
                                            shape_.n_kv_heads, int(D), pool.get(), kLayer, sliding_, batch_.rows});
    std::vector<double> want;
    for (int64_t t = 0; t < T; t++)
      for (int h = 0; h < shape_.n_heads; h++) append(want, turned(t, h, q_norm_));
    expect(name + ", queries", worst_row(q.get(name), want, D), kRoundedOnce);  // a row of the measure is a head
    check_pool(device, *pool, name);
  }

 private:
  static void append(std::vector<double>& to, const std::vector<double>& from) { to.insert(to.end(), from.begin(), from.end()); }

  std::vector<double> head_of(int64_t t, int h) const {
    const auto at = qkv_.begin() + t * shape_.width() + h * shape_.head_dim;
    return {at, at + shape_.head_dim};
  }

  std::vector<double> turned(int64_t t, int h, const std::vector<float>& w) const {
    const std::vector<double> y = normed(head_of(t, h), w);
    const size_t half = y.size() / 2;
    std::vector<double> out(y.size());
    for (size_t i = 0; i < half; i++) {
      const double cos = rope_[size_t(t) * y.size() + i], sin = rope_[size_t(t) * y.size() + half + i];
      out[i] = y[i] * cos - y[half + i] * sin;
      out[half + i] = y[half + i] * cos + y[i] * sin;
    }
    return out;
  }

#if defined(LORIKEET_CUDA_BUILT)
  void poison_pool(Backend& device, KvPool& pool) const {
    const auto* on_device = dynamic_cast<cuda::KvPoolCuda*>(&pool);
    if (!on_device) return;
    const std::vector<char> nan(pool.bytes, char(0xff));
    device.upload(on_device->buffer.data(), nan.data(), nan.size());
  }

  /// Keys and values of the step's tokens; every other place of the pool is as it was. Only CUDA's layout is known here.
  void check_pool(Backend& device, KvPool& pool, const std::string& name) const {
    const auto* on_device = dynamic_cast<cuda::KvPoolCuda*>(&pool);
    if (!on_device) return;
    const int64_t D = shape_.head_dim;
    std::vector<bf16> all(pool.bytes / 2);
    device.download(all.data(), on_device->buffer.data(), pool.bytes);
    std::vector<float> got;
    std::vector<double> want;
    for (size_t r = 0; r < batch_.rows.size(); r++)
      for (int t = batch_.rows[r].begin; t < batch_.rows[r].end; t++) {
        const int position = batch_.positions[size_t(t)], first = sliding_ ? batch_.rows[r].sliding_first : 0;
        const int64_t block = tables_[r][size_t(position / kBlockTokens - first)];
        for (int h = 0; h < shape_.n_kv_heads; h++)
          for (const bool value : {false, true}) {
            const int64_t of_head = ((block * kLayers + kLayer) * shape_.n_kv_heads + h) * 2 + value;
            const int64_t at = (of_head * kBlockTokens + position % kBlockTokens) * D;
            const int head = shape_.n_heads + h + value * shape_.n_kv_heads;
            append(want, value ? head_of(t, head) : turned(t, head, k_norm_));
            for (int64_t i = at; i < at + D; i++) got.push_back(to_f32(all[size_t(i)])), all[size_t(i)] = 0xffff;
          }
      }
    expect(name + ", keys and values", worst_row(got, want, D), kRoundedOnce);
    check(std::all_of(all.begin(), all.end(), [](bf16 v) { return v == 0xffff; }), name + ": a place of no token of the step was written");
  }
#else
  void poison_pool(Backend&, KvPool&) const {}
  void check_pool(Backend&, KvPool&, const std::string&) const {}
#endif

  HeadShape shape_;
  bool sliding_;
  Batch batch_;
  std::vector<std::vector<int32_t>> tables_;
  int n_blocks_ = 0;
  std::vector<float> qkv_, rope_, q_norm_, k_norm_;
};

}  // namespace lorikeet::testing
