// A pair of LoRA in training: kept = dropout(x) A^T, out += scale kept B^T, and its four products backward. A and B are f32; in bf16
// mode A is rounded where it meets the activations, as autocast does, and everything else stays f32: the rank is small.
#include <omp.h>

#include <algorithm>

#include "gemm.h"
#include "training.h"

namespace lorikeet::CPU_NS {
namespace {

constexpr int64_t kRowsTogether = 64;  // tokens of one task

struct PairShape {
  int64_t T, r, n_in, n_out;
};

PairShape shape_of(Tensor out, Tensor kept, Tensor x, const TrainedPair& pair) {
  const PairShape s{x.rows, pair.a.rows, pair.a.cols, pair.b.rows};
  expect_shape("lora x", x, s.T, s.n_in);
  expect_shape("lora b", pair.b, s.n_out, s.r);
  expect_shape("lora kept", kept, s.T, s.r);
  expect_shape("lora out", out, s.T, s.n_out);
  if (s.n_in % kLanes) throw Error("SHAPE_MISMATCH", "lora: n_in must divide by 16");
  return s;
}

template <class T>
T* typed_row(Tensor x, int64_t t) { return static_cast<T*>(x.row(t)); }

/// x with dropped elements, or x itself.
template <class T>
Tensor drop_rows(TrainingContext& context, Tensor x, const Dropout& dropout) {
  if (dropout.p <= 0) return x;
  T* out = context.arena.take<T>(x.rows * x.cols);
  const uint64_t* bits = dropout_masks(context, x.rows, x.cols, dropout);
  const int64_t words = (x.cols + 63) / 64;
#pragma omp parallel for if (x.rows > 4)
  for (int64_t t = 0; t < x.rows; t++) dropout_row(out + t * x.cols, typed_row<T>(x, t), x.cols, bits + t * words, dropout.p);
  return {out, x.dtype, x.rows, x.cols, x.cols};
}

/// Row-major f32 [K, N] as a right factor: as it lies where its columns allow.
Right<float> right_of(TrainingContext& context, Tensor m) {
  if (m.cols % kLanes == 0) return in_place(m.f32(), m.stride);
  float* to = context.arena.take<float>(packed_size<float>(m.rows, m.cols));
  pack_rows(to, m.f32(), m.stride, m.rows, m.cols, 0, (m.cols + kPanel - 1) / kPanel);
  return packed(to, m.rows);
}

template <class T>
void forward(TrainingContext& context, Tensor out, Tensor kept, Tensor x, const TrainedPair& pair) {
  const PairShape s = shape_of(out, kept, x, pair);
  const Arena::Scope scope(context.arena);
  x = drop_rows<T>(context, x, pair.dropout);
  T* a = context.arena.take<T>(packed_size<T>(s.n_in, s.r));
  pack_columns(a, pair.a.f32(), pair.a.stride, s.n_in, s.r, 0, (s.r + kPanel - 1) / kPanel);
  float* b = context.arena.take<float>(packed_size<float>(s.r, s.n_out));
  pack_columns(b, pair.b.f32(), pair.b.stride, s.r, s.n_out, 0, (s.n_out + kPanel - 1) / kPanel);
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t t = 0; t < s.T; t += kRowsTogether) {
    const int64_t n = std::min(kRowsTogether, s.T - t);
    gemm(kept.f32(t), kept.stride, by_row(typed_row<const T>(x, t), x.stride), packed(a, s.n_in), Product{n, s.r, s.n_in});
    gemm(out.f32(t), out.stride, by_row<float>(kept.f32(t), kept.stride), packed(b, s.r), Product{n, s.n_out, s.r, pair.scale, true});
  }
}

/// db += scale * dout^T kept, as the transpose: columns of dout are read in memory's order.
void gradient_b(TrainingContext& context, Tensor db, Tensor dout, Tensor kept, const PairShape& s, float scale) {
  const Right<float> right = right_of(context, dout);
  float* scratch = context.arena.take<float>(context.n_threads * s.r * kPanel);
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t n = 0; n < s.n_out; n += kPanel) {
    const int64_t width = std::min(kPanel, s.n_out - n);
    float* transposed = scratch + omp_get_thread_num() * s.r * kPanel;  // [r, 64]
    gemm(transposed, kPanel, by_column<float>(kept.f32(), kept.stride), right.from(n, 0), Product{s.r, width, s.T, scale});
    for (int64_t j = 0; j < width; j++)
      for (int64_t i = 0; i < s.r; i++) db.f32(n + j)[i] += transposed[i * kPanel + j];
  }
}

