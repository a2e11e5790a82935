// Scores over the vocabulary: which kernel scores which outputs, and what adapters change of them.
//
// An int8 head scores outputs of which only the best row is wanted; what could win is re-scored in bf16, so it decides as bf16 does.
// Outputs that are drawn or described get all their scores from the bf16 rows, which are on the device anyway.
#include "head.h"

#include <algorithm>

#include "ops.h"

namespace lorikeet::cuda {
namespace {

/// An adapter's own rows: one warp each.
__global__ void replaced_kernel(float* values, const nv_bf16* hidden, const nv_bf16* row, int32_t id, int H) {
  float sum = 0;
  for (int i = threadIdx.x; i < H; i += kWarp) sum += __bfloat162float(row[i]) * __bfloat162float(hidden[i]);
  sum = warp_sum(sum);
  if (threadIdx.x == 0) values[id] = sum;
}

void upload_rows(HeadCuda& head, const HostMatrix& matrix) {
  head.bytes = size_t(matrix.rows * matrix.cols) * 2;
  head.own = allocate_device(head.bytes);
  head.weights = static_cast<const nv_bf16*>(head.own.data());
  upload_as_bf16(head.own.data(), matrix, "upload of the head");
}

const HeadCuda& head_of(const Scores& scores, int64_t s) { return static_cast<const HeadCuda&>(*scores.heads[s]); }

/// Outputs [begin, end) share a head. A pass of the kernels takes as many as fit: their sums do not depend on it.
ScoreState score(Scores& scores, int64_t begin, int64_t end, CublasLt& blas, SamplerScratch& scratch, cudaStream_t stream) {
  const HeadCuda& head = head_of(scores, begin);
  const auto only_best = [&](int64_t s) { return !scores.greedy.empty() && scores.greedy[s] && !scores.edges[s]; };
  bool bounded = head.format == HeadFormat::kInt8 && tiled_outputs(head.cols, true) > 0;
  for (int64_t s = begin; s < end; s++) bounded = bounded && only_best(s);
  const int pass = end - begin > kMaxTiled ? 0 : tiled_outputs(head.cols, bounded);
  if (pass == 0) {
    blas.matmul(scores.values.row_range(begin, end), scores.hidden.row_range(begin, end), head.weights, head.rows, stream);
    return ScoreState::kPlain;
  }
  for (int64_t s = begin; s < end; s += pass) {
    const int64_t last = std::min(end, s + pass);
    const Tensor values = scores.values.row_range(s, last), hidden = scores.hidden.row_range(s, last);
    if (bounded)
      score_int8(values, hidden, head, s, scratch, stream);
    else
      score_bf16(values, hidden, head, s, scratch, stream);
  }
  return bounded ? ScoreState::kBounded : ScoreState::kParts;
}

}  // namespace

std::unique_ptr<Head> make_head_cuda(const HostMatrix& matrix, HeadFormat format, const Embedding* tied) {
  if (format != HeadFormat::kBF16 && format != HeadFormat::kInt8) throw Error("UNSUPPORTED", "--head on CUDA: bf16 or int8");
  auto head = std::make_unique<HeadCuda>();
  head->rows = matrix.rows;
  head->cols = matrix.cols;
  head->format = format;
  if (tied)
    head->weights = embedding_rows(*tied);
  else
    upload_rows(*head, matrix);
  if (format == HeadFormat::kInt8) quantise_head(*head, nullptr);
  return head;
}

void logits_cuda(Scores& scores, CublasLt& blas, Buffer& lora_scratch, SamplerScratch& scratch, cudaStream_t stream) {
  const int64_t S = scores.values.rows;
  scratch.reserve_outputs(S, scores.values.cols, scores.hidden.cols, stream);
  scratch.states.assign(size_t(S), ScoreState::kPlain);
  scores.ticket = ++scratch.ticket;
  for (int64_t begin = 0; begin < S;) {  // consecutive outputs of one head in one pass: as a rule they all are
    int64_t end = begin + 1;
    while (end < S && scores.heads[end] == scores.heads[begin]) end++;
    std::fill(scratch.states.begin() + begin, scratch.states.begin() + end, score(scores, begin, end, blas, scratch, stream));
    begin = end;
  }
  for (int64_t s = 0; s < S; s++) {
    const EdgeSegment* edge = scores.edges[s];
    if (!edge || (!edge->token_rows && !edge->head_lora)) continue;
    scratch.states[s] = ScoreState::kPlain;  // the parts were of the base's scores
    if (edge->token_rows)
      for (size_t i = 0; i < edge->token_rows->token_ids.size(); i++)
        replaced_kernel<<<1, kWarp, 0, stream>>>(
            scores.values.f32(s), nv(scores.hidden.b16(s)),
            static_cast<const nv_bf16*>(edge->token_rows->rows.data()) + int64_t(i) * scores.hidden.cols, edge->token_rows->token_ids[i],
            int(scores.hidden.cols));
    if (edge->head_lora) {
      const LoraPart part{0, {{0, 1, edge->head_lora}}};
      lora_cuda(scores.values.row_range(s, s + 1), scores.hidden.row_range(s, s + 1), {&part, 1}, lora_scratch, stream);
    }
  }
  check_launch("logits");
}

void score_exactly(Scores& scores, int64_t s, SamplerScratch& scratch, CublasLt& blas, cudaStream_t stream) {
  const HeadCuda& head = head_of(scores, s);
  const Tensor values = scores.values.row_range(s, s + 1), hidden = scores.hidden.row_range(s, s + 1);
  const bool tiled = tiled_outputs(head.cols, false) > 0;
  if (tiled)
    score_bf16(values, hidden, head, s, scratch, stream);
  else
    blas.matmul(values, hidden, head.weights, head.rows, stream);
  scratch.states[s] = tiled ? ScoreState::kParts : ScoreState::kPlain;
}

}  // namespace lorikeet::cuda
