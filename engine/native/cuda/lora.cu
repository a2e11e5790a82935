// y += scale * B (A x) for runs of tokens of one adapter: shrink, then expand. Runs travel as kernel arguments, so nothing is uploaded.
#include "../core/lora.h"
#include "lora_prefill.h"
#include "ops.h"
#include "vectors.h"
#include "weights.h"

namespace lorikeet::cuda {

namespace {

struct Run {
  const nv_bf16 *a, *b;
  const float* column_scale;
  int begin, end, rank, padded_rank, n_out;
  int64_t column;
  float scale;
};

constexpr int kMaxRuns = 48, kMaxRank = 512;
struct Runs {
  Run run[kMaxRuns];
};

/// One warp a (token, rank): shrunk[token][run's rank offset + r] = A[r] . x[token].
__global__ void shrink_kernel(float* shrunk, const nv_bf16* x, int64_t x_stride, int n_in, const __grid_constant__ Runs runs) {
  const Run& run = runs.run[blockIdx.z];
  const int token = run.begin + blockIdx.y, r = blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (token >= run.end || r >= run.rank) return;
  const nv_bf16 *row = x + token * x_stride, *a = run.a + int64_t(r) * n_in;
  float sum = 0;
  for (int i = lane * 2; i < n_in; i += kWarp * 2) {
    const float2 p = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(row + i)),
                 q = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(a + i));
    sum += p.x * q.x + p.y * q.y;
  }
  sum = warp_sum(sum);
  if (lane == 0) shrunk[(int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * kMaxRank + r] = sum;
}

template <class T>
__global__ void expand_kernel(T* out, int64_t out_stride, const float* shrunk, const __grid_constant__ Runs runs) {
  const Run& run = runs.run[blockIdx.z];
  const int token = run.begin + blockIdx.y, n = blockIdx.x * blockDim.x + threadIdx.x;
  if (token >= run.end || n >= run.n_out) return;
  const float* h = shrunk + (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * kMaxRank;
  const nv_bf16* b = run.b + int64_t(n) * run.padded_rank;
  float sum = 0;
  for (int r = 0; r < run.rank; r++) sum += __bfloat162float(b[r]) * h[r];
  T* to = out + token * out_stride + run.column + n;
  const float y = to_float(*to) + run.scale * sum;
  store(to, run.column_scale ? y * run.column_scale[n] : y);
}

__global__ void embedding_lora_kernel(float* x, int64_t stride, const int32_t* ids, const float* a, const float* b, int rank, int n,
                                      float scale) {
  const float* h = a + int64_t(ids[blockIdx.x]) * rank;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    float sum = 0;
    for (int r = 0; r < rank; r++) sum += b[r * n + i] * h[r];
    x[blockIdx.x * stride + i] += scale * sum;
  }
}

Buffer upload_floats(const std::vector<float>& values) {
  Buffer out = allocate_device(values.size() * 4);
  upload_device(out.data(), values.data(), values.size() * 4, "upload of an adapter");
  return out;
}

Buffer upload_bf16(const std::vector<float>& values) {
  std::vector<bf16> half(values.size());
  for (size_t i = 0; i < values.size(); i++) half[i] = to_bf16(values[i]);
  Buffer out = allocate_device(half.size() * 2);
  upload_device(out.data(), half.data(), half.size() * 2, "upload of an adapter");
  return out;
}

/// [rows, cols] to [cols, rows].
std::vector<float> transposed(const std::vector<float>& values, int64_t rows, int64_t cols) {
  std::vector<float> out(values.size());
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < cols; c++) out[c * rows + r] = values[r * cols + c];
  return out;
}

/// [rows, cols] to [rows, to], zeros behind.
std::vector<float> padded(const std::vector<float>& values, int64_t rows, int64_t cols, int64_t to) {
  std::vector<float> out(size_t(rows * to));
  for (int64_t r = 0; r < rows; r++) std::copy_n(values.begin() + r * cols, cols, out.begin() + r * to);
  return out;
}

/// A [r, K] as DevicePair has it: lane l of step s of a tile holds rows l / 4 and l / 4 + 8, columns l % 4 * 2 and 8 further, in pairs.
std::vector<float> a_in_tiles(const std::vector<float>& a, int64_t rank, int64_t K) {
  const int64_t rank_tiles = (rank + 15) / 16, k_tiles = K / 64;
  std::vector<float> out(size_t(rank_tiles * 16 * K));
  size_t at = 0;
  for (int64_t tile = 0; tile < rank_tiles * k_tiles; tile++)
    for (int step = 0; step < 4; step++)
      for (int lane = 0; lane < kWarp; lane++)
        for (int e = 0; e < 8; e++) {
          const int64_t row = tile / k_tiles * 16 + lane / 4 + e / 2 % 2 * 8;
          const int64_t col = tile % k_tiles * 64 + step * 16 + lane % 4 * 2 + e / 4 * 8 + e % 2;
          out[at++] = row < rank ? a[size_t(row * K + col)] : 0;
        }
  return out;
}

