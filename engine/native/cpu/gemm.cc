#include "gemm.h"

#include <algorithm>
#include <utility>

namespace lorikeet::CPU_NS {
namespace {

// Accumulators fill the registers: 24 of 32 on AVX-512; narrower sets hold sixteen floats in two or four registers.
#if defined(__AVX512F__)
constexpr int kVectors = 4;
constexpr int tile_rows(int vectors) { return vectors > 2 ? 6 : 12; }
#elif defined(__AVX2__)
constexpr int kVectors = 1;
constexpr int tile_rows(int) { return 4; }
#else
constexpr int kVectors = 1;
constexpr int tile_rows(int) { return 2; }
#endif
constexpr int64_t kDepthPairs = 512;  // of one pass: a panel of B stays in the second-level cache, a row tile of A in the first

inline f32x16 multiply_add(f32x16 acc, const bf16* b, const bf16* a) { return dot_bf16_pair(acc, b, a); }
inline f32x16 multiply_add(f32x16 acc, const float* b, const float* a) { return acc + load(b) * *a; }

struct Out {
  float* c;
  int64_t row, columns;  // columns of this tile that exist
  float alpha;
  bool add;
};

/// A tile whose last columns do not exist.
void write_part(const Out& out, const float* values, int M, int64_t width) {
  for (int m = 0; m < M; m++)
    for (int64_t i = 0; i < out.columns; i++) {
      float* c = out.c + m * out.row + i;
      const float v = values[m * width + i] * out.alpha;
      *c = out.add ? *c + v : v;
    }
}

/// Loops over accumulators are unrolled whole, or they would live in memory.
template <class T, int M, int N>
void tile(const Left<T>& a, const T* b, int64_t b_pair, int64_t n_pairs, const Out& out) {
  f32x16 acc[M][N];
#pragma GCC unroll 12
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) acc[m][n] = f32x16{};
  const T* at = a.data;
  for (int64_t p = 0; p < n_pairs; p++, b += b_pair, at += a.pair)
#pragma GCC unroll 12
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) acc[m][n] = multiply_add(acc[m][n], b + n * kLanes * kPair<T>, at + m * a.row);
  if (out.columns < N * kLanes) {
    alignas(64) float values[M][N * kLanes];
#pragma GCC unroll 12
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) store(values[m] + n * kLanes, acc[m][n]);
    return write_part(out, values[0], M, N * kLanes);
  }
  const f32x16 alpha = splat(out.alpha);
  float* c = out.c;
#pragma GCC unroll 12
  for (int m = 0; m < M; m++, c += out.row)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
      const f32x16 v = acc[m][n] * alpha;
      store(c + n * kLanes, out.add ? load(c + n * kLanes) + v : v);
    }
}

template <class T, int N, size_t... I>
void rest(int64_t rows, const Left<T>& a, const T* b, int64_t b_pair, int64_t n_pairs, const Out& out, std::index_sequence<I...>) {
  ((rows == int64_t(I + 1) ? tile<T, int(I + 1), N>(a, b, b_pair, n_pairs, out) : void()), ...);
}

template <class T, int N>
void rows_of_tile(int64_t M, Left<T> a, const T* b, int64_t b_pair, int64_t n_pairs, Out out) {
  constexpr int R = tile_rows(N);
  int64_t m = 0;
  for (; m + R <= M; m += R) {
    tile<T, R, N>(a, b, b_pair, n_pairs, out);
    a.data += R * a.row;
    out.c += R * out.row;
  }
  rest<T, N>(M - m, a, b, b_pair, n_pairs, out, std::make_index_sequence<R - 1>());
}

template <class T>
void columns_of_tile(int vectors, int64_t M, const Left<T>& a, const T* b, int64_t b_pair, int64_t n_pairs, const Out& out) {
#if defined(__AVX512F__)
  switch (vectors) {
    case 4: return rows_of_tile<T, 4>(M, a, b, b_pair, n_pairs, out);
    case 3: return rows_of_tile<T, 3>(M, a, b, b_pair, n_pairs, out);
    case 2: return rows_of_tile<T, 2>(M, a, b, b_pair, n_pairs, out);
  }
#else
  (void)vectors;
#endif
  rows_of_tile<T, 1>(M, a, b, b_pair, n_pairs, out);
}

}  // namespace

