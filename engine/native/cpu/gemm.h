// The matrix product of training: C = alpha A B on one thread, for callers that share out rows or columns. A tile of outputs stays in
// registers; B comes in panels of kPanel columns, packed so that one load is sixteen columns of one k (bf16: of a pair of k).
#pragma once
#include "simd.h"

namespace lorikeet::CPU_NS {

constexpr int64_t kPanel = 64;

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/// Left factor: elements (m, k) with k in pair p = k / kPair<T> begin at data + m * row + p * pair.
template <class T>
struct Left {
  const T* data;
  int64_t row, pair;
};

/// Row-major [M, K].
template <class T>
Left<T> by_row(const T* data, int64_t stride) { return {data, stride, kPair<T>}; }
/// [K / kPair, M, kPair]: the transpose of what lies in memory.
template <class T>
Left<T> by_column(const T* data, int64_t stride) { return {data, kPair<T>, stride * kPair<T>}; }

/// Right factor: column n of pair p lies at data + n / kPanel * panel + p * pair + n % kPanel * kPair<T>. Columns are readable up to
/// the next multiple of sixteen.
template <class T>
struct Right {
  const T* data;
  int64_t panel, pair;

  /// From column n (a multiple of kPanel) and pair p on.
  Right from(int64_t n, int64_t p) const { return {data + n / kPanel * panel + p * pair, panel, pair}; }
};

/// Panels one after another: [N / kPanel][n_pairs][kPanel][kPair].
template <class T>
Right<T> packed(const T* data, int64_t K) {
  const int64_t pair = kPanel * kPair<T>;
  return {data, round_up(K, kPair<T>) / kPair<T> * pair, pair};
}
/// Elements of a packed right factor.
template <class T>
int64_t packed_size(int64_t K, int64_t N) { return round_up(K, kPair<T>) * round_up(N, kPanel); }

/// Row-major f32 [K, N] as it lies; N must be a multiple of sixteen.
inline Right<float> in_place(const float* data, int64_t stride) { return {data, kPanel, stride}; }

struct Product {
  int64_t M, N, K;  // K is rounded up to pairs: the odd element of both factors must be zero
  float alpha = 1;
  bool add = false;  // C += instead of C =
};

/// C [M, N] f32, rows c_row apart.
template <class T>
void gemm(float* c, int64_t c_row, const Left<T>& a, const Right<T>& b, const Product& p);

/// B[k][n] = source[k][n], panels [panel_begin, panel_end) of N columns. Spare columns and the odd k are zero.
template <class T, class S>
void pack_rows(T* out, const S* source, int64_t stride, int64_t K, int64_t N, int64_t panel_begin, int64_t panel_end);
/// B[k][n] = source[n][k].
template <class T, class S>
void pack_columns(T* out, const S* source, int64_t stride, int64_t K, int64_t N, int64_t panel_begin, int64_t panel_end);

template <class T>
inline f32x16 load_as_f32(const T* p) {
  if constexpr (sizeof(T) == 2) return load_bf16(p);
  else return load(p);
}
template <class T>
inline void store_from_f32(T* p, f32x16 v) {
  if constexpr (sizeof(T) == 2) store_bf16(p, v);
  else store(p, v);
}
inline float as_f32(float v) { return v; }
inline float as_f32(bf16 v) { return to_f32(v); }
template <class T>
T from_f32(float v) {
  if constexpr (sizeof(T) == 2) return to_bf16(v);
  else return v;
}

/// Row of n values in another type.
template <class T, class S>
void convert_row(T* out, const S* in, int64_t n) {
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) store_from_f32(out + i, load_as_f32(in + i));
  for (int64_t i = whole; i < n; i++) out[i] = from_f32<T>(as_f32(in[i]));
}

/// out [n][2]: a and b element by element: a pair of rows as a right factor, or a left one by column, reads it.
void interleave(bf16* out, const bf16* a, const bf16* b, int64_t n);

}  // namespace lorikeet::CPU_NS