std::unique_ptr<LoraCuda> make_shape(const HostTensor& a, const HostTensor& b, float scale) {
  auto w = std::make_unique<LoraCuda>();
  w->rank = int(a.shape[0]);
  w->n_in = a.shape[1];
  w->n_out = b.shape[0];
  w->scale = scale;
  if (w->rank > kMaxRank)
    throw Error("ADAPTER_RANK_TOO_LARGE", "rank " + std::to_string(w->rank) + " on CUDA: at most " + std::to_string(kMaxRank));
  return w;
}

}  // namespace

std::unique_ptr<LoraWeights> make_lora_cuda(const HostTensor& a, const HostTensor& b, float scale, std::span<const float> column_scale) {
  auto w = make_shape(a, b, scale);
  w->a = upload_bf16(to_float(a));
  if (w->n_in % 64 == 0) w->a_tiles = upload_bf16(a_in_tiles(to_float(a), w->rank, w->n_in));
  w->b = upload_bf16(padded(to_float(b), w->n_out, w->rank, w->padded_rank()));
  if (!column_scale.empty()) w->column_scale = upload_floats({column_scale.begin(), column_scale.end()});
  w->bytes = w->a.bytes() + w->a_tiles.bytes() + w->b.bytes() + w->column_scale.bytes();
  return w;
}

std::unique_ptr<LoraWeights> make_embedding_lora_cuda(const HostTensor& a, const HostTensor& b, float scale) {
  auto w = make_shape(a, b, scale);
  w->a = upload_floats(transposed(to_float(a), w->rank, w->n_in));
  w->b = upload_floats(transposed(to_float(b), w->n_out, w->rank));
  w->bytes = w->a.bytes() + w->b.bytes();
  return w;
}

std::unique_ptr<AdapterIndex> index_adapter_cuda(const DeviceAdapter& adapter) {
  auto index = std::make_unique<AdapterIndexCuda>();
  index->fused = !adapter.embedding && !adapter.head && !adapter.embed_lora;
  std::vector<DevicePair> pairs;
  for (const auto& layer : adapter.layers)
    for (const auto& weights : layer) {
      DevicePair& pair = pairs.emplace_back();
      if (!weights) continue;
      const auto& w = static_cast<const LoraCuda&>(*weights);
      pair = {static_cast<const uint4*>(w.a_tiles.data()), static_cast<const nv_bf16*>(w.b.data()),
              static_cast<const float*>(w.column_scale.data()), w.scale, w.padded_rank() / 16};
      index->rank_tiles = std::max(index->rank_tiles, pair.rank_tiles);
      index->fused &= pair.a != nullptr && w.rank <= kDecodeRank;
    }
  index->pairs = allocate_device(pairs.size() * sizeof(DevicePair));
  upload_device(index->pairs.data(), pairs.data(), pairs.size() * sizeof(DevicePair), "upload of an adapter");
  if (const TokenRowsDevice* rows = adapter.embed_rows.get()) {
    index->n_row_ids = int(rows->token_ids.size());
    index->row_ids = allocate_device(rows->token_ids.size() * 4);
    upload_device(index->row_ids.data(), rows->token_ids.data(), rows->token_ids.size() * 4, "upload of an adapter");
    index->rows = static_cast<const nv_bf16*>(rows->rows.data());
  }
  index->bytes = index->pairs.bytes() + index->row_ids.bytes();
  return index;
}

void embedding_lora_cuda(Tensor x, const int32_t* token_ids, int begin, int end, const LoraWeights& lora, float embed_scale,
                         cudaStream_t stream) {
  const auto& w = static_cast<const LoraCuda&>(lora);
  embedding_lora_kernel<<<unsigned(end - begin), 128, 0, stream>>>(
      x.f32(begin), x.stride, token_ids + begin, static_cast<const float*>(w.a.data()), static_cast<const float*>(w.b.data()), w.rank,
      int(x.cols), w.scale * embed_scale);
  check_launch("embedding_lora");
}