template <class T>
void gemm(float* c, int64_t c_row, const Left<T>& a, const Right<T>& b, const Product& p) {
  constexpr int64_t kWide = kVectors * kLanes;
  const int64_t n_pairs = round_up(p.K, kPair<T>) / kPair<T>;
  if (n_pairs == 0 && !p.add)
    for (int64_t m = 0; m < p.M; m++) std::fill_n(c + m * c_row, p.N, 0.0f);
  for (int64_t n = 0; n < p.N; n += kWide)
    for (int64_t k = 0; k < n_pairs; k += kDepthPairs) {
      const int64_t columns = std::min(kWide, p.N - n), depth = std::min(kDepthPairs, n_pairs - k);
      const T* panel = b.data + n / kPanel * b.panel + k * b.pair + n % kPanel * kPair<T>;
      const Left<T> left{a.data + k * a.pair, a.row, a.pair};
      columns_of_tile<T>(int((columns + kLanes - 1) / kLanes), p.M, left, panel, b.pair, depth,
                         Out{c + n, c_row, columns, p.alpha, p.add || k > 0});
    }
}

void interleave(bf16* out, const bf16* a, const bf16* b, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512BW__)
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34,
                                       2, 33, 1, 32, 0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (; i + 32 <= n; i += 32) {
    const __m512i x = _mm512_loadu_si512(a + i), y = _mm512_loadu_si512(b + i);
    _mm512_storeu_si512(out + 2 * i, _mm512_permutex2var_epi16(x, low, y));
    _mm512_storeu_si512(out + 2 * i + 32, _mm512_permutex2var_epi16(x, high, y));
  }
#endif
  for (; i < n; i++) {
    out[2 * i] = a[i];
    out[2 * i + 1] = b[i];
  }
}

namespace {

/// A row of at most kPanel values in T, the rest zero; in place where it is whole and of that type.
template <class T, class S>
const T* panel_row(const S* source, int64_t width, T* scratch) {
  if constexpr (std::is_same_v<S, T>)
    if (width == kPanel) return source;
  convert_row(scratch, source, width);
  std::fill(scratch + width, scratch + kPanel, T(0));
  return scratch;
}

}  // namespace

template <class T, class S>
void pack_rows(T* out, const S* source, int64_t stride, int64_t K, int64_t N, int64_t panel_begin, int64_t panel_end) {
  alignas(64) T a[kPanel], b[kPanel];
  for (int64_t j = panel_begin; j < panel_end; j++) {
    const int64_t width = std::min(kPanel, N - j * kPanel);
    const S* from = source + j * kPanel;
    T* to = out + j * round_up(K, kPair<T>) * kPanel;
    for (int64_t k = 0; k < K; k += kPair<T>, to += kPanel * kPair<T>) {
      const T* even = panel_row(from + k * stride, width, a);
      if constexpr (kPair<T> == 1) {
        std::memcpy(to, even, sizeof a);
      } else {
        interleave(to, even, k + 1 < K ? panel_row(from + (k + 1) * stride, width, b) : panel_row(from, 0, b), kPanel);
      }
    }
  }
}

template <class T, class S>
void pack_columns(T* out, const S* source, int64_t stride, int64_t K, int64_t N, int64_t panel_begin, int64_t panel_end) {
  constexpr int P = kPair<T>;
  constexpr int64_t kDepth = 256;  // of the source's row at a time
  alignas(64) T row[kDepth];
  const int64_t depth = round_up(K, P);
  for (int64_t j = panel_begin; j < panel_end; j++)
    for (int64_t k = 0; k < depth; k += kDepth)
      for (int64_t n = 0; n < kPanel; n++) {
        const int64_t there = j * kPanel + n < N ? std::min(kDepth, K - k) : 0, pairs = std::min(kDepth, depth - k) / P;
        if (there > 0) convert_row(row, source + (j * kPanel + n) * stride + k, there);
        std::fill(row + there, row + pairs * P, T(0));
        T* to = out + j * depth * kPanel + k * kPanel + n * P;
        for (int64_t p = 0; p < pairs; p++) std::memcpy(to + p * kPanel * P, row + p * P, P * sizeof(T));
      }
}

template void gemm<float>(float*, int64_t, const Left<float>&, const Right<float>&, const Product&);
template void gemm<bf16>(float*, int64_t, const Left<bf16>&, const Right<bf16>&, const Product&);
template void pack_rows<float, float>(float*, const float*, int64_t, int64_t, int64_t, int64_t, int64_t);
template void pack_rows<float, bf16>(float*, const bf16*, int64_t, int64_t, int64_t, int64_t, int64_t);
template void pack_rows<bf16, float>(bf16*, const float*, int64_t, int64_t, int64_t, int64_t, int64_t);
template void pack_rows<bf16, bf16>(bf16*, const bf16*, int64_t, int64_t, int64_t, int64_t, int64_t);
template void pack_columns<float, float>(float*, const float*, int64_t, int64_t, int64_t, int64_t, int64_t);
template void pack_columns<bf16, float>(bf16*, const float*, int64_t, int64_t, int64_t, int64_t, int64_t);
template void pack_columns<bf16, bf16>(bf16*, const bf16*, int64_t, int64_t, int64_t, int64_t, int64_t);

}  // namespace lorikeet::CPU_NS
