// Scores over the vocabulary. bf16 rows; few outputs by a kernel that reads every row once for all of them, many by cuBLASLt.
#include <algorithm>

#include "ops.h"

namespace lorikeet::cuda {

struct HeadCuda : Head {
  const nv_bf16* weights = nullptr;  // [V, H]: the tied embedding's, or those of `own`
  Buffer own;
};

namespace {

constexpr int kFewOutputs = 8, kWarps = 8;

/// One warp a vocabulary row, for N outputs.
template <int N>
__global__ void head_kernel(float* values, int64_t stride, const nv_bf16* hidden, int64_t hidden_stride, const nv_bf16* head, int64_t V, int H) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= V) return;
  float sum[N] = {};
  for (int i = lane * 8; i < H; i += kWarp * 8) {
    const uint4 w = *reinterpret_cast<const uint4*>(head + row * H + i);
    const auto* wp = reinterpret_cast<const __nv_bfloat162*>(&w);
    for (int n = 0; n < N; n++) {
      const uint4 x = *reinterpret_cast<const uint4*>(hidden + n * hidden_stride + i);
      const auto* xp = reinterpret_cast<const __nv_bfloat162*>(&x);
      for (int j = 0; j < 4; j++) {
        const float2 p = __bfloat1622float2(wp[j]), q = __bfloat1622float2(xp[j]);
        sum[n] += p.x * q.x + p.y * q.y;
      }
    }
  }
  for (int n = 0; n < N; n++) {
    const float s = warp_sum(sum[n]);
    if (lane == 0) values[n * stride + row] = s;
  }
}

/// An adapter's own rows: one warp each.
__global__ void replaced_kernel(float* values, const nv_bf16* hidden, const nv_bf16* row, int32_t id, int H) {
  float sum = 0;
  for (int i = threadIdx.x; i < H; i += kWarp) sum += __bfloat162float(row[i]) * __bfloat162float(hidden[i]);
  sum = warp_sum(sum);
  if (threadIdx.x == 0) values[id] = sum;
}

void score_few(Tensor values, Tensor hidden, const HeadCuda& head, cudaStream_t stream) {
  const auto* rows = head.weights;
  const unsigned blocks = unsigned(ceil_div<int64_t>(head.rows, kWarps));
  const auto launch = [&](auto kernel) {
    kernel<<<blocks, kWarps * kWarp, 0, stream>>>(values.f32(), values.stride, nv(hidden.b16()), hidden.stride, rows, head.rows, int(head.cols));
  };
  switch (values.rows) {
    case 1: return launch(head_kernel<1>);
    case 2: return launch(head_kernel<2>);
    case 3: return launch(head_kernel<3>);
    case 4: return launch(head_kernel<4>);
    case 5: return launch(head_kernel<5>);
    case 6: return launch(head_kernel<6>);
    case 7: return launch(head_kernel<7>);
    default: return launch(head_kernel<8>);
  }
}

void score(Tensor values, Tensor hidden, const HeadCuda& head, CublasLt& blas, cudaStream_t stream) {
  if (values.rows <= kFewOutputs) score_few(values, hidden, head, stream);
  else blas.matmul(values, hidden, head.weights, head.rows, stream);
}

}  // namespace

std::unique_ptr<Head> make_head_cuda(const HostMatrix& matrix, HeadFormat format, const Embedding* tied) {
  if (format != HeadFormat::kBF16) throw Error("UNSUPPORTED", "--head on CUDA: bf16 is built");
  auto head = std::make_unique<HeadCuda>();
  head->rows = matrix.rows;
  head->cols = matrix.cols;
  head->format = format;
  if (tied) {
    head->weights = embedding_rows(*tied);
    return head;
  }
  head->bytes = size_t(matrix.rows * matrix.cols) * 2;
  head->own = allocate_device(head->bytes);
  head->weights = static_cast<const nv_bf16*>(head->own.data());
  if (matrix.format == WeightFormat::kBF16) {
    check(cudaMemcpy(head->own.data(), matrix.data, head->bytes, cudaMemcpyHostToDevice), "upload of the head");
    return head;
  }
  std::vector<bf16> row = std::vector<bf16>(size_t(matrix.cols));
  for (int64_t r = 0; r < matrix.rows; r++) {
    for (int64_t i = 0; i < matrix.cols; i++) row[i] = to_bf16(static_cast<const float*>(matrix.data)[r * matrix.cols + i]);
    check(cudaMemcpy(static_cast<bf16*>(head->own.data()) + r * matrix.cols, row.data(), row.size() * 2, cudaMemcpyHostToDevice), "upload of the head");
  }
  return head;
}

void logits_cuda(Scores& scores, CublasLt& blas, Buffer& scratch, cudaStream_t stream) {
  const int64_t S = scores.values.rows;
  for (int64_t begin = 0; begin < S;) {  // consecutive outputs of one head in one pass: as a rule they all are
    int64_t end = begin + 1;
    while (end < S && scores.heads[end] == scores.heads[begin]) end++;
    score(scores.values.row_range(begin, end), scores.hidden.row_range(begin, end), static_cast<const HeadCuda&>(*scores.heads[begin]), blas, stream);
    begin = end;
  }
  for (int64_t s = 0; s < S; s++) {
    const EdgeSegment* edge = scores.edges[s];
    if (!edge) continue;
    if (edge->token_rows)
      for (size_t i = 0; i < edge->token_rows->token_ids.size(); i++)
        replaced_kernel<<<1, kWarp, 0, stream>>>(scores.values.f32(s), nv(scores.hidden.b16(s)),
                                                 static_cast<const nv_bf16*>(edge->token_rows->rows.data()) + int64_t(i) * scores.hidden.cols,
                                                 edge->token_rows->token_ids[i], int(scores.hidden.cols));
    if (edge->head_lora) {
      const LoraPart part{0, {{0, 1, edge->head_lora}}};
      lora_cuda(scores.values.row_range(s, s + 1), scores.hidden.row_range(s, s + 1), {&part, 1}, scratch, stream);
    }
  }
  check_launch("logits");
}

}  // namespace lorikeet::cuda
