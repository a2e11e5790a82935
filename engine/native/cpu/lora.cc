// y += scale * B (A x) for runs of tokens of one adapter. A lies by rank so that shrinking is the dot product of linear.h; B lies
// transposed so that expanding adds whole vectors of outputs. Ranks are summed in order: a token's result is its own.
#include <algorithm>

#include "allocate.h"
#include "linear.h"
#include "ops.h"

namespace lorikeet::CPU_NS {

struct LoraCpu : LoraWeights {
  DType dtype = DType::kBF16;
  Buffer a;                          // [padded rank, n_in] act; of an embedding: [V, rank] f32
  Buffer b;                          // [rank, n_out] act; of an embedding f32
  std::vector<float> column_scale;   // [n_out] or empty
  float scale = 0;
  int padded_rank = 0;               // a multiple of kGroup, the rest is zero
};

namespace {

void write_act(void* to, DType dtype, int64_t i, float v) {
  if (dtype == DType::kBF16) static_cast<bf16*>(to)[i] = to_bf16(v);
  else static_cast<float*>(to)[i] = v;
}

Buffer transposed(const HostTensor& b, int rank, int64_t n_out, DType dtype) {
  const std::vector<float> values = to_float(b);
  Buffer out = allocate(size_t(rank * n_out) * size_of(dtype));
  for (int64_t n = 0; n < n_out; n++)
    for (int r = 0; r < rank; r++) write_act(out.data(), dtype, r * n_out + n, values[n * rank + r]);
  return out;
}

}  // namespace

std::unique_ptr<LoraWeights> make_lora_cpu(const HostTensor& a, const HostTensor& b, float scale, std::span<const float> column_scale, DType act) {
  auto w = std::make_unique<LoraCpu>();
  w->rank = int(a.shape[0]);
  w->n_in = a.shape[1];
  w->n_out = b.shape[0];
  w->dtype = act;
  w->scale = scale;
  w->column_scale.assign(column_scale.begin(), column_scale.end());
  w->padded_rank = (w->rank + kGroup - 1) / kGroup * kGroup;
  const std::vector<float> values = to_float(a);
  w->a = allocate(size_t(w->padded_rank * w->n_in) * size_of(act));
  for (size_t i = 0; i < values.size(); i++) write_act(w->a.data(), act, int64_t(i), values[i]);
  w->b = transposed(b, w->rank, w->n_out, act);
  w->bytes = w->a.bytes() + w->b.bytes() + w->column_scale.size() * 4;
  return w;
}

std::unique_ptr<LoraWeights> make_embedding_lora_cpu(const HostTensor& a, const HostTensor& b, float scale) {
  auto w = std::make_unique<LoraCpu>();
  w->rank = int(a.shape[0]);
  w->n_in = a.shape[1];
  w->n_out = b.shape[0];
  w->dtype = DType::kF32;
  w->scale = scale;
  const std::vector<float> values = to_float(a);
  w->a = allocate(values.size() * 4);
  for (int r = 0; r < w->rank; r++)
    for (int64_t v = 0; v < w->n_in; v++) static_cast<float*>(w->a.data())[v * w->rank + r] = values[r * w->n_in + v];
  w->b = transposed(b, w->rank, w->n_out, DType::kF32);
  w->bytes = w->a.bytes() + w->b.bytes();
  return w;
}

void embedding_lora_add(float* x, int32_t token, const LoraWeights& lora, float embed_scale) {
  const auto& w = static_cast<const LoraCpu&>(lora);
  const float* h = static_cast<const float*>(w.a.data()) + int64_t(token) * w.rank;
  const float* b = static_cast<const float*>(w.b.data());
  for (int64_t c = 0; c < w.n_out; c += kLanes) {
    f32x16 sum{};
    for (int r = 0; r < w.rank; r++) sum += load(b + r * w.n_out + c) * h[r];
    store(x + c, load(x + c) + sum * (w.scale * embed_scale));
  }
}

namespace {

constexpr int64_t kColumns = 512;  // outputs of one piece of expanding work

void shrink(float* h, const void* x, int64_t x_stride, int64_t n_tokens, const LoraCpu& w) {
  for (int r = 0; r < w.padded_rank; r += kGroup) {
    if (w.dtype == DType::kBF16)
      dot_rows<DotBf16>(static_cast<const bf16*>(w.a.data()) + r * w.n_in, w.n_in, static_cast<const bf16*>(x), x_stride, n_tokens, w.n_in,
                        h + r, w.padded_rank);
    else
      dot_rows<DotF32>(static_cast<const float*>(w.a.data()) + r * w.n_in, w.n_in, static_cast<const float*>(x), x_stride, n_tokens, w.n_in,
                       h + r, w.padded_rank);
  }
}

void expand(float* out, const float* h, const LoraCpu& w, int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; c += kLanes) {
    f32x16 sum{};
    for (int r = 0; r < w.rank; r++) sum += load_act(w.b.data(), w.dtype, r * w.n_out + c) * h[r];
    f32x16 y = load(out + c) + sum * w.scale;
    if (!w.column_scale.empty()) y *= load(w.column_scale.data() + c);
    store(out + c, y);
  }
}

}  // namespace

