// Softmax cross-entropy over the vocabulary as attention computes it: logits are keys' scores, rows of the head are values. One pass
// over the head gives the loss and dhidden, with a running maximum per token; a piece of 256 logits a token is all that exists at once.
//   logits^T = head hidden^T                    (rows of the head as they lie, tokens in the lanes: a softmax needs no sum across lanes)
//   dhidden^T = head^T exp(logits^T - max)      then / sum, and the target's own part apart: p - 1 = -(sum of the others) / sum
// The vocabulary is cut into kSegments parts whatever the number of threads, merged in order. A trained head takes a second pass:
// its gradient needs the softmax itself.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "gemm.h"
#include "head.h"
#include "training.h"

namespace lorikeet::CPU_NS {
namespace {

constexpr int64_t kSegments = 16;
constexpr int64_t kPieceRows = 256;   // of the head: with their interleaved form they stay in the second-level cache
constexpr int64_t kTokens = 512;      // of one pass over the head, as far as its sums fit kSumBytes
constexpr int64_t kSumBytes = 32 << 20;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

/// Rows of the head in the activations' dtype, with trained rows in their places.
template <class T>
class Rows {
 public:
  Rows(const TrainingOps::LossHead& head) : head_(head) {
    const Tensor& trained = head.trained_head;
    if (head.head) {
      const LinearCpu& exact = static_cast<const HeadCpu&>(*head.head).exact;
      frozen_ = &exact;
      V = exact.rows;
      H = exact.cols;
    } else {
      V = trained.rows;
      H = trained.cols;
    }
  }

  /// Rows [begin, end), H apart; begin is a multiple of kGroup. In place, or in scratch [end - begin, H].
  const T* at(int64_t begin, int64_t end, T* scratch) const {
    const T* rows = source(begin, end, scratch);
    for (size_t i = 0; i < head_.token_ids.size(); i++) {
      const int64_t id = head_.token_ids[i];
      if (id < begin || id >= end) continue;
      if (rows != scratch) std::memcpy(scratch, rows, size_t((end - begin) * H) * sizeof(T));
      rows = scratch;
      convert_row(scratch + (id - begin) * H, head_.token_rows.f32(int64_t(i)), H);
    }
    return rows;
  }

  int64_t V, H;

 private:
  const T* source(int64_t begin, int64_t end, T* scratch) const {
    if (!frozen_) return convert(head_.trained_head.f32(begin), head_.trained_head.stride, end - begin, scratch);
    if (frozen_->format == WeightFormat::kBF16)
      return convert(static_cast<const bf16*>(frozen_->data) + begin * H, H, end - begin, scratch);
    if (frozen_->format == WeightFormat::kF32)
      return convert(static_cast<const float*>(frozen_->data) + begin * H, H, end - begin, scratch);
    for (int64_t r = begin; r < end; r++) {
      const int64_t g = r / kGroup, i = r % kGroup;
      for (int64_t b = 0; b < H / kBlock; b++)
        expand_block(frozen_->codes(g) + (b * kGroup + i) * kBlockBytes, frozen_->scales(g)[b * kGroup + i],
                     scratch + (r - begin) * H + b * kBlock);
    }
    return scratch;
  }

  template <class S>
  const T* convert(const S* rows, int64_t stride, int64_t n, T* scratch) const {
    if constexpr (std::is_same_v<S, T>)
      if (stride == H) return rows;
    for (int64_t r = 0; r < n; r++) convert_row(scratch + r * H, rows + r * stride, H);
    return scratch;
  }

