// Attention of training: whole documents, no cache. A task is a document and a head (forward: and a block of queries). Scores of a
// block of queries are held whole, so the softmax is exact; backward recomputes them from the kept log-sum-exp:
//   P = exp(scale Q K^T - lse), dP = dO V^T, dS = scale P (dP - sum(P dP)), dV = P^T dO, dQ = dS K, dK = dS^T Q.
// Heads that share keys add their dK and dV in order afterwards.
#include <omp.h>

#include <algorithm>
#include <limits>

#include "gemm.h"
#include "training.h"

namespace lorikeet::CPU_NS {
namespace {

constexpr int64_t kQueries = 64;  // of one block
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

const i32x16 kLaneNumbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

struct Document {
  int64_t begin, length;
  int64_t padded;  // tokens of padded documents before it
};

/// A call's arguments, its documents and the packed keys and values, [n_kv_heads][padded tokens * padded D] each.
template <class T>
struct Call {
  const TrainingOps::AttentionShape& shape;
  Tensor q, k, v;
  int64_t D, group;
  std::vector<Document> documents;
  int64_t n_padded = 0, longest = 0;  // tokens, in documents rounded up to kPanel
  T *keys_by_column = nullptr, *keys_by_row = nullptr, *values_by_row = nullptr, *values_by_column = nullptr;

  Call(const TrainingOps::AttentionShape& s, Tensor q_, Tensor k_, Tensor v_)
      : shape(s), q(q_), k(k_), v(v_), D(s.head_dim), group(s.n_heads / s.n_kv_heads) {
    expect_shape("attention q", q, q.rows, s.n_heads * D);
    expect_shape("attention k", k, q.rows, s.n_kv_heads * D);
    expect_shape("attention v", v, q.rows, s.n_kv_heads * D);
    for (size_t d = 0; d + 1 < s.documents.starts.size(); d++) {
      const int64_t begin = s.documents.starts[d], length = s.documents.starts[d + 1] - begin;
      if (length <= 0) continue;
      documents.push_back({begin, length, n_padded});
      n_padded += round_up(length, kPanel);
      longest = std::max(longest, round_up(length, kPanel));
    }
  }