namespace {

/// Fits the tiles of lora_prefill.cu.
bool is_long(const LoraSegment& s, const LoraPart& part) {
  return s.weights && s.end - s.begin >= kLongRun && s.weights->n_in % 32 == 0 && s.weights->n_out % 8 == 0 && part.row_begin % 8 == 0;
}

void add_long_runs(Tensor out, Tensor x, std::span<const LoraPart> parts, Buffer& scratch, cudaStream_t stream) {
  LongRuns runs;
  int n = 0;
  int64_t shrunk = 0;
  const auto flush = [&] {
    if (n == 0) return;
    if (scratch.bytes() < size_t(shrunk) * 2) {
      check(cudaStreamSynchronize(stream), "before scratch grows");
      scratch = allocate_device(size_t(shrunk) * 2);
    }
    lora_prefill_cuda(out, x, runs, n, static_cast<nv_bf16*>(scratch.data()), stream);
    n = 0;
    shrunk = 0;
  };
  for (const LoraPart& part : parts)
    for (const LoraSegment& s : part.segments) {
      if (!is_long(s, part)) continue;
      const auto& w = static_cast<const LoraCuda&>(*s.weights);
      expect_shape("lora x", x, out.rows, w.n_in);
      runs.run[n++] = {static_cast<const nv_bf16*>(w.a.data()),
                       static_cast<const nv_bf16*>(w.b.data()),
                       static_cast<const float*>(w.column_scale.data()),
                       part.row_begin,
                       shrunk,
                       s.begin,
                       s.end,
                       w.rank,
                       w.padded_rank(),
                       int(w.n_out),
                       w.scale};
      shrunk += int64_t(s.end - s.begin) * w.padded_rank();
      if (n == kMaxLongRuns) flush();
    }
  flush();
}

}  // namespace

void lora_cuda(Tensor out, Tensor x, std::span<const LoraPart> parts, Buffer& scratch, cudaStream_t stream) {
  add_long_runs(out, x, parts, scratch, stream);
  Runs runs;
  int n = 0, longest = 0, rank = 0, n_out = 0;
  const auto flush = [&] {
    if (n == 0) return;
    const size_t need = size_t(n) * longest * kMaxRank * 4;
    if (scratch.bytes() < need) {
      check(cudaStreamSynchronize(stream), "before scratch grows");
      scratch = allocate_device(need);
    }
    auto* shrunk = static_cast<float*>(scratch.data());
    shrink_kernel<<<dim3(unsigned(ceil_div(rank, 4)), unsigned(longest), unsigned(n)), 4 * kWarp, 0, stream>>>(shrunk, nv(x.b16()),
                                                                                                               x.stride, int(x.cols), runs);
    by_dtype(out, [&](auto* to) {
      expand_kernel<<<dim3(unsigned(ceil_div(n_out, 128)), unsigned(longest), unsigned(n)), 128, 0, stream>>>(to, out.stride, shrunk, runs);
    });
    check_launch("lora");
    n = longest = rank = n_out = 0;
  };
  for (const LoraPart& part : parts)
    for (const LoraSegment& s : part.segments) {
      if (!s.weights || is_long(s, part)) continue;
      const auto& w = static_cast<const LoraCuda&>(*s.weights);
      expect_shape("lora x", x, out.rows, w.n_in);
      runs.run[n++] = {static_cast<const nv_bf16*>(w.a.data()),
                       static_cast<const nv_bf16*>(w.b.data()),
                       static_cast<const float*>(w.column_scale.data()),
                       s.begin,
                       s.end,
                       w.rank,
                       w.padded_rank(),
                       int(w.n_out),
                       part.row_begin,
                       w.scale};
      longest = std::max(longest, s.end - s.begin);
      rank = std::max(rank, w.rank);
      n_out = std::max(n_out, int(w.n_out));
      if (n == kMaxRuns) flush();
    }
  flush();
}

std::vector<float> dora_row_norms_cuda(const Linear& linear, int64_t part_begin, const HostTensor& a, const HostTensor& b, float scale) {
  const int64_t K = linear.cols, rank = a.shape[0], n_out = b.shape[0];
  Buffer device = allocate_device(size_t(linear.rows * K) * 2);
  dequantise_cuda(static_cast<nv_bf16*>(device.data()), linear, nullptr);
  std::vector<bf16> rows(size_t(n_out * K));
  check(cudaMemcpy(rows.data(), static_cast<bf16*>(device.data()) + part_begin * K, rows.size() * 2, cudaMemcpyDeviceToHost),
        "weights for DoRA");
  const std::vector<float> av = to_float(a), bv = to_float(b);
  std::vector<float> norms(size_t(n_out), 0.0f);
  for (int64_t n = 0; n < n_out; n++) {
    double sum = 0;
    for (int64_t k = 0; k < K; k++) {
      double v = to_f32(rows[n * K + k]);
      for (int64_t r = 0; r < rank; r++) v += double(scale) * bv[n * rank + r] * av[r * K + k];
      sum += v * v;
    }
    norms[n] = float(std::sqrt(sum));
  }
  return norms;
}

}  // namespace lorikeet::cuda