  const TrainingOps::LossHead& head_;
  const LinearCpu* frozen_ = nullptr;
};

/// What one segment of the vocabulary knows of every token of a pass: without the target's own logit.
struct Segment {
  float* max;    // [tokens]
  double* sum;   // [tokens] of exp(logit - max)
  float* weighed;  // [panels][H][64]: sum of exp(logit - max) * row
};

/// Scratch of one thread.
template <class T>
struct Piece {
  T* rows;         // [kPieceRows, H] where they must be expanded
  T* pairs;        // [kPieceRows / kPair, H, kPair]
  float* logits;   // [kPieceRows, kPanel]
  T* weights;      // [kPieceRows / kPair, kPanel, kPair]
};

/// One pass's tokens.
template <class T>
struct Pass {
  const Rows<T>& head;
  std::span<const int32_t> targets;
  Right<T> hidden;
  int64_t n_tokens;
  bool gradient;
  float* target_logits;                // [tokens]
  std::span<const int32_t> token_ids;  // of trained rows
  float* token_logits;                 // [ids, tokens]
};

/// The piece's rows as a left factor by column: pairs of rows element by element; an odd last row is paired with zeros.
Left<bf16> by_pairs(bf16* out, const bf16* rows, int64_t n, int64_t H) {
  for (int64_t r = 0; r < n; r += 2, out += 2 * H) {
    if (r + 1 < n) {
      interleave(out, rows + r * H, rows + (r + 1) * H, H);
    } else {
      for (int64_t i = 0; i < H; i++) {
        out[2 * i] = rows[r * H + i];
        out[2 * i + 1] = 0;
      }
    }
  }
  return by_column<bf16>(out - round_up(n, 2) * H, H);
}
Left<float> by_pairs(float*, const float* rows, int64_t, int64_t H) { return by_column<float>(rows, H); }

/// Two rows of sixteen weights as the right factor reads them.
inline void store_weights(bf16* out, f32x16 even, f32x16 odd) {
  alignas(64) bf16 a[kLanes], b[kLanes];
  store_bf16(a, even);
  store_bf16(b, odd);
  interleave(out, a, b, kLanes);
}
inline void store_weights(float* out, f32x16 even, f32x16 odd) {
  store(out, even);
  store(out + kPanel, odd);
}

/// 16 N tokens: logits [n, 64] become weights exp(logit - max), the running maximum and sum follow. shrink [16 N]: what older weights
/// shrink by.
template <class T, int N>
void absorb(const float* logits, int64_t n, float* max, double* sum, float* shrink, T* weights) {
  f32x16 largest[N], shift[N], total[N];
  for (int i = 0; i < N; i++) largest[i] = load(max + i * kLanes);
  for (int64_t r = 0; r < n; r++)
    for (int i = 0; i < N; i++) largest[i] = CPU_NS::max(load(logits + r * kPanel + i * kLanes), largest[i]);
  for (int i = 0; i < N; i++) {
    shift[i] = select(largest[i] == kMinusInfinity, splat(0), largest[i]);  // nothing but a target so far
    total[i] = f32x16{};
    store(shrink + i * kLanes, exp(load(max + i * kLanes) - shift[i]));
    store(max + i * kLanes, largest[i]);
  }
  for (int64_t r = 0; r < n; r += 2)
    for (int i = 0; i < N; i++) {
      const float* at = logits + r * kPanel + i * kLanes;
      const f32x16 a = exp(load(at) - shift[i]), b = r + 1 < n ? exp(load(at + kPanel) - shift[i]) : splat(0);
      total[i] += a + b;
      if (weights) store_weights(weights + r * kPanel + i * kLanes * kPair<T>, a, b);
    }
  for (int i = 0; i < N * kLanes; i++) sum[i] = sum[i] * shrink[i] + total[i / kLanes][i % kLanes];
}

template <class T>
void absorb(int64_t lanes, const float* logits, int64_t n, float* max, double* sum, float* shrink, T* weights) {
  switch (lanes / kLanes) {
    case 1: return absorb<T, 1>(logits, n, max, sum, shrink, weights);
    case 2: return absorb<T, 2>(logits, n, max, sum, shrink, weights);
    case 3: return absorb<T, 3>(logits, n, max, sum, shrink, weights);
    default: return absorb<T, 4>(logits, n, max, sum, shrink, weights);
  }
}

/// weighed [H, 64] *= shrink by token, where anything shrinks.
void shrink_sums(float* weighed, int64_t H, const float* shrink, int64_t lanes) {
  for (int64_t i = 0; i < lanes; i += kLanes) {
    const f32x16 by = load(shrink + i);
    if (reduce_max(splat(1) - by) <= 0) continue;
    for (int64_t h = 0; h < H; h++) store(weighed + h * kPanel + i, load(weighed + h * kPanel + i) * by);
  }
}

/// Remembers logits that are wanted by name, and takes the targets out of the piece.
template <class T>
void take_out(const Pass<T>& pass, float* logits, int64_t begin, int64_t end, int64_t token0, int64_t width) {
  for (size_t i = 0; i < pass.token_ids.size(); i++) {
    const int64_t id = pass.token_ids[i];
    if (id >= begin && id < end)
      std::memcpy(pass.token_logits + int64_t(i) * pass.n_tokens + token0, logits + (id - begin) * kPanel, size_t(width) * 4);
  }
  for (int64_t s = 0; s < width; s++) {
    const int64_t target = pass.targets[size_t(token0 + s)];
    if (target < begin || target >= end) continue;
    pass.target_logits[token0 + s] = logits[(target - begin) * kPanel + s];
    logits[(target - begin) * kPanel + s] = kMinusInfinity;
  }
}

template <class T>
void run_piece(const Pass<T>& pass, int64_t begin, int64_t end, const Segment& segment, const Piece<T>& s) {
  const int64_t H = pass.head.H, n = end - begin;
  const T* rows = pass.head.at(begin, end, s.rows);
  Left<T> columns{};
  if (pass.gradient) columns = by_pairs(s.pairs, rows, n, H);
  for (int64_t t = 0; t < pass.n_tokens; t += kPanel) {
    const int64_t width = std::min(kPanel, pass.n_tokens - t), lanes = round_up(width, kLanes);
    gemm(s.logits, kPanel, by_row(rows, H), pass.hidden.from(t, 0), Product{n, lanes, H});
    take_out(pass, s.logits, begin, end, t, width);
    float* weighed = segment.weighed + t * H;
    alignas(64) float shrink[kPanel];
    absorb(lanes, s.logits, n, segment.max + t, segment.sum + t, shrink, pass.gradient ? s.weights : nullptr);
    if (pass.gradient) {
      shrink_sums(weighed, H, shrink, lanes);
      const Right<T> weights{s.weights, 0, kPanel * kPair<T>};
      gemm(weighed, kPanel, columns, weights, Product{H, lanes, n, 1, true});
    }
  }
}

/// The whole softmax of one token, from its segments.
struct Softmax {
  float max, target;
  double others, sum;  // of exp(logit - max): without the target, and with it
  double log_sum_exp() const { return max + std::log(sum); }
};

template <class T>
class CrossEntropy {
 public:
  CrossEntropy(TrainingContext& context, const TrainingOps::LossHead& head) : context_(context), head_(head), rows_(head) {
    if (head.head && head.head->cols != rows_.H) throw Error("SHAPE_MISMATCH", "cross_entropy: the head's columns");
    for (Piece<T>& p : pieces_of(context.n_threads)) pieces_.push_back(p);
  }