void lora_add_cpu(Tensor out, Tensor x, std::span<const LoraSegment> segments) {
  struct Piece { const LoraCpu* w; const float* h; int begin, end; int64_t col_begin, col_end; };
  struct Run { const LoraCpu* w; int begin, end; float* h; };
  std::vector<Run> runs;
  size_t need = 0;
  for (const LoraSegment& s : segments) {
    if (!s.weights) continue;
    const auto* w = static_cast<const LoraCpu*>(s.weights);
    expect_shape("lora out", out, out.rows, w->n_out);
    expect_shape("lora x", x, out.rows, w->n_in);
    for (int t = s.begin; t < s.end; t += 48) {
      const int end = std::min(t + 48, s.end);
      runs.push_back({w, t, end, nullptr});
      need += size_t(end - t) * w->padded_rank;
    }
  }
  if (runs.empty()) return;
  thread_local std::vector<float> memory;
  memory.resize(need);
  float* h = memory.data();
  for (Run& run : runs) {
    run.h = h;
    h += size_t(run.end - run.begin) * run.w->padded_rank;
  }
#pragma omp parallel for schedule(dynamic, 1) if (runs.size() > 1)
  for (size_t i = 0; i < runs.size(); i++) shrink(runs[i].h, x.row(runs[i].begin), x.stride, runs[i].end - runs[i].begin, *runs[i].w);

  std::vector<Piece> pieces;
  for (const Run& run : runs)
    for (int64_t c = 0; c < run.w->n_out; c += kColumns)
      pieces.push_back({run.w, run.h, run.begin, run.end, c, std::min(c + kColumns, run.w->n_out)});
#pragma omp parallel for schedule(dynamic, 1) if (pieces.size() > 2)
  for (size_t i = 0; i < pieces.size(); i++) {
    const Piece& p = pieces[i];
    for (int t = p.begin; t < p.end; t++) expand(out.f32(t), p.h + int64_t(t - p.begin) * p.w->padded_rank, *p.w, p.col_begin, p.col_end);
  }
}

std::vector<float> dora_row_norms_cpu(const Linear& linear, int64_t part_begin, const HostTensor& a, const HostTensor& b, float scale) {
  const auto& w = static_cast<const LinearCpu&>(linear);
  const int64_t rank = a.shape[0], n_out = b.shape[0], K = w.cols;
  const std::vector<float> av = to_float(a), bv = to_float(b);
  std::vector<float> norms(n_out);
#pragma omp parallel
  {
    std::vector<float> scratch, delta(K);
#pragma omp for schedule(dynamic, 4)
    for (int64_t n = 0; n < n_out; n += kGroup) {
      const float* rows = rows_f32(w, part_begin + n, part_begin + n + kGroup, scratch);
      for (int64_t i = 0; i < kGroup; i++) {
        double sum = 0;
        for (int64_t k = 0; k < K; k++) {
          double v = rows[i * K + k];
          for (int64_t r = 0; r < rank; r++) v += double(scale) * bv[(n + i) * rank + r] * av[r * K + k];
          sum += v * v;
        }
        norms[n + i] = float(std::sqrt(sum));
      }
    }
  }
  return norms;
}

}  // namespace lorikeet::CPU_NS
