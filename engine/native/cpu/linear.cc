// out = x @ W^T through frozen weights. Few tokens: codes are expanded in registers and memory is the limit. Many tokens: a
// panel of rows is expanded once into cache and multiplied by all tokens, and arithmetic is the limit.
#include "linear.h"

#include <algorithm>

#include "../core/nf4.h"
#include "allocate.h"
#include "lora.h"

namespace lorikeet::CPU_NS {
namespace {

constexpr int64_t kPanelBytes = 192 << 10;  // of expanded weights: stays in the second-level cache beside the activations

#if defined(__AVX512BF16__)
/// One group of rows times M tokens, straight from the codes. The same chain of sums as dot_tile<DotBf16>.
template <int M>
inline void nf4_tile(const uint8_t* codes, const float* scales, const bf16* x, int64_t x_stride, int64_t K, float* out, int64_t out_stride) {
  __m512 acc[M][kGroup];
  for (int m = 0; m < M; m++)
    for (int r = 0; r < kGroup; r++) acc[m][r] = _mm512_setzero_ps();
  for (int64_t b = 0; b < K / kBlock; b++, codes += kGroup * kBlockBytes, scales += kGroup) {
    _mm_prefetch((const char*)codes + 2048, _MM_HINT_T0);
    _mm_prefetch((const char*)codes + 2112, _MM_HINT_T0);
    __m512bh x_low[M], x_high[M];
    for (int m = 0; m < M; m++) {
      x_low[m] = (__m512bh)_mm512_loadu_si512(x + m * x_stride + b * kBlock);
      x_high[m] = (__m512bh)_mm512_loadu_si512(x + m * x_stride + b * kBlock + 32);
    }
    for (int r = 0; r < kGroup; r++) {
      const Nf4Block block(codes + r * kBlockBytes, scales[r]);
      for (int m = 0; m < M; m++) {
        acc[m][r] = _mm512_dpbf16_ps(acc[m][r], block.low, x_low[m]);
        acc[m][r] = _mm512_dpbf16_ps(acc[m][r], block.high, x_high[m]);
      }
    }
  }
  for (int m = 0; m < M; m++)
    reduce_add4((f32x16)acc[m][0], (f32x16)acc[m][1], (f32x16)acc[m][2], (f32x16)acc[m][3], out + m * out_stride);
}
constexpr int64_t kFusedTokens = 4;

void nf4_group(Tensor out, Tensor x, const LinearCpu& w, int64_t g) {
  float* o = out.f32() + g * kGroup;
  switch (x.rows) {
    case 1: return nf4_tile<1>(w.codes(g), w.scales(g), x.b16(), x.stride, w.cols, o, out.stride);
    case 2: return nf4_tile<2>(w.codes(g), w.scales(g), x.b16(), x.stride, w.cols, o, out.stride);
    case 3: return nf4_tile<3>(w.codes(g), w.scales(g), x.b16(), x.stride, w.cols, o, out.stride);
    default: return nf4_tile<4>(w.codes(g), w.scales(g), x.b16(), x.stride, w.cols, o, out.stride);
  }
}

/// Every thread shrinks for itself: for so few tokens that costs less than waiting for one another.
void nf4_fused(Tensor out, Tensor x, const LinearCpu& w, const LoraWork& lora) {
  constexpr int64_t kPiece = 64;  // rows
#pragma omp parallel
  {
    thread_local std::vector<float> h;
    if (h.size() < lora.scratch()) h.resize(lora.scratch());
    for (int i = 0; i < lora.n_runs(); i++) lora.shrink(i, h.data());
#pragma omp for schedule(dynamic, 1)
    for (int64_t begin = 0; begin < w.rows; begin += kPiece) {
      const int64_t end = std::min(begin + kPiece, w.rows);
      for (int64_t g = begin / kGroup; g < end / kGroup; g++) nf4_group(out, x, w, g);
      lora.expand(h.data(), begin, end);
    }
  }
}
#else
constexpr int64_t kFusedTokens = 0;
void nf4_fused(Tensor, Tensor, const LinearCpu&, const LoraWork&) {}
#endif

template <class T>
void expand_rows(const LinearCpu& w, int64_t begin, int64_t end, T* out) {
  const int64_t n_blocks = w.cols / kBlock;
  for (int64_t g = begin / kGroup; g < end / kGroup; g++, out += kGroup * w.cols) {
    const uint8_t* codes = w.codes(g);
    const float* scales = w.scales(g);
    for (int64_t b = 0; b < n_blocks; b++)
      for (int r = 0; r < kGroup; r++)
        expand_block(codes + (b * kGroup + r) * kBlockBytes, scales[b * kGroup + r], out + r * w.cols + b * kBlock);
  }
}

/// Rows [begin, end) times n tokens: groups, then what is left over of a matrix whose rows do not divide by kGroup, one by one, each
/// by the same chain of sums. `w` is row begin.
template <class Dot>
void multiply_rows(const typename Dot::T* w, int64_t K, const typename Dot::T* x, int64_t x_stride, int64_t n, int64_t begin, int64_t end, float* out,
                   int64_t out_stride) {
  int64_t r = begin;
  for (; r + kGroup <= end; r += kGroup, w += kGroup * K) dot_rows<Dot>(w, K, x, x_stride, n, K, out + r, out_stride);
  for (; r < end; r++, w += K)
    for (int64_t t = 0; t < n; t++) out[t * out_stride + r] = dot_row_alone<Dot>(w, x + t * x_stride, K);
}

template <class Dot, class Rows>
void panels(Tensor out, const typename Dot::T* x, int64_t x_stride, int64_t n_tokens, const LinearCpu& w, const LoraWork& lora, Rows rows_of) {
  using T = typename Dot::T;
  const int64_t fit = std::max<int64_t>(kLanes, kPanelBytes / (w.cols * int64_t(sizeof(T))) / kLanes * kLanes);
  const int64_t panel = std::min<int64_t>(fit, 128);
  const int64_t n_panels = (w.rows + panel - 1) / panel;
  thread_local std::vector<float> shrunk;  // kept, as scratch: fresh pages for every call cost more than the expansion
  if (shrunk.size() < lora.scratch()) shrunk.resize(lora.scratch());
  float* h = shrunk.data();
#pragma omp parallel
  {
    thread_local std::vector<T> scratch;
    if (!lora.empty()) {
#pragma omp for schedule(dynamic, 1)
      for (int i = 0; i < lora.n_runs(); i++) lora.shrink(i, h);
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t p = 0; p < n_panels; p++) {
      const int64_t begin = p * panel, end = std::min(w.rows, begin + panel);
      const T* rows = rows_of(begin, end, scratch);
      // Tokens in tiles that stay in the first-level cache while all rows of the panel pass.
      for (int64_t t = 0; t < n_tokens; t += 6) {
        const int64_t n = std::min<int64_t>(6, n_tokens - t);
        multiply_rows<Dot>(rows, w.cols, x + t * x_stride, x_stride, n, begin, end, out.f32(t), out.stride);
      }
      lora.expand(h, begin, end);
    }
  }
}

}  // namespace

const bf16* rows_bf16(const LinearCpu& w, int64_t begin, int64_t end, std::vector<bf16>& scratch) {
  if (w.format == WeightFormat::kBF16) return static_cast<const bf16*>(w.data) + begin * w.cols;
  if (int64_t(scratch.size()) < (end - begin) * w.cols) scratch.resize((end - begin) * w.cols);
  expand_rows(w, begin, end, scratch.data());
  return scratch.data();
}

const float* rows_f32(const LinearCpu& w, int64_t begin, int64_t end, std::vector<float>& scratch) {
  if (w.format == WeightFormat::kF32) return static_cast<const float*>(w.data) + begin * w.cols;
  if (int64_t(scratch.size()) < (end - begin) * w.cols) scratch.resize((end - begin) * w.cols);
  if (w.format == WeightFormat::kNF4) {
    expand_rows(w, begin, end, scratch.data());
  } else {
    const bf16* from = static_cast<const bf16*>(w.data) + begin * w.cols;
    for (int64_t i = 0; i < (end - begin) * w.cols; i++) scratch[i] = to_f32(from[i]);
  }
  return scratch.data();
}

void linear_cpu(Tensor out, Tensor x, const LinearCpu& w, std::span<const LoraPart> adapters) {
  expect_shape("linear out", out, x.rows, w.rows);
  expect_shape("linear x", x, out.rows, w.cols);
  const LoraWork lora(out, x, adapters);
  if (x.dtype == DType::kF32) {
    return panels<DotF32>(out, x.f32(), x.stride, x.rows, w, lora,
                          [&](int64_t b, int64_t e, std::vector<float>& scratch) { return rows_f32(w, b, e, scratch); });
  }
  if (w.format == WeightFormat::kNF4 && x.rows <= kFusedTokens) return nf4_fused(out, x, w, lora);
  panels<DotBf16>(out, x.b16(), x.stride, x.rows, w, lora,
                  [&](int64_t b, int64_t e, std::vector<bf16>& scratch) { return rows_bf16(w, b, e, scratch); });
}

namespace {

/// bitsandbytes order (even element in the high nibble, row-major) to the layout of linear.h.
void pack_group(const HostMatrix& from, int64_t row, uint8_t* codes, float* scales) {
  const int64_t n_blocks = from.cols / kBlock;
  const auto* packed = static_cast<const uint8_t*>(from.data);
  for (int64_t b = 0; b < n_blocks; b++) {
    for (int r = 0; r < kGroup; r++) {
      const int64_t block = (row + r) * n_blocks + b;
      const uint8_t* in = packed + block * kBlockBytes;
      uint8_t code[kBlock];
      for (int j = 0; j < 32; j++) {
        code[2 * j] = in[j] >> 4;
        code[2 * j + 1] = in[j] & 15;
      }
      for (int j = 0; j < 32; j++) codes[j] = uint8_t(code[j] | code[32 + j] << 4);
      codes += kBlockBytes;
      *scales++ = from.absmax[block];
    }
  }
}

std::unique_ptr<LinearCpu> pack_nf4(std::span<const HostMatrix> parts, int64_t rows, int64_t cols) {
  auto w = std::make_unique<LinearCpu>();
  const int64_t code_bytes = rows * cols / 2, scale_bytes = rows * (cols / kBlock) * 4;
  w->owned = allocate(size_t(code_bytes + scale_bytes));
  auto* codes = static_cast<uint8_t*>(w->owned.data());
  auto* scales = reinterpret_cast<float*>(codes + code_bytes);
  w->format = WeightFormat::kNF4;
  w->data = codes;
  w->absmax = scales;
  w->rows = rows;
  w->cols = cols;
  w->bytes = size_t(code_bytes + scale_bytes);
  for (const HostMatrix& part : parts) {
#pragma omp parallel for
    for (int64_t g = 0; g < part.rows / kGroup; g++)
      pack_group(part, g * kGroup, codes + g * kGroup * cols / 2, scales + g * kGroup * (cols / kBlock));
    codes += part.rows * cols / 2;
    scales += part.rows * (cols / kBlock);
  }
  return w;
}

/// Any part that is not NF4 makes the whole matrix plain: the same values, two bytes each.
void expand_part(const HostMatrix& part, bf16* out) {
  const int64_t n = part.rows * part.cols;
  if (part.format == WeightFormat::kNF4) return nf4_dequantize_bf16(static_cast<const uint8_t*>(part.data), part.absmax, n, out);
  if (part.format == WeightFormat::kBF16) { std::memcpy(out, part.data, size_t(n) * 2); return; }
  for (int64_t i = 0; i < n; i++) out[i] = to_bf16(static_cast<const float*>(part.data)[i]);
}

void expand_part(const HostMatrix& part, float* out) {
  const int64_t n = part.rows * part.cols;
  if (part.format == WeightFormat::kF32) { std::memcpy(out, part.data, size_t(n) * 4); return; }
  std::vector<bf16> half(n);
  expand_part(part, half.data());
  for (int64_t i = 0; i < n; i++) out[i] = to_f32(half[i]);
}

template <class T>
std::unique_ptr<LinearCpu> pack_plain(std::span<const HostMatrix> parts, int64_t rows, int64_t cols, WeightFormat format) {
  auto w = std::make_unique<LinearCpu>();
  w->format = format;
  w->rows = rows;
  w->cols = cols;
  w->bytes = size_t(rows * cols) * sizeof(T);
  if (parts.size() == 1 && parts[0].format == format) {
    w->data = parts[0].data;
    w->mapped = parts[0].owner;
    return w;
  }
  w->owned = allocate(w->bytes);
  T* out = static_cast<T*>(w->owned.data());
  w->data = out;
  for (const HostMatrix& part : parts) {
    expand_part(part, out);
    out += part.rows * cols;
  }
  return w;
}

}  // namespace

std::unique_ptr<Linear> make_linear_cpu(std::span<const HostMatrix> parts, bool fp32) {
  int64_t rows = 0;
  bool all_nf4 = true, any_f32 = false;
  for (const HostMatrix& part : parts) {
    rows += part.rows;
    all_nf4 &= part.format == WeightFormat::kNF4;
    any_f32 |= part.format == WeightFormat::kF32;
    if (part.cols != parts[0].cols) throw Error("SHAPE_MISMATCH", "parts of one linear differ in n_in");
    if (part.rows % kGroup || part.cols % kBlock) throw Error("SHAPE_MISMATCH", "linear: rows must divide by 4, columns by 64");
  }
  if (all_nf4) return pack_nf4(parts, rows, parts[0].cols);
  if (any_f32 && fp32) return pack_plain<float>(parts, rows, parts[0].cols, WeightFormat::kF32);
  return pack_plain<bf16>(parts, rows, parts[0].cols, WeightFormat::kBF16);
}

}  // namespace lorikeet::CPU_NS
