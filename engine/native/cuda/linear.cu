// out = x @ W^T through frozen weights.
// Few tokens (nf4_gemm): memory is the limit. A block owns sixteen rows and its warps share the columns; a lane reads sixteen bytes of
// codes a tile, looks pairs of values up in shared memory (a copy of the table a lane: no bank conflicts), and multiplies by mma with the
// weights as A, so one to eight tokens cost the same. A block's absmax is applied to its partial sums in fp32. Many tokens: weights are
// written out as bf16, as bitsandbytes rounds them, once where memory allows, and cuBLASLt multiplies.
#include "nf4_layout.h"
#include "nf4_table.h"
#include "ops.h"
#include "vectors.h"
#include "weights.h"

namespace lorikeet::cuda {

namespace {

constexpr int kFewTokens = 32;
constexpr int kWarps = 8;

/// N8 groups of eight tokens.
template <int N8, class T>
__global__ void nf4_gemm(T* out, int64_t out_stride, const nv_bf16* x, int64_t x_stride, int n_tokens, const uint4* tiles,
                         const float* scales, int K) {
  extern __shared__ uint32_t table[];
  build_nf4_table(table);
  __syncthreads();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4, n_tiles = K / kTileCols;
  const uint32_t* look = table + lane;
  float total[N8][4] = {};
  for (int tile = warp; tile < n_tiles; tile += kWarps) {
    const int64_t at = int64_t(blockIdx.x) * n_tiles + tile;
    const uint4 codes = tiles[at * kWarp + lane];
    const float low = scales[at * kTileRows + g * 2], high = scales[at * kTileRows + g * 2 + 1];
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
    float part[N8][4] = {};
    for (int s = 0; s < 4; s++) {
      uint32_t a[4];
      for (int i = 0; i < 4; i++) a[i] = look[(words[s] >> (8 * i) & 255) * kWarp];
      for (int n = 0; n < N8; n++) {
        const int token = n * 8 + g;
        uint32_t b[2] = {0, 0};
        if (token < n_tokens) {
          const nv_bf16* from = x + token * x_stride + tile * kTileCols + s * 16 + t * 2;
          b[0] = *reinterpret_cast<const uint32_t*>(from);
          b[1] = *reinterpret_cast<const uint32_t*>(from + 8);
        }
        mma_bf16(part[n], a, b);
      }
    }
    for (int n = 0; n < N8; n++) {
      total[n][0] += low * part[n][0];
      total[n][1] += low * part[n][1];
      total[n][2] += high * part[n][2];
      total[n][3] += high * part[n][3];
    }
  }
  __syncthreads();                                // the table is no longer read: its memory takes the warps' sums
  float* sums = reinterpret_cast<float*>(table);  // [kWarps][N8][4][32]
  for (int n = 0; n < N8; n++)
    for (int i = 0; i < 4; i++) sums[((warp * N8 + n) * 4 + i) * kWarp + lane] = total[n][i];
  __syncthreads();
  for (int e = threadIdx.x; e < N8 * 4 * kWarp; e += blockDim.x) {
    const int from = e % kWarp, i = e / kWarp % 4, n = e / (4 * kWarp);
    const int token = n * 8 + from % 4 * 2 + i % 2, row = blockIdx.x * kTileRows + from / 4 + i / 2 * 8;
    if (token >= n_tokens) continue;
    float sum = 0;
    for (int w = 0; w < kWarps; w++) sum += sums[((w * N8 + n) * 4 + i) * kWarp + from];
    store(out + token * out_stride + row, sum);
  }
}

/// One warp a tile; values rounded to bf16 after the product with absmax, as bitsandbytes does.
__global__ void dequantise_kernel(nv_bf16* out, const uint4* tiles, const float* scales, int K, int64_t n_tiles) {
  const int64_t at = int64_t(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  if (at >= n_tiles) return;
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int64_t per_row = K / kTileCols, row = at / per_row * kTileRows, col = at % per_row * kTileCols;
  const uint4 codes = tiles[at * kWarp + lane];
  const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
  const float scale[2] = {scales[at * kTileRows + g * 2], scales[at * kTileRows + g * 2 + 1]};
  for (int s = 0; s < 4; s++)
    for (int i = 0; i < 4; i++) {
      const uint32_t byte = words[s] >> (8 * i) & 255;
      const float by = scale[i % 2];
      *reinterpret_cast<__nv_bfloat162*>(out + (row + g + 8 * (i % 2)) * K + col + 16 * s + t * 2 + 8 * (i / 2)) =
          __floats2bfloat162_rn(nf4_code[byte & 15] * by, nf4_code[byte >> 4] * by);
    }
}

template <int N8>
void launch(Tensor out, Tensor x, const LinearCuda& w, cudaStream_t stream) {
  static_assert(kWarps * N8 * 4 * kWarp * 4 <= kNf4TableBytes);
  by_dtype(out, [&](auto* to) {
    nf4_gemm<N8><<<unsigned(w.rows / kTileRows), kWarps * kWarp, kNf4TableBytes, stream>>>(
        to, out.stride, nv(x.b16()), x.stride, int(x.rows), static_cast<const uint4*>(w.data.data()),
        static_cast<const float*>(w.scales.data()), int(w.cols));
  });
}

void upload_nf4(LinearCuda& w, std::span<const HostMatrix> parts) {
  std::vector<uint8_t> tiles(size_t(w.rows * w.cols / 2));
  std::vector<float> scales(size_t(w.rows * w.cols / kTileCols));
  int64_t row = 0;
  for (const HostMatrix& part : parts) {
    pack_tiles(static_cast<const uint8_t*>(part.data), part.rows, part.cols, tiles.data() + row * w.cols / 2);
    pack_scales(part.absmax, part.rows, part.cols, scales.data() + row * w.cols / kTileCols);
    row += part.rows;
  }
  w.data = allocate_device(tiles.size());
  w.scales = allocate_device(scales.size() * 4);
  upload_device(w.data.data(), tiles.data(), tiles.size(), "upload of weights");
  upload_device(w.scales.data(), scales.data(), scales.size() * 4, "upload of scales");
}

/// Any part that is not NF4 makes the whole matrix bf16: the same values.
void upload_bf16(LinearCuda& w, std::span<const HostMatrix> parts) {
  w.format = WeightFormat::kBF16;
  std::vector<bf16> values(size_t(w.rows * w.cols));
  bf16* to = values.data();
  for (const HostMatrix& part : parts) {
    const int64_t n = part.rows * part.cols;
    if (part.format == WeightFormat::kNF4)
      nf4_dequantize_bf16(static_cast<const uint8_t*>(part.data), part.absmax, n, to);
    else if (part.format == WeightFormat::kBF16)
      std::memcpy(to, part.data, size_t(n) * 2);
    else
      for (int64_t i = 0; i < n; i++) to[i] = to_bf16(static_cast<const float*>(part.data)[i]);
    to += n;
  }
  w.data = allocate_device(values.size() * 2);
  upload_device(w.data.data(), values.data(), values.size() * 2, "upload of weights");
}

}  // namespace

std::unique_ptr<Linear> make_linear_cuda(std::span<const HostMatrix> parts) {
  auto w = std::make_unique<LinearCuda>();
  w->cols = parts[0].cols;
  bool nf4 = true;
  for (const HostMatrix& part : parts) {
    if (part.cols != w->cols) throw Error("SHAPE_MISMATCH", "parts of one linear differ in n_in");
    w->rows += part.rows;
    nf4 &= part.format == WeightFormat::kNF4 && part.rows % kTileRows == 0 && part.cols % kTileCols == 0;
  }
  if (nf4)
    upload_nf4(*w, parts);
  else
    upload_bf16(*w, parts);
  w->bytes = w->data.bytes() + w->scales.bytes();
  return w;
}

void dequantise_cuda(nv_bf16* out, const Linear& linear, cudaStream_t stream) {
  const auto& w = static_cast<const LinearCuda&>(linear);
  if (w.format == WeightFormat::kBF16) {
    check(cudaMemcpyAsync(out, w.data.data(), w.data.bytes(), cudaMemcpyDeviceToDevice, stream), "copy of weights");
    return;
  }
  const int64_t n_tiles = w.rows / kTileRows * (w.cols / kTileCols);
  dequantise_kernel<<<unsigned(ceil_div<int64_t>(n_tiles, kWarps)), kWarps * kWarp, 0, stream>>>(
      out, static_cast<const uint4*>(w.data.data()), static_cast<const float*>(w.scales.data()), int(w.cols), n_tiles);
  check_launch("dequantise");
}

namespace {

/// The weights as bf16 [n, K]: kept from the first time on where memory allows, else written to scratch every time.
const nv_bf16* expand(const LinearCuda& w, Dequantised& memory, cudaStream_t stream) {
  const size_t bytes = size_t(w.rows * w.cols) * 2;
  if (w.expanded.bytes() == 0) {
    const bool keep = memory.kept + bytes <= memory.may_keep;
    Buffer& to = keep ? w.expanded : memory.scratch;
    if (to.bytes() < bytes) {
      check(cudaStreamSynchronize(stream), "before scratch grows");
      to = allocate_device(bytes);
    }
    dequantise_cuda(static_cast<nv_bf16*>(to.data()), w, stream);
    if (!keep) return static_cast<const nv_bf16*>(to.data());
    memory.kept += bytes;
  }
  return static_cast<const nv_bf16*>(w.expanded.data());
}

}  // namespace

void linear_cuda(Tensor out, Tensor x, const Linear& linear, CublasLt& blas, Dequantised& memory, cudaStream_t stream) {
  const auto& w = static_cast<const LinearCuda&>(linear);
  expect_shape("linear out", out, x.rows, w.rows);
  expect_shape("linear x", x, out.rows, w.cols);
  if (w.format == WeightFormat::kBF16) return blas.matmul(out, x, static_cast<const nv_bf16*>(w.data.data()), w.rows, stream);
  if (x.rows > kFewTokens) return blas.matmul(out, x, expand(w, memory, stream), w.rows, stream);
  switch (ceil_div<int64_t>(x.rows, 8)) {
    case 1:
      launch<1>(out, x, w, stream);
      break;
    case 2:
      launch<2>(out, x, w, stream);
      break;
    default:
      launch<4>(out, x, w, stream);
  }
  check_launch("nf4_gemm");
}

}  // namespace lorikeet::cuda