  LossResult run(Tensor dhidden, Tensor hidden, std::span<const int32_t> targets) {
    LossResult result;
    const int64_t fit = std::max(kPanel, kSumBytes / (kSegments * H() * int64_t(sizeof(float))) / kPanel * kPanel);
    const int64_t tokens = std::min(kTokens, fit);
    for (int64_t begin = 0; begin < hidden.rows; begin += tokens) {
      const int64_t end = std::min(begin + tokens, hidden.rows);
      const Arena::Scope scope(context_.arena);
      run_pass(head_.gradient ? dhidden.row_range(begin, end) : Tensor{}, hidden.row_range(begin, end), targets.subspan(begin, end - begin),
               result);
    }
    return result;
  }

  int64_t H() const { return rows_.H; }
  int64_t V() const { return rows_.V; }

 private:
  std::vector<Piece<T>> pieces_of(int n_threads) {
    std::vector<Piece<T>> pieces(n_threads);
    for (Piece<T>& p : pieces) {
      p.rows = context_.arena.take<T>(kPieceRows * H());
      p.pairs = kPair<T> == 2 ? context_.arena.take<T>(kPieceRows * H()) : nullptr;
      p.logits = context_.arena.take<float>(kPieceRows * kPanel);
      p.weights = context_.arena.take<T>(kPieceRows * kPanel);
    }
    return pieces;
  }

  void run_pass(Tensor dhidden, Tensor hidden, std::span<const int32_t> targets, LossResult& result) {
    const int64_t S = hidden.rows, padded = round_up(S, kPanel);
    T* columns = context_.arena.take<T>(packed_size<T>(H(), S));
    pack_columns(columns, static_cast<const T*>(hidden.data), hidden.stride, H(), S, 0, padded / kPanel);
    Pass<T> pass{rows_, targets, packed(columns, H()), S, head_.gradient, context_.arena.take<float>(padded), head_.token_ids, nullptr};
    pass.token_logits = context_.arena.take<float>(int64_t(head_.token_ids.size()) * S + 1);
    const std::vector<Segment> segments = run_segments(pass);
    std::vector<Softmax> softmax(S);
    for (int64_t s = 0; s < S; s++) {
      softmax[s] = merge(segments, s, pass.target_logits[s]);
      result.loss_sum += softmax[s].log_sum_exp() - softmax[s].target;
      result.n_correct += softmax[s].target >= largest(segments, s);
    }
    result.n_targets += S;
    if (!head_.gradient) return;
    finish_hidden(dhidden, segments, softmax, targets);
    gradient_of_token_rows(hidden, pass, softmax);
    if (head_.dhead.data) gradient_of_head(pass, hidden, softmax);
  }