  int64_t first_key(int64_t query) const { return shape.window ? std::max<int64_t>(0, query - shape.window + 1) : 0; }
  T* place(T* base, const Document& d, int64_t kv_head) const { return base + (kv_head * n_padded + d.padded) * round_up(D, kPanel); }
};

template <class T>
const T* head_of(Tensor x, int64_t t, int64_t head, int64_t D) { return static_cast<const T*>(x.row(t)) + head * D; }

template <class T>
void pack(TrainingContext& context, Call<T>& c, bool backward) {
  const int64_t n = c.shape.n_kv_heads * c.n_padded * round_up(c.D, kPanel);
  c.keys_by_column = context.arena.take<T>(n);
  (backward ? c.values_by_column : c.values_by_row) = context.arena.take<T>(n);
  if (backward) c.keys_by_row = context.arena.take<T>(n);
  for (int64_t h = 0; h < c.shape.n_kv_heads; h++) {
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < c.documents.size(); i++) {
      const Document& d = c.documents[i];
      const T *k = head_of<T>(c.k, d.begin, h, c.D), *v = head_of<T>(c.v, d.begin, h, c.D);
      const int64_t key_panels = round_up(d.length, kPanel) / kPanel, panels = round_up(c.D, kPanel) / kPanel;
      pack_columns(c.place(c.keys_by_column, d, h), k, c.k.stride, c.D, d.length, 0, key_panels);
      if (backward) pack_columns(c.place(c.values_by_column, d, h), v, c.v.stride, c.D, d.length, 0, key_panels);
      else pack_rows(c.place(c.values_by_row, d, h), v, c.v.stride, d.length, c.D, 0, panels);
      if (backward) pack_rows(c.place(c.keys_by_row, d, h), k, c.k.stride, d.length, c.D, 0, panels);
    }
  }
}

/// Queries [begin, end) of a document and the keys they may see, from a whole panel on.
struct Block {
  int64_t begin, end, first, last;
  int64_t n_queries() const { return end - begin; }
  int64_t n_keys() const { return last - first; }
  int64_t width() const { return round_up(n_keys(), kPanel); }
};

template <class T>
Block block_of(const Call<T>& c, const Document& d, int64_t begin) {
  const int64_t end = std::min(begin + kQueries, d.length);
  return {begin, end, c.first_key(begin) / kPanel * kPanel, end};
}

/// Row i of the scores becomes exp(scale * score - shift), zero where the key is not visible; their sum.
float exponentials(float* row, const Block& b, int64_t query, int64_t first_visible, float scale, float shift) {
  const int64_t low = first_visible - b.first, high = query + 1 - b.first;  // visible keys
  f32x16 sum{};
  for (int64_t i = 0; i < b.width(); i += kLanes) {
    const i32x16 at = kLaneNumbers + int32_t(i);
    const f32x16 e = exp(load(row + i) * scale - shift);
    const f32x16 visible = select((at >= int32_t(low)) & (at < int32_t(high)), e, splat(0));
    store(row + i, visible);
    sum += visible;
  }
  return reduce_add(sum);
}

float largest_visible(const float* row, const Block& b, int64_t query, int64_t first_visible) {
  f32x16 largest = splat(kMinusInfinity);
  for (int64_t i = 0; i < b.width(); i += kLanes) {
    const i32x16 at = kLaneNumbers + int32_t(i);
    const i32x16 visible = (at >= int32_t(first_visible - b.first)) & (at <= int32_t(query - b.first));
    largest = max(select(visible, load(row + i), splat(kMinusInfinity)), largest);
  }
  return reduce_max(largest);
}

template <class T>
void forward_block(const Call<T>& c, const Document& d, int64_t head, const Block& b, Tensor out, Tensor log_sum_exp, float* scores,
                   T* weights) {
  const int64_t kv = head / c.group, W = b.width(), D = c.D;
  const auto keys = packed<T>(c.place(c.keys_by_column, d, kv), D).from(b.first, 0);
  gemm(scores, W, by_row(head_of<T>(c.q, d.begin + b.begin, head, D), c.q.stride), keys, Product{b.n_queries(), W, D});
  float inverse[kQueries];
  for (int64_t i = 0; i < b.n_queries(); i++) {
    const int64_t query = b.begin + i, first = c.first_key(query);
    const float max = largest_visible(scores + i * W, b, query, first) * c.shape.scale;
    const float sum = exponentials(scores + i * W, b, query, first, c.shape.scale, max);
    convert_row(weights + i * W, scores + i * W, W);
    inverse[i] = 1 / sum;
    log_sum_exp.f32(d.begin + query)[head] = max + std::log(sum);
  }
  const auto values = packed<T>(c.place(c.values_by_row, d, kv), d.length).from(0, b.first / kPair<T>);
  float* own = scores + kQueries * W;
  gemm(own, D, by_row<T>(weights, W), values, Product{b.n_queries(), D, b.n_keys()});
  for (int64_t i = 0; i < b.n_queries(); i++)
    for (int64_t e = 0; e < D; e += kLanes)
      store_act(out.row(d.begin + b.begin + i), out.dtype, head * D + e, load(own + i * D + e) * inverse[i]);
}

template <class T>
void forward(TrainingContext& context, Tensor out, Tensor log_sum_exp, Call<T> c) {
  const Arena::Scope scope(context.arena);
  pack(context, c, false);
  struct Task { size_t document; int64_t head, begin; };
  std::vector<Task> tasks;
  for (size_t i = 0; i < c.documents.size(); i++)
    for (int64_t begin = 0; begin < c.documents[i].length; begin += kQueries)
      for (int64_t h = 0; h < c.shape.n_heads; h++) tasks.push_back({i, h, begin});
  const int64_t n_scores = kQueries * (c.longest + c.D);
  float* scores = context.arena.take<float>(context.n_threads * n_scores);
  T* weights = context.arena.take<T>(context.n_threads * kQueries * c.longest);
#pragma omp parallel for schedule(dynamic, 1)
  for (size_t i = 0; i < tasks.size(); i++) {
    const Document& d = c.documents[tasks[i].document];
    const int thread = omp_get_thread_num();
    forward_block(c, d, tasks[i].head, block_of(c, d, tasks[i].begin), out, log_sum_exp, scores + thread * n_scores,
                  weights + thread * kQueries * c.longest);
  }
}

/// Scratch of one task backward.
template <class T>
struct Scratch {
  float *p, *ds;          // [kQueries, keys]
  T *row, *p_t, *ds_t;    // dS by row; P and dS by column: [kQueries / kPair, keys, kPair]
  T *d_rows, *d_pairs, *q_pairs;  // dO by row, dO and Q as right factors [kQueries, D]

