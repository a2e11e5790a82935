// Norm and rotation of queries and keys in training: into plain rows, and their gradient (the rotation turned back, then the norm's).
#include "training.h"

namespace lorikeet::CPU_NS {
namespace {

void check_shapes(Tensor q, Tensor k, Tensor v, Tensor qkv, const TrainingOps::QkvShape& s) {
  const int64_t T = qkv.rows, D = s.head_dim;
  expect_shape("qkv", qkv, T, (s.n_heads + 2 * s.n_kv_heads) * D);
  expect_shape("q", q, T, s.n_heads * D);
  expect_shape("k", k, T, s.n_kv_heads * D);
  expect_shape("v", v, T, s.n_kv_heads * D);
  expect_shape("rope", s.rope, T, D);
}

/// in [D] = gradient of rope's input, given that of its output.
void turn_back(float* in, const float* out, const float* rope, int64_t D) {
  const int64_t half = D / 2;
  for (int64_t c = 0; c < half; c += kLanes) {
    const f32x16 a = load(out + c), b = load(out + half + c), cos = load(rope + c), sin = load(rope + half + c);
    store(in + c, a * cos + b * sin);
    store(in + half + c, b * cos - a * sin);
  }
}

}  // namespace

void qk_norm_rope_cpu(Tensor q, Tensor k, Tensor v, Tensor qkv, const TrainingOps::QkvShape& s) {
  check_shapes(q, k, v, qkv, s);
  const int64_t D = s.head_dim;
#pragma omp parallel for if (qkv.rows > 4)
  for (int64_t t = 0; t < qkv.rows; t++) {
    const float *in = qkv.f32(t), *rope = s.rope.f32(t);
    alignas(64) float turned[512];
    for (int h = 0; h < s.n_heads + s.n_kv_heads; h++) {
      const bool query = h < s.n_heads;
      norm_rope(turned, in + h * D, query ? s.q_norm : s.k_norm, rope, D, s.eps);
      const Tensor& out = query ? q : k;
      const int64_t begin = (query ? h : h - s.n_heads) * D;
      for (int64_t c = 0; c < D; c += kLanes) store_act(out.row(t), out.dtype, begin + c, load(turned + c));
    }
    const float* values = in + (s.n_heads + s.n_kv_heads) * D;
    for (int64_t c = 0; c < v.cols; c += kLanes) store_act(v.row(t), v.dtype, c, load(values + c));
  }
}

void qk_norm_rope_backward_cpu(Tensor dqkv, Tensor dq, Tensor dk, Tensor dv, Tensor qkv, const TrainingOps::QkvShape& s) {
  check_shapes(dq, dk, dv, qkv, s);
  expect_shape("dqkv", dqkv, qkv.rows, qkv.cols);
  const int64_t D = s.head_dim;
#pragma omp parallel for if (qkv.rows > 4)
  for (int64_t t = 0; t < qkv.rows; t++) {
    alignas(64) float normed[512];
    for (int h = 0; h < s.n_heads + s.n_kv_heads; h++) {
      const bool query = h < s.n_heads;
      turn_back(normed, query ? dq.f32(t) + h * D : dk.f32(t) + (h - s.n_heads) * D, s.rope.f32(t), D);
      rmsnorm_backward_row(dqkv.f32(t) + h * D, normed, qkv.f32(t) + h * D, query ? s.q_norm : s.k_norm, D, s.eps, false);
    }
    std::memcpy(dqkv.f32(t) + (s.n_heads + s.n_kv_heads) * D, dv.f32(t), size_t(dv.cols) * 4);
  }
}

}  // namespace lorikeet::CPU_NS