  std::vector<Segment> run_segments(const Pass<T>& pass) {
    const int64_t length = std::max(kPieceRows, round_up((V() + kSegments - 1) / kSegments, kPieceRows)), n = (V() + length - 1) / length;
    const int64_t padded = round_up(pass.n_tokens, kPanel);
    std::vector<Segment> segments(n);
    for (Segment& s : segments) {
      s.max = context_.arena.take<float>(padded);
      s.sum = context_.arena.take<double>(padded);
      s.weighed = pass.gradient ? context_.arena.take<float>(padded * H()) : nullptr;
    }
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < n; g++) {
      std::fill_n(segments[g].max, padded, kMinusInfinity);
      std::fill_n(segments[g].sum, padded, 0.0);
      if (pass.gradient) std::fill_n(segments[g].weighed, padded * H(), 0.0f);
    }
    // Piece i is the next of segment i % n: of n pieces in a row no two share a segment.
    in_rounds(length / kPieceRows * n, n, [&](int64_t i) {
      const int64_t v = i % n * length + i / n * kPieceRows, end = std::min({V(), (i % n + 1) * length, v + kPieceRows});
      if (v < end) run_piece(pass, v, end, segments[i % n], pieces_[omp_get_thread_num()]);
    });
    return segments;
  }

  /// Calls body(i) for i of [0, n) on all threads, at most `most` at once, and pauses whenever about 10 ms have passed.
  template <class Body>
  void in_rounds(int64_t n, int64_t most, const Body& body) {
    int64_t together = std::min<int64_t>(context_.n_threads, most);
    for (int64_t first = 0, end; first < n; first = end) {
      end = std::min(n, first + together);
      const auto start = std::chrono::steady_clock::now();
#pragma omp parallel for schedule(dynamic, 1)
      for (int64_t i = first; i < end; i++) body(i);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (seconds < 0.006) together = std::min(together * 2, most);
      if (seconds > 0.015) together = std::max<int64_t>(together / 2, std::min<int64_t>(context_.n_threads, most));
      if (head_.pause) (*head_.pause)();
    }
  }

  static float largest(const std::vector<Segment>& segments, int64_t s) {
    float max = kMinusInfinity;
    for (const Segment& g : segments) max = std::max(max, g.max[s]);
    return max;
  }

  static Softmax merge(const std::vector<Segment>& segments, int64_t s, float target) {
    Softmax out{std::max(largest(segments, s), target), target, 0, 0};
    for (const Segment& g : segments)
      if (g.max[s] > kMinusInfinity) out.others += g.sum[s] * std::exp(double(g.max[s]) - out.max);
    out.sum = out.others + std::exp(double(target) - out.max);
    return out;
  }

  /// dhidden = scale * (sum of p * row - (1 - p[target]) * row of the target)
  void finish_hidden(Tensor dhidden, const std::vector<Segment>& segments, const std::vector<Softmax>& softmax,
                     std::span<const int32_t> targets) {
#pragma omp parallel for if (dhidden.rows > 4)
    for (int64_t s = 0; s < dhidden.rows; s++) {
      float* out = dhidden.f32(s);
      const int64_t group = targets[s] / kGroup * kGroup;
      Piece<T>& own = pieces_[omp_get_thread_num()];
      const T* target = rows_.at(group, std::min(V(), group + kGroup), own.rows) + (targets[s] - group) * H();
      const float wrong = float(-head_.scale * softmax[s].others / softmax[s].sum);
      for (int64_t h = 0; h < H(); h++) out[h] = wrong * as_f32(target[h]);
      for (const Segment& g : segments) {
        if (g.max[s] == kMinusInfinity) continue;
        const float factor = float(head_.scale * std::exp(double(g.max[s]) - softmax[s].max) / softmax[s].sum);
        const float* weighed = g.weighed + s / kPanel * kPanel * H() + s % kPanel;
        for (int64_t h = 0; h < H(); h++) out[h] += factor * weighed[h * kPanel];
      }
    }
  }