  static Scratch take(Arena& arena, int64_t n_threads, int64_t keys, int64_t D) {
    Scratch s;
    s.p = arena.take<float>(n_threads * kQueries * keys);
    s.ds = arena.take<float>(n_threads * kQueries * keys);
    for (T** t : {&s.row, &s.p_t, &s.ds_t}) *t = arena.take<T>(n_threads * kQueries * keys);
    for (T** t : {&s.d_rows, &s.d_pairs, &s.q_pairs}) *t = arena.take<T>(n_threads * packed_size<T>(kQueries, D));
    return s;
  }
  Scratch of_thread(int64_t thread, int64_t keys, int64_t D) const {
    Scratch s = *this;
    for (float** t : {&s.p, &s.ds}) *t += thread * kQueries * keys;
    for (T** t : {&s.row, &s.p_t, &s.ds_t}) *t += thread * kQueries * keys;
    for (T** t : {&s.d_rows, &s.d_pairs, &s.q_pairs}) *t += thread * packed_size<T>(kQueries, D);
    return s;
  }
};

/// out [rows / kPair, width, kPair]: the transpose as a left factor reads it; the odd row is zero.
template <class T>
void by_pairs(T* out, const float* rows, int64_t n_rows, int64_t width) {
  for (int64_t i = 0; i < n_rows; i += kPair<T>, out += width * kPair<T>) {
    if constexpr (kPair<T> == 1) {
      std::memcpy(out, rows + i * width, size_t(width) * 4);
    } else {
      const float *a = rows + i * width, *b = a + width;
      alignas(64) T even[kPanel], odd[kPanel] = {};
      for (int64_t c = 0; c < width; c += kPanel) {
        convert_row(even, a + c, kPanel);
        if (i + 1 < n_rows) convert_row(odd, b + c, kPanel);
        interleave(out + 2 * c, even, odd, kPanel);
      }
    }
  }
}

template <class T>
void backward_block(const Call<T>& c, const Document& d, int64_t head, const Block& b, Tensor dq, float* dk, float* dv, Tensor dout,
                    Tensor log_sum_exp, const Scratch<T>& s) {
  const int64_t kv = head / c.group, W = b.width(), D = c.D, n = b.n_queries(), t0 = d.begin + b.begin;
  const int64_t panels = round_up(D, kPanel) / kPanel;
  const T* q = head_of<T>(c.q, t0, head, D);
  for (int64_t i = 0; i < n; i++) convert_row(s.d_rows + i * D, dout.f32(t0 + i) + head * D, D);
  gemm(s.p, W, by_row(q, c.q.stride), packed<T>(c.place(c.keys_by_column, d, kv), D).from(b.first, 0), Product{n, W, D});
  gemm(s.ds, W, by_row<T>(s.d_rows, D), packed<T>(c.place(c.values_by_column, d, kv), D).from(b.first, 0), Product{n, W, D});
  for (int64_t i = 0; i < n; i++) {
    const int64_t query = b.begin + i;
    float *p = s.p + i * W, *ds = s.ds + i * W;
    exponentials(p, b, query, c.first_key(query), c.shape.scale, log_sum_exp.f32(t0 + i)[head]);
    f32x16 along{};  // sum of P dP = sum of dO O, from the same rounded numbers as dP: dS sums to zero
    for (int64_t j = 0; j < W; j += kLanes) along += load(p + j) * load(ds + j);
    const float mean = reduce_add(along);
    for (int64_t j = 0; j < W; j += kLanes) store(ds + j, load(p + j) * (load(ds + j) - mean) * c.shape.scale);
    convert_row(s.row + i * W, ds, W);
  }
  by_pairs(s.p_t, s.p, n, W);
  by_pairs(s.ds_t, s.ds, n, W);
  pack_rows(s.d_pairs, s.d_rows, D, n, D, 0, panels);
  pack_rows(s.q_pairs, q, c.q.stride, n, D, 0, panels);
  const auto keys = packed<T>(c.place(c.keys_by_row, d, kv), d.length).from(0, b.first / kPair<T>);
  gemm(dq.f32(t0) + head * D, dq.stride, by_row<T>(s.row, W), keys, Product{n, D, b.n_keys()});
  gemm(dv + b.first * D, D, by_column<T>(s.p_t, W), packed<T>(s.d_pairs, n), Product{b.n_keys(), D, n, 1, true});
  gemm(dk + b.first * D, D, by_column<T>(s.ds_t, W), packed<T>(s.q_pairs, n), Product{b.n_keys(), D, n, 1, true});
}

/// sum [T, kv heads * D] = the parts [head][T, D] of each key-value head's queries, in order.
void add_heads(Tensor sum, const float* parts, int64_t group, int64_t D) {
#pragma omp parallel for if (sum.rows > 4)
  for (int64_t t = 0; t < sum.rows; t++)
    for (int64_t kv = 0; kv < sum.cols / D; kv++)
      for (int64_t e = 0; e < D; e += kLanes) {
        f32x16 total{};
        for (int64_t h = kv * group; h < (kv + 1) * group; h++) total += load(parts + (h * sum.rows + t) * D + e);
        store(sum.f32(t) + kv * D + e, total);
      }
}

template <class T>
void backward(TrainingContext& context, Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor log_sum_exp, Call<T> c) {
  const Arena::Scope scope(context.arena);
  pack(context, c, true);
  const int64_t n_tokens = c.q.rows, n_heads = c.shape.n_heads, D = c.D;
  float* dk_heads = context.arena.take<float>(n_heads * n_tokens * D);
  float* dv_heads = context.arena.take<float>(n_heads * n_tokens * D);
  const auto scratch = Scratch<T>::take(context.arena, context.n_threads, c.longest, D);
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < int64_t(c.documents.size()) * n_heads; i++) {
    const Document& d = c.documents[size_t(i / n_heads)];
    const int64_t head = i % n_heads, at = (head * n_tokens + d.begin) * D;
    const auto own = scratch.of_thread(omp_get_thread_num(), c.longest, D);
    std::fill_n(dk_heads + at, d.length * D, 0.0f);
    std::fill_n(dv_heads + at, d.length * D, 0.0f);
    for (int64_t begin = 0; begin < d.length; begin += kQueries)
      backward_block(c, d, head, block_of(c, d, begin), dq, dk_heads + at, dv_heads + at, dout, log_sum_exp, own);
  }
  add_heads(dk, dk_heads, c.group, D);
  add_heads(dv, dv_heads, c.group, D);
}

}  // namespace