/// da += dk^T x
template <class T>
void gradient_a(TrainingContext& context, Tensor da, const float* dk, Tensor x, const PairShape& s) {
  float* scratch = context.arena.take<float>(context.n_threads * s.T * kPanel);
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t n = 0; n < s.n_in; n += kPanel) {
    const int64_t width = std::min(kPanel, s.n_in - n);
    float* panel = scratch + omp_get_thread_num() * s.T * kPanel;
    for (int64_t t = 0; t < s.T; t++) convert_row(panel + t * kPanel, typed_row<const T>(x, t) + n, width);
    gemm(da.f32() + n, da.stride, by_column(dk, s.r), packed<float>(panel, s.T), Product{s.r, width, s.T, 1, true});
  }
}

/// dx += dropout'(dk A)
void gradient_x(TrainingContext& context, Tensor dx, const float* dk, const PairShape& s, const TrainedPair& pair) {
  const Right<float> a = right_of(context, pair.a);
  const bool drop = pair.dropout.p > 0;
  float* scratch = drop ? context.arena.take<float>(context.n_threads * kRowsTogether * s.n_in) : nullptr;
  const uint64_t* bits = drop ? dropout_masks(context, s.T, s.n_in, pair.dropout) : nullptr;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t t = 0; t < s.T; t += kRowsTogether) {
    const Product product{std::min(kRowsTogether, s.T - t), s.n_in, s.r, 1, !drop};
    float* to = drop ? scratch + omp_get_thread_num() * kRowsTogether * s.n_in : dx.f32(t);
    gemm(to, drop ? s.n_in : dx.stride, by_row(dk + t * s.r, s.r), a, product);
    for (int64_t i = 0; drop && i < product.M; i++) {
      float *row = to + i * s.n_in, *sum = dx.f32(t + i);
      dropout_row(row, row, s.n_in, bits + (t + i) * ((s.n_in + 63) / 64), pair.dropout.p);
      for (int64_t c = 0; c < s.n_in; c += kLanes) store(sum + c, load(sum + c) + load(row + c));
    }
  }
}

template <class T>
void backward(TrainingContext& context, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor kept, Tensor x, const TrainedPair& pair) {
  const PairShape s = shape_of(dout, kept, x, pair);
  expect_shape("lora_backward dx", dx, s.T, s.n_in);
  expect_shape("lora_backward da", da, s.r, s.n_in);
  expect_shape("lora_backward db", db, s.n_out, s.r);
  const Arena::Scope scope(context.arena);
  gradient_b(context, db, dout, kept, s, pair.scale);
  float* dk = context.arena.take<float>(s.T * s.r);
  const Right<float> b = right_of(context, pair.b);
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t t = 0; t < s.T; t += kRowsTogether)
    gemm(dk + t * s.r, s.r, by_row<float>(dout.f32(t), dout.stride), b,
         Product{std::min(kRowsTogether, s.T - t), s.r, s.n_out, pair.scale});
  gradient_a<T>(context, da, dk, drop_rows<T>(context, x, pair.dropout), s);
  gradient_x(context, dx, dk, s, pair);
}

}  // namespace

void lora_forward_cpu(TrainingContext& context, Tensor out, Tensor kept, Tensor x, const TrainedPair& pair) {
  if (x.dtype == DType::kBF16) forward<bf16>(context, out, kept, x, pair);
  else forward<float>(context, out, kept, x, pair);
}

void lora_backward_cpu(TrainingContext& context, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor kept, Tensor x,
                       const TrainedPair& pair) {
  if (x.dtype == DType::kBF16) backward<bf16>(context, dx, da, db, dout, kept, x, pair);
  else backward<float>(context, dx, da, db, dout, kept, x, pair);
}

}  // namespace lorikeet::CPU_NS