  /// scale * (p - onehot) of one logit.
  float difference(const Softmax& s, float logit, bool is_target) const {
    const double p = is_target ? -s.others : std::exp(double(logit) - s.max);
    return float(head_.scale * p / s.sum);
  }

  void gradient_of_token_rows(Tensor hidden, const Pass<T>& pass, const std::vector<Softmax>& softmax) {
    if (!head_.dtoken_rows.data) return;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < int64_t(head_.token_ids.size()); i++)
      for (int64_t s = 0; s < hidden.rows; s++) {
        const bool is_target = pass.targets[size_t(s)] == head_.token_ids[size_t(i)];
        const float d = difference(softmax[s], pass.token_logits[i * pass.n_tokens + s], is_target);
        const T* x = static_cast<const T*>(hidden.row(s));
        float* to = head_.dtoken_rows.f32(i);
        for (int64_t h = 0; h < H(); h += kLanes) store(to + h, load(to + h) + d * load_as_f32(x + h));
      }
  }

  /// dhead += scale * (p - onehot)^T hidden, the softmax computed again.
  void gradient_of_head(const Pass<T>& pass, Tensor hidden, const std::vector<Softmax>& softmax) {
    const int64_t S = pass.n_tokens;
    T* pairs = context_.arena.take<T>(packed_size<T>(S, H()));
    pack_rows(pairs, static_cast<const T*>(hidden.data), hidden.stride, S, H(), 0, (H() + kPanel - 1) / kPanel);
    in_rounds((V() + kPieceRows - 1) / kPieceRows, kSegments, [&](int64_t i) {
      const int64_t v = i * kPieceRows;
      gradient_of_rows(pass, v, std::min(V(), v + kPieceRows), packed<T>(pairs, S), softmax, pieces_[omp_get_thread_num()]);
    });
  }

  void gradient_of_rows(const Pass<T>& pass, int64_t begin, int64_t end, const Right<T>& hidden, const std::vector<Softmax>& softmax,
                        const Piece<T>& own) {
    const int64_t S = pass.n_tokens, n = end - begin;
    const T* rows = rows_.at(begin, end, own.rows);
    for (int64_t t = 0; t < S; t += kPanel) {
      const int64_t width = std::min(kPanel, S - t);
      gemm(own.logits, kPanel, by_row(rows, H()), pass.hidden.from(t, 0), Product{n, width, H()});
      for (int64_t r = 0; r < n; r++)
        for (int64_t s = 0; s < kPanel; s++) {
          const bool is_target = s < width && pass.targets[size_t(t + s)] == begin + r;
          own.weights[r * kPanel + s] = s < width ? from_f32<T>(difference(softmax[t + s], own.logits[r * kPanel + s], is_target)) : T(0);
        }
      const Left<T> differences = by_row<T>(own.weights, kPanel);
      gemm(head_.dhead.f32(begin), head_.dhead.stride, differences, hidden.from(0, t / kPair<T>), Product{n, H(), width, 1, true});
    }
  }

  TrainingContext& context_;
  const TrainingOps::LossHead& head_;
  Rows<T> rows_;
  std::vector<Piece<T>> pieces_;
};

template <class T>
LossResult cross_entropy(TrainingContext& context, Tensor dhidden, Tensor hidden, std::span<const int32_t> targets,
                         const TrainingOps::LossHead& head) {
  const Arena::Scope scope(context.arena);
  CrossEntropy<T> op(context, head);
  expect_shape("cross_entropy hidden", hidden, int64_t(targets.size()), op.H());
  if (head.gradient) expect_shape("cross_entropy dhidden", dhidden, hidden.rows, op.H());
  for (const int32_t target : targets)
    if (target < 0 || target >= op.V()) throw Error("SHAPE_MISMATCH", "cross_entropy: target " + std::to_string(target) + " is no token");
  return op.run(dhidden, hidden, targets);
}

}  // namespace

LossResult cross_entropy_cpu(TrainingContext& context, Tensor dhidden, Tensor hidden, std::span<const int32_t> targets,
                             const TrainingOps::LossHead& head) {
  if (hidden.dtype == DType::kBF16) return cross_entropy<bf16>(context, dhidden, hidden, targets, head);
  return cross_entropy<float>(context, dhidden, hidden, targets, head);
}

}  // namespace lorikeet::CPU_NS