void attention_forward_cpu(TrainingContext& context, Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v,
                           const TrainingOps::AttentionShape& shape) {
  expect_shape("attention out", out, q.rows, q.cols);
  expect_shape("attention log_sum_exp", log_sum_exp, q.rows, shape.n_heads);
  if (q.dtype == DType::kBF16) forward(context, out, log_sum_exp, Call<bf16>(shape, q, k, v));
  else forward(context, out, log_sum_exp, Call<float>(shape, q, k, v));
}

void attention_backward_cpu(TrainingContext& context, Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor out, Tensor log_sum_exp,
                            Tensor q, Tensor k, Tensor v, const TrainingOps::AttentionShape& shape) {
  expect_shape("attention_backward dq", dq, q.rows, q.cols);
  expect_shape("attention_backward dk", dk, k.rows, k.cols);
  expect_shape("attention_backward dv", dv, v.rows, v.cols);
  expect_shape("attention_backward dout", dout, q.rows, q.cols);
  expect_shape("attention_backward out", out, q.rows, q.cols);
  if (q.dtype == DType::kBF16) backward(context, dq, dk, dv, dout, log_sum_exp, Call<bf16>(shape, q, k, v));
  else backward(context, dq, dk, dv, dout, log_sum_exp, Call<float>(shape, q, k, v));
}

}  // namespace lorikeet::CPU_NS
