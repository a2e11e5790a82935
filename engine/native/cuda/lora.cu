// y += scale * B (A x) for runs of tokens of one adapter: shrink, then expand. Runs travel as kernel arguments, so nothing is uploaded.
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

constexpr int kMaxRuns = 48;
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

}  // namespace

std::unique_ptr<LoraCuda> lora_at(const PairLayout& pair, const char* device) {
  auto w = std::make_unique<LoraCuda>();
  w->rank = pair.rank;
  w->n_in = pair.n_in;
  w->n_out = pair.n_out;
  w->scale = pair.scale;
  w->a = device + pair.a;
  w->b = device + pair.b;
  if (pair.a_tiles != kAbsent) w->a_tiles = reinterpret_cast<const uint4*>(device + pair.a_tiles);
  if (pair.column_scale != kAbsent) w->column_scale = reinterpret_cast<const float*>(device + pair.column_scale);
  return w;
}

namespace {

std::unique_ptr<LoraWeights> upload_pair(const PairLayout& pair, const std::vector<char>& image) {
  Buffer device = allocate_device(image.size());
  upload_device(device.data(), image.data(), image.size(), "upload of an adapter");
  auto w = lora_at(pair, static_cast<const char*>(device.data()));
  w->bytes = device.bytes();
  w->own = std::move(device);
  return w;
}

}  // namespace

std::unique_ptr<LoraWeights> make_lora_cuda(const HostTensor& a, const HostTensor& b, float scale, std::span<const float> column_scale) {
  size_t bytes = 0;
  const PairLayout pair = plan_pair(a, b, scale, !column_scale.empty(), bytes);
  std::vector<char> image(bytes);
  write_pair(pair, a, b, column_scale, image.data());
  return upload_pair(pair, image);
}

std::unique_ptr<LoraWeights> make_embedding_lora_cuda(const HostTensor& a, const HostTensor& b, float scale) {
  size_t bytes = 0;
  const PairLayout pair = plan_embedding_pair(a, b, scale, bytes);
  std::vector<char> image(bytes);
  write_embedding_pair(pair, a, b, image.data());
  return upload_pair(pair, image);
}

void embedding_lora_cuda(Tensor x, const int32_t* token_ids, int begin, int end, const LoraWeights& lora, float embed_scale,
                         cudaStream_t stream) {
  const auto& w = static_cast<const LoraCuda&>(lora);
  embedding_lora_kernel<<<unsigned(end - begin), 128, 0, stream>>>(x.f32(begin), x.stride, token_ids + begin,
                                                                   static_cast<const float*>(w.a), static_cast<const float*>(w.b), w.rank,
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
      runs.run[n++] = {w.a_rows(), w.b_rows(), w.column_scale,  part.row_begin, shrunk, s.begin,
                       s.end,      w.rank,     w.padded_rank(), int(w.n_out),   w.scale};
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
      runs.run[n++] = {w.a_rows(), w.b_rows(),      w.column_scale, s.begin,        s.end,
                       w.rank,     w.padded_rank(), int(w.n_out),   part.row_begin, w.scale};
      longest = std::max(longest, s.end - s.begin);
      rank = std::max(rank, w.rank);
      n_out = std::max(n_out, int(w.n_out));
      if (n == kMaxRuns) flush();
    }
  flush();
}

namespace {

/// One block a row of W + scale * B A.
__global__ void dora_norms_kernel(float* norms, const nv_bf16* w, const float* a, const float* b, int n_in, int rank, double scale) {
  __shared__ double partial[kWarp];
  const nv_bf16* row = w + int64_t(blockIdx.x) * n_in;
  const float* b_row = b + int64_t(blockIdx.x) * rank;
  double sum = 0;
  for (int k = threadIdx.x; k < n_in; k += blockDim.x) {
    double v = __bfloat162float(row[k]);
    for (int r = 0; r < rank; r++) v += scale * b_row[r] * a[int64_t(r) * n_in + k];
    sum += v * v;
  }
  for (int o = kWarp / 2; o > 0; o /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x) return;
  for (unsigned i = 1; i < blockDim.x / kWarp; i++) sum += partial[i];
  norms[blockIdx.x] = float(sqrt(sum));
}

Buffer upload_floats(const HostTensor& tensor) {
  const std::vector<float> values = to_float(tensor);
  Buffer out = allocate_device(values.size() * 4);
  upload_device(out.data(), values.data(), values.size() * 4, "upload of an adapter");
  return out;
}

}  // namespace

std::vector<float> dora_row_norms_cuda(const Linear& linear, int64_t part_begin, const HostTensor& a, const HostTensor& b, float scale) {
  const int64_t K = linear.cols, n_out = b.shape[0];
  const Buffer rows = allocate_device(size_t(linear.rows * K) * 2), norms = allocate_device(size_t(n_out) * 4);
  const Buffer a_values = upload_floats(a), b_values = upload_floats(b);
  dequantise_cuda(static_cast<nv_bf16*>(rows.data()), linear, nullptr);
  dora_norms_kernel<<<unsigned(n_out), 256>>>(static_cast<float*>(norms.data()), static_cast<const nv_bf16*>(rows.data()) + part_begin * K,
                                              static_cast<const float*>(a_values.data()), static_cast<const float*>(b_values.data()),
                                              int(K), int(a.shape[0]), scale);
  check_launch("dora_norms");
  std::vector<float> out(static_cast<size_t>(n_out));
  check(cudaMemcpy(out.data(), norms.data(), out.size() * 4, cudaMemcpyDeviceToHost), "weights for DoRA");
  return out;
}

}  // namespace lorikeet::cuda
