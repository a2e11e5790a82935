// y += scale * B (A x) for runs of tokens of one adapter. A lies by rank so that shrinking is the dot product of linear.h; B lies
// transposed so that expanding adds whole vectors of outputs. Ranks are summed in order: a token's result is its own.
#include <algorithm>

#include "allocate.h"
#include "linear.h"
#include "lora.h"
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
constexpr int kRunTokens = 48;      // tokens of one piece of shrinking work

/// a * b + c, rounded once where the processor can: left to the compiler, N tokens may be contracted otherwise than one.
inline f32x16 multiply_add(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  __m256 x[2], y[2], z[2];
  std::memcpy(x, &a, 64);
  std::memcpy(y, &b, 64);
  std::memcpy(z, &c, 64);
  for (int i = 0; i < 2; i++) z[i] = _mm256_fmadd_ps(x[i], y[i], z[i]);
  std::memcpy(&c, z, 64);
  return c;
#else
  return a * b + c;
#endif
}

/// N tokens share the loads of B. Each token's sum runs over the ranks in order.
template <int N>
void expand_tokens(Tensor out, const float* h, const LoraCpu& w, int64_t column, int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; c += kLanes) {
    f32x16 sum[N];
    for (int i = 0; i < N; i++) sum[i] = f32x16{};
    for (int r = 0; r < w.rank; r++) {
      const f32x16 b = load_act(w.b.data(), w.dtype, r * w.n_out + c);
      for (int i = 0; i < N; i++) sum[i] = multiply_add(b, splat(h[i * w.padded_rank + r]), sum[i]);
    }
    for (int i = 0; i < N; i++) {
      float* to = out.f32(i) + column + c;
      f32x16 y = multiply_add(sum[i], splat(w.scale), load(to));
      if (!w.column_scale.empty()) y *= load(w.column_scale.data() + c);
      store(to, y);
    }
  }
}

}  // namespace

LoraWork::LoraWork(Tensor out, Tensor x, std::span<const LoraPart> parts) : out_(out), x_(x) {
  for (const LoraPart& part : parts)
    for (const LoraSegment& s : part.segments) {
      if (!s.weights) continue;
      const auto* w = static_cast<const LoraCpu*>(s.weights);
      expect_shape("lora x", x, out.rows, w->n_in);
      if (part.row_begin + w->n_out > out.cols) throw Error("SHAPE_MISMATCH", "lora: more outputs than the product has");
      if (part.row_begin % kLanes || w->n_out % kLanes) throw Error("SHAPE_MISMATCH", "lora: outputs must divide by 16");
      for (int t = s.begin; t < s.end; t += kRunTokens) {
        const int end = std::min(t + kRunTokens, s.end);
        runs_.push_back({w, t, end, part.row_begin, scratch_});
        scratch_ += size_t(end - t) * w->padded_rank;
      }
    }
}

void LoraWork::shrink(int run, float* h) const {
  const Run& r = runs_[run];
  const LoraCpu& w = *r.w;
  for (int i = 0; i < w.padded_rank; i += kGroup) {
    float* to = h + r.h + i;
    if (w.dtype == DType::kBF16)
      dot_rows<DotBf16>(static_cast<const bf16*>(w.a.data()) + i * w.n_in, w.n_in, x_.b16(r.begin), x_.stride, r.end - r.begin, w.n_in, to, w.padded_rank);
    else
      dot_rows<DotF32>(static_cast<const float*>(w.a.data()) + i * w.n_in, w.n_in, x_.f32(r.begin), x_.stride, r.end - r.begin, w.n_in, to, w.padded_rank);
  }
}

void LoraWork::expand(const float* h, int64_t begin, int64_t end) const {
  for (const Run& r : runs_) {
    const int64_t from = std::max(begin - r.column, int64_t(0)), to = std::min(end - r.column, r.w->n_out);
    if (from >= to) continue;
    int t = r.begin;
    const float* ht = h + r.h;
    for (; t + 4 <= r.end; t += 4, ht += 4 * r.w->padded_rank) expand_tokens<4>(out_.row_range(t, t + 4), ht, *r.w, r.column, from, to);
    for (; t < r.end; t++, ht += r.w->padded_rank) expand_tokens<1>(out_.row_range(t, t + 1), ht, *r.w, r.column, from, to);
  }
}

void lora_add_cpu(const LoraWork& work, int64_t n_out) {
  if (work.empty()) return;
  thread_local std::vector<float> memory;
  memory.resize(work.scratch());
  float* h = memory.data();
#pragma omp parallel
  {
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < work.n_runs(); i++) work.shrink(i, h);
#pragma omp for schedule(dynamic, 1)
    for (int64_t c = 0; c < n_out; c += kColumns) work.expand(h, c, std::min(c + kColumns, n_out));
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
