// dx (+)= dout @ W through a frozen weight. Each thread takes panels of 64 input columns: it expands W there (one NF4 block of every
// row), packs pairs of rows together and multiplies all tokens by them, so a weight is expanded once a call. Arithmetic is the limit.
#include <omp.h>

#include <algorithm>

#include "gemm.h"
#include "linear.h"
#include "training.h"

namespace lorikeet::CPU_NS {
namespace {

constexpr int64_t kDepth = 1024;  // rows of W that are packed together: 128 KiB in bf16, in the second-level cache

void place(bf16* out, const bf16* rows, int64_t stride) {
  interleave(out, rows, rows + stride, kPanel);
  interleave(out + 2 * kPanel, rows + 2 * stride, rows + 3 * stride, kPanel);
}
void place(float* out, const float* rows, int64_t stride) {
  for (int r = 0; r < kGroup; r++) std::memcpy(out + r * kPanel, rows + r * stride, kPanel * sizeof(float));
}

/// Rows [begin, end) and columns [64 j, 64 j + 64) of W as a panel of a right factor.
template <class T>
void pack_weight(T* out, const LinearCpu& w, int64_t j, int64_t begin, int64_t end) {
  alignas(64) T rows[kGroup * kPanel];
  for (int64_t r = begin; r < end; r += kGroup, out += kGroup * kPanel) {
    const int64_t at = r * w.cols + j * kPanel;
    if (w.format == WeightFormat::kNF4) {
      const uint8_t* codes = w.codes(r / kGroup) + j * kGroup * kBlockBytes;
      const float* scales = w.scales(r / kGroup) + j * kGroup;
      for (int i = 0; i < kGroup; i++) expand_block(codes + i * kBlockBytes, scales[i], rows + i * kPanel);
    } else if (w.format == WeightFormat::kBF16) {
      for (int i = 0; i < kGroup; i++) convert_row(rows + i * kPanel, static_cast<const bf16*>(w.data) + at + i * w.cols, kPanel);
    } else {
      for (int i = 0; i < kGroup; i++) convert_row(rows + i * kPanel, static_cast<const float*>(w.data) + at + i * w.cols, kPanel);
    }
    place(out, rows, kPanel);
  }
}

template <class T>
void backward(TrainingContext& context, Tensor dx, Left<T> dout, const LinearCpu& w, bool add) {
  const int64_t depth = std::min(kDepth, w.rows);
  T* scratch = context.arena.take<T>(context.n_threads * depth * kPanel);
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t j = 0; j < w.cols / kPanel; j++) {
    T* panel = scratch + omp_get_thread_num() * depth * kPanel;
    for (int64_t k = 0; k < w.rows; k += depth) {
      const int64_t n = std::min(depth, w.rows - k);
      pack_weight(panel, w, j, k, k + n);
      const Left<T> left{dout.data + k / kPair<T> * dout.pair, dout.row, dout.pair};
      gemm(dx.f32() + j * kPanel, dx.stride, left, packed(panel, n), Product{dx.rows, kPanel, n, 1, add || k > 0});
    }
  }
}

}  // namespace

void linear_backward_cpu(TrainingContext& context, Tensor dx, Tensor dout, const Linear& linear, bool add) {
  const auto& w = static_cast<const LinearCpu&>(linear);
  expect_shape("linear_backward dx", dx, dout.rows, w.cols);
  expect_shape("linear_backward dout", dout, dx.rows, w.rows);
  const Arena::Scope scope(context.arena);
  if (context.act == DType::kF32) return backward(context, dx, by_row(dout.f32(), dout.stride), w, add);
  bf16* rounded = context.arena.take<bf16>(dout.rows * w.rows);
#pragma omp parallel for if (dout.rows > 4)
  for (int64_t t = 0; t < dout.rows; t++) convert_row(rounded + t * w.rows, dout.f32(t), w.rows);
  backward(context, dx, by_row<bf16>(rounded, w.rows), w, add);
}

}  // namespace lorikeet::CPU_NS
