// Every operation of the CPU backend against plain double-precision arithmetic, on each instruction set that this machine has, and
// the promise that a row's result is the same bytes alone and in any batch. Prints "N passed, N failed".
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <string>

#include "check.h"
#include "operands.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

/// Rows of activations in the backend's dtype, and the values that they stand for.
struct TestRows {
  std::vector<bf16> b16;
  std::vector<float> values;
  DType dtype;
  int64_t cols;

  TestRows(DType act, int64_t rows, int64_t cols, float sigma = 1) : values(normal(rows * cols, sigma)), dtype(act), cols(cols) {
    if (act == DType::kBF16) {
      b16 = halves(values);
      for (size_t i = 0; i < values.size(); i++) values[i] = to_f32(b16[i]);
    }
  }
  Tensor tensor() { return {dtype == DType::kBF16 ? (void*)b16.data() : (void*)values.data(), dtype, int64_t(values.size()) / cols, cols, cols}; }
};

Tensor as_tensor(std::vector<float>& v, int64_t cols) { return {v.data(), DType::kF32, int64_t(v.size()) / cols, cols, cols}; }

double worst(const std::vector<float>& got, const std::vector<double>& want) {
  double largest = 0, scale = 1e-30;
  for (size_t i = 0; i < want.size(); i++) {
    largest = std::max(largest, std::fabs(got[i] - want[i]));
    scale = std::max(scale, std::fabs(want[i]));
    if (std::isnan(got[i])) return 1e30;
  }
  return largest / scale;
}

// Products of values that are exact in bf16, summed in fp32: only the order of the sum differs from the reference.
constexpr double kSumTolerance = 3e-6;
// An instruction that multiplies bf16 pairs may round between its two products and flush subnormals.
constexpr double kPairTolerance = 1e-5;
// One rounding to bf16 of the result.
constexpr double kBf16Tolerance = 8e-3;

void test_linear(Backend& backend, const std::string& name) {
  for (const WeightFormat format : {WeightFormat::kNF4, WeightFormat::kBF16, WeightFormat::kF32}) {
    if (format == WeightFormat::kF32 && backend.act_dtype() != DType::kF32) continue;
    for (const auto& [N, K] : std::vector<std::pair<int64_t, int64_t>>{{4, 64}, {36, 128}, {260, 640}, {1152, 192}}) {
      TestMatrix a(format, N, K), b(format, 64, K);
      const HostMatrix parts[] = {a.matrix, b.matrix};
      const auto w = backend.make_linear(parts);
      const int64_t T = 257, n_out = N + 64;
      TestRows x(backend.act_dtype(), T, K);
      std::vector<float> all(T * n_out, NAN);
      backend.linear(as_tensor(all, n_out), x.tensor(), *w);
      std::vector<double> want(T * n_out);
      for (int64_t t = 0; t < T; t++)
        for (int64_t n = 0; n < n_out; n++) {
          const float* row = n < N ? &a.values[n * K] : &b.values[(n - N) * K];
          for (int64_t k = 0; k < K; k++) want[t * n_out + n] += double(row[k]) * x.values[t * K + k];
        }
      const std::string what = name + " linear " + format_name(format) + " " + std::to_string(n_out) + "x" + std::to_string(K);
      check(worst(all, want) < kPairTolerance, what + " differs by " + std::to_string(worst(all, want)));
      bool same = true;
      for (int64_t n : {1, 2, 3, 4, 5, 6, 7, 31, 33}) {
        std::vector<float> few(n * n_out, NAN);
        backend.linear(as_tensor(few, n_out), x.tensor().row_range(100, 100 + n), *w);
        same &= std::memcmp(few.data(), &all[100 * n_out], few.size() * 4) == 0;
      }
      check(same, what + ": a row is the same bytes in any batch");
    }
  }
}

void test_norms(Backend& backend, const std::string& name) {
  const double tolerance = backend.act_dtype() == DType::kBF16 ? kBf16Tolerance : kSumTolerance;
  for (int64_t T : {1, 31, 33, 257}) {
    const int64_t H = 192;
    std::vector<float> x = normal(T * H, 3), y = normal(T * H), post = normal(H), next = normal(H);
    std::vector<float> updated = x;
    TestRows out(backend.act_dtype(), T, H);
    backend.residual_rmsnorm(out.tensor(), as_tensor(updated, H), as_tensor(y, H), post.data(), next.data(), 1e-6f);
    std::vector<double> want_x(T * H), want(T * H);
    const auto norm = [&](auto&& at, const std::vector<float>& w, double* to) {
      double sum = 0;
      for (int64_t c = 0; c < H; c++) sum += at(c) * at(c);
      for (int64_t c = 0; c < H; c++) to[c] = at(c) / std::sqrt(sum / H + 1e-6) * (1 + double(w[c]));
    };
    for (int64_t t = 0; t < T; t++) {
      norm([&](int64_t c) { return double(y[t * H + c]); }, post, &want_x[t * H]);
      for (int64_t c = 0; c < H; c++) want_x[t * H + c] += x[t * H + c];
      norm([&](int64_t c) { return want_x[t * H + c]; }, next, &want[t * H]);
    }
    std::vector<float> got(T * H);
    for (int64_t i = 0; i < T * H; i++) got[i] = out.dtype == DType::kBF16 ? to_f32(out.b16[i]) : out.values[i];
    check(worst(updated, want_x) < kSumTolerance, name + " residual of " + std::to_string(T));
    check(worst(got, want) < tolerance, name + " rmsnorm of " + std::to_string(T));
  }
}

void test_geglu(Backend& backend, const std::string& name) {
  const double tolerance = backend.act_dtype() == DType::kBF16 ? kBf16Tolerance : kSumTolerance;
  for (int64_t T : {1, 3, 33}) {
    const int64_t I = 320;
    std::vector<float> gate_up = normal(T * 2 * I, 4);
    TestRows out(backend.act_dtype(), T, I);
    backend.geglu(out.tensor(), as_tensor(gate_up, 2 * I));
    std::vector<double> want(T * I);
    std::vector<float> got(T * I);
    for (int64_t t = 0; t < T; t++)
      for (int64_t c = 0; c < I; c++) {
        const double g = gate_up[t * 2 * I + c];
        want[t * I + c] = 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * gate_up[t * 2 * I + I + c];
        got[t * I + c] = out.dtype == DType::kBF16 ? to_f32(out.b16[t * I + c]) : out.values[t * I + c];
      }
    check(worst(got, want) < tolerance, name + " geglu of " + std::to_string(T));
  }
}

/// Sequences of several lengths with scattered blocks; the last `n_new` tokens of each are the queries of one step.
struct AttentionCase {
  int length, n_new;
};

std::vector<float> run_attention(Backend& backend, const std::vector<AttentionCase>& cases, const std::vector<std::vector<float>>& qkv, int n_heads,
                                 int n_kv_heads, int D, int window, bool one_by_one) {
  int n_blocks = 0;
  for (const AttentionCase& c : cases) n_blocks += c.length / kBlockTokens + 1;
  const auto pool = backend.make_kv_pool(n_blocks, 2, n_kv_heads, D);
  std::vector<int32_t> shuffled(n_blocks);
  std::iota(shuffled.begin(), shuffled.end(), 0);
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(3));
  const int width = (n_heads + 2 * n_kv_heads) * D;
  std::vector<float> ones(D, 0.25f), results;
  std::vector<std::vector<BatchRow>> steps(2);
  int at = 0;
  for (const AttentionCase& c : cases) {
    const int32_t* blocks = shuffled.data() + at;
    const int per = c.length / kBlockTokens + 1;
    at += per;
    BatchRow row;
    row.global_blocks = row.sliding_blocks = blocks;
    row.n_global = row.n_sliding = per;
    if (c.length > c.n_new) {
      row.begin = 0;
      row.end = c.length - c.n_new;
      steps[0].push_back(row);
    }
    row.position = c.length - c.n_new;
    row.end = c.n_new;
    steps[1].push_back(row);
  }
  const auto run = [&](std::vector<BatchRow> rows, const std::vector<int>& owners, bool last) {
    std::vector<float> in;
    std::vector<int32_t> positions;
    for (size_t r = 0; r < rows.size(); r++) {
      const int n = rows[r].length();
      rows[r].begin = int(positions.size());
      rows[r].end = rows[r].begin + n;
      for (int t = 0; t < n; t++) positions.push_back(rows[r].position + t);
      const float* from = qkv[owners[r]].data() + int64_t(rows[r].position) * width;
      in.insert(in.end(), from, from + int64_t(n) * width);
    }
    const int64_t T = int64_t(positions.size());
    std::vector<float> rope(T * D);
    backend.rope_table(as_tensor(rope, D), positions, 1e4f, 1);
    TestRows q(backend.act_dtype(), T, n_heads * D), out(backend.act_dtype(), T, n_heads * D);
    backend.qk_norm_rope_append(q.tensor(), {as_tensor(in, width), as_tensor(rope, D), ones.data(), ones.data(), 1e-6f, n_heads, n_kv_heads, D,
                                             pool.get(), 1, false, rows});
    if (!last) return;
    backend.attention(out.tensor(), q.tensor(), {pool.get(), 1, false, n_heads, n_kv_heads, D, 1 / std::sqrt(float(D)), window, rows});
    for (int64_t i = 0; i < T * n_heads * D; i++) results.push_back(out.dtype == DType::kBF16 ? to_f32(out.b16[i]) : out.values[i]);
  };
  std::vector<int> owners, earlier;
  for (size_t i = 0; i < cases.size(); i++) {
    owners.push_back(int(i));
    if (cases[i].length > cases[i].n_new) earlier.push_back(int(i));
  }
  if (!earlier.empty()) run(steps[0], earlier, false);
  if (one_by_one)
    for (size_t i = 0; i < cases.size(); i++) run({steps[1][i]}, {int(i)}, true);
  else run(steps[1], owners, true);
  return results;
}

std::vector<double> attention_reference(const std::vector<AttentionCase>& cases, const std::vector<std::vector<float>>& qkv, int n_heads,
                                        int n_kv_heads, int D, int window) {
  std::vector<double> out;
  const int width = (n_heads + 2 * n_kv_heads) * D;
  for (size_t i = 0; i < cases.size(); i++) {
    const int L = cases[i].length;
    const auto turned = [&](int t, int head) {
      const float* x = qkv[i].data() + int64_t(t) * width + head * D;
      double sum = 0;
      for (int d = 0; d < D; d++) sum += double(x[d]) * x[d];
      std::vector<double> y(D), z(D);
      for (int d = 0; d < D; d++) y[d] = x[d] / std::sqrt(sum / D + 1e-6) * 1.25;
      for (int d = 0; d < D / 2; d++) {
        const double angle = t * std::pow(1e4, -2.0 * d / D);
        z[d] = y[d] * std::cos(angle) - y[d + D / 2] * std::sin(angle);
        z[d + D / 2] = y[d + D / 2] * std::cos(angle) + y[d] * std::sin(angle);
      }
      return z;
    };
    std::vector<std::vector<std::vector<double>>> keys(n_kv_heads);
    for (int h = 0; h < n_kv_heads; h++)
      for (int t = 0; t < L; t++) keys[h].push_back(turned(t, n_heads + h));
    for (int t = L - cases[i].n_new; t < L; t++)
      for (int head = 0; head < n_heads; head++) {
        const int kv = head / (n_heads / n_kv_heads), first = window ? std::max(0, t - window + 1) : 0;
        const std::vector<double> q = turned(t, head);
        std::vector<double> p;
        double total = 0;
        for (int k = first; k <= t; k++) {
          double score = 0;
          for (int d = 0; d < D; d++) score += q[d] * keys[kv][k][d];
          p.push_back(std::exp(score / std::sqrt(double(D))));
          total += p.back();
        }
        for (int d = 0; d < D; d++) {
          double sum = 0;
          for (int k = first; k <= t; k++) sum += p[k - first] / total * qkv[i][int64_t(k) * width + (n_heads + n_kv_heads + kv) * D + d];
          out.push_back(sum);
        }
      }
  }
  return out;
}

void test_attention(Backend& backend, const std::string& name) {
  const double tolerance = backend.act_dtype() == DType::kBF16 ? 2e-2 : 2e-5;  // keys, queries, weights and values are each rounded to bf16
  for (const int window : {0, 16, 33}) {
    for (const auto& [n_heads, n_kv, D] : std::vector<std::array<int, 3>>{{4, 1, 64}, {4, 2, 32}, {2, 2, 96}}) {
      const std::vector<AttentionCase> cases = {{1, 1}, {31, 31}, {33, 1}, {257, 20}, {700, 1}, {40, 9}};
      std::vector<std::vector<float>> qkv;
      for (const AttentionCase& c : cases) qkv.push_back(normal(int64_t(c.length) * (n_heads + 2 * n_kv) * D));
      const std::vector<float> together = run_attention(backend, cases, qkv, n_heads, n_kv, D, window, false);
      const std::string what = name + " attention window " + std::to_string(window) + " heads " + std::to_string(n_heads) + "/" + std::to_string(n_kv);
      const double off = worst(together, attention_reference(cases, qkv, n_heads, n_kv, D, window));
      check(off < tolerance, what + " differs by " + std::to_string(off));
      const std::vector<float> alone = run_attention(backend, cases, qkv, n_heads, n_kv, D, window, true);
      check(alone.size() == together.size() && std::memcmp(alone.data(), together.data(), alone.size() * 4) == 0,
            what + ": a row is the same bytes in any batch");
    }
  }
}

void test_lora(Backend& backend, const std::string& name) {
  const int64_t K = 192, N = 1056, begin = 96, T = 60;  // a fused matrix of begin + N rows: adapters act on the last N
  TestMatrix base(WeightFormat::kNF4, begin + N, K);
  const auto linear = backend.make_linear({&base.matrix, 1});
  std::vector<std::unique_ptr<LoraWeights>> adapters;
  std::vector<std::vector<float>> as, bs;
  const std::vector<int> ranks = {1, 3, 16, 33};
  for (int r : ranks) {
    as.push_back(normal(r * K, 0.1f));
    bs.push_back(normal(N * r, 0.1f));
    adapters.push_back(backend.make_lora(host_tensor(as.back(), {r, K}), host_tensor(bs.back(), {N, r}), 0.5f, {}));
  }
  TestRows x(backend.act_dtype(), T, K);
  const std::vector<LoraSegment> segments = {{0, 1, adapters[0].get()}, {1, 20, adapters[1].get()}, {20, 25, nullptr}, {25, 58, adapters[2].get()},
                                             {58, 59, adapters[3].get()}};
  std::vector<float> plain(T * (begin + N)), all(T * (begin + N));
  backend.linear(as_tensor(plain, begin + N), x.tensor(), *linear);
  const LoraPart part{begin, segments};
  backend.linear(as_tensor(all, begin + N), x.tensor(), *linear, {&part, 1});
  std::vector<double> want(plain.begin(), plain.end());
  const auto round = [&](float v) { return backend.act_dtype() == DType::kBF16 ? to_f32(to_bf16(v)) : v; };
  const std::vector<int> which = {0, 1, -1, 2, 3};
  for (size_t s = 0; s < segments.size(); s++) {
    if (which[s] < 0) continue;
    const int r = ranks[which[s]];
    for (int t = segments[s].begin; t < segments[s].end; t++)
      for (int i = 0; i < r; i++) {
        double h = 0;
        for (int64_t k = 0; k < K; k++) h += double(round(as[which[s]][i * K + k])) * x.values[t * K + k];
        for (int64_t n = 0; n < N; n++) want[t * (begin + N) + begin + n] += 0.5 * h * round(bs[which[s]][n * r + i]);
      }
  }
  check(worst(all, want) < kPairTolerance, name + " linear with adapters differs by " + std::to_string(worst(all, want)));
  bool same = true, untouched = true;
  for (size_t s = 0; s < segments.size(); s++)
    for (int t = segments[s].begin; t < segments[s].end; t++) {
      std::vector<float> one(begin + N);
      const LoraPart alone{begin, {{0, 1, segments[s].weights}}};
      backend.linear(as_tensor(one, begin + N), x.tensor().row_range(t, t + 1), *linear, {&alone, 1});
      same &= std::memcmp(one.data(), &all[t * (begin + N)], one.size() * 4) == 0;
      untouched &= std::memcmp(&plain[t * (begin + N)], &all[t * (begin + N)], size_t(begin) * 4) == 0;
    }
  check(same, name + " linear with adapters: a row is the same bytes in any batch");
  check(untouched, name + " linear with adapters: rows of other modules are the base's");
}

/// The int8 head must choose what the bf16 head chooses, where many rows are nearly equal.
void test_head(Backend& backend, const std::string& name) {
  const int64_t V = 4100, H = 640;
  TestMatrix rows(WeightFormat::kBF16, V, H);
  for (int64_t n = 1; n < V; n += 2)  // every other row is its neighbour with one element one bf16 step away
    for (int64_t k = 0; k < H; k++) rows.b16[n * H + k] = rows.b16[(n - 1) * H + k] + (k == n % H);
  const auto exact = backend.make_head(rows.matrix, HeadFormat::kBF16), fast = backend.make_head(rows.matrix, HeadFormat::kInt8);
  const int S = 19;
  TestRows hidden(backend.act_dtype(), S, H, 3);
  for (int64_t s = 0; s < S; s++)  // an outlier, as final norms have them
    if (hidden.dtype == DType::kBF16) hidden.b16[s * H + 5] = to_bf16(200);
    else hidden.values[s * H + 5] = 200;
  // An adapter whose row 9 wins wherever it applies: it points where the outlier is.
  TokenRowsDevice token_rows{{9}, backend.allocate(size_t(H) * 4)};
  if (hidden.dtype == DType::kBF16) static_cast<bf16*>(token_rows.rows.data())[5] = to_bf16(50);
  else static_cast<float*>(token_rows.rows.data())[5] = 50;
  const EdgeSegment edge{0, 1, nullptr, nullptr, &token_rows};
  SequenceTable table(S);
  std::vector<BatchRow> batch_rows(S);
  std::vector<BatchOutput> outputs(S);
  for (int s = 0; s < S; s++) {
    batch_rows[s].slot = s;
    outputs[s] = {s, s, -1, 5};
    if (s % 3 == 1) table[s].sampling = {.temperature = 1, .top_k = 64, .top_p = 0.95f, .seed = uint64_t(s)};
    if (s % 3 == 2) table[s].sampling = {.temperature = 0, .frequency_penalty = 1, .bias = {{17, 3.0f}}};
    if (s % 3 == 2) table[s].push(8);
  }
  bool coarse = false;
  const auto run = [&](const Head& head, int begin, int end) {
    std::vector<float> values((end - begin) * V, NAN);
    Scores scores;
    scores.values = as_tensor(values, V);
    scores.hidden = hidden.tensor().row_range(begin, end);
    scores.heads.assign(end - begin, &head);
    scores.edges.assign(end - begin, nullptr);
    std::vector<BatchOutput> some(outputs.begin() + begin, outputs.begin() + end);
    for (BatchOutput& output : some) {
      scores.greedy.push_back(coarse && table[output.row].sampling.temperature <= 0);
      if (coarse) output.n_logprobs = -1;
      if (coarse && output.row % 4 == 0) scores.edges[output.row - begin] = &edge;
    }
    backend.logits(scores);
    return backend.sample(scores, some, table, batch_rows);
  };
  const SampleResult want = run(*exact, 0, S), got = run(*fast, 0, S);
  check(want.token_ids == got.token_ids, name + " int8 head chooses the bf16 head's tokens");
  check(want.top_ids == got.top_ids, name + " int8 head gives the bf16 head's alternatives");
  double off = 0;
  for (int s = 0; s < S; s++) off = std::max(off, double(std::fabs(want.logprobs[s] - got.logprobs[s])));
  check(off < 2e-2, name + " int8 head's log-probabilities differ by " + std::to_string(off));
  bool same = true;
  for (int s = 0; s < S; s++) {
    const SampleResult one = run(*fast, s, s + 1);
    same &= one.token_ids[0] == got.token_ids[s] && std::memcmp(&one.logprobs[0], &got.logprobs[s], 4) == 0;
  }
  check(same, name + " int8 head: an output is the same alone and in a batch");
  coarse = true;
  const SampleResult coarse_want = run(*exact, 0, S), coarse_got = run(*fast, 0, S);
  check(coarse_want.token_ids == coarse_got.token_ids, name + " int8 head scored by upper bytes chooses the bf16 head's tokens");
  check(coarse_got.token_ids[12] == 9 && coarse_got.token_ids[17] != 9, name + " int8 head scored by upper bytes keeps an adapter's own rows");
  same = true;
  for (int s = 0; s < S; s++) same &= run(*fast, s, s + 1).token_ids[0] == coarse_got.token_ids[s];
  check(same, name + " int8 head scored by upper bytes: an output is the same alone and in a batch");
}

/// Row 0 lies along what the upper byte of the hidden state leaves out: it wins, though its coarse score is far below row 40's (of
/// another sixteen, which are refined together). A bound that forgets that rounding loses it.
void test_coarse_bound(Backend& backend, const std::string& name) {
  const int64_t V = 64, H = 640;
  TestRows hidden(backend.act_dtype(), 1, H, 0.3f);  // nearly all of it rounds to nothing beside the outlier
  const auto set = [&](int64_t i, float v) {
    hidden.values[i] = v;
    if (hidden.dtype == DType::kBF16) hidden.b16[i] = to_bf16(v);
  };
  set(5, 200);
  const float step = 200.0f / 16256 * 128;
  TestMatrix rows(WeightFormat::kBF16, V, H, 1e-3f);
  double left_out = 0, score = 0;
  std::vector<float> off(H);
  for (int64_t i = 0; i < H; i++) {
    off[i] = hidden.values[i] - step * std::round(hidden.values[i] / step);
    left_out += double(off[i]) * off[i];
  }
  const auto write = [&](int64_t row, int64_t i, float v) { rows.b16[row * H + i] = to_bf16(v); };
  for (int64_t i = 0; i < H; i++) {
    write(0, i, float(off[i] / std::sqrt(left_out)));
    write(40, i, 0);
    score += double(hidden.values[i]) * to_f32(rows.b16[i]);
  }
  write(40, 5, float(0.7 * score / 200));
  const auto exact = backend.make_head(rows.matrix, HeadFormat::kBF16), fast = backend.make_head(rows.matrix, HeadFormat::kInt8);
  const auto choose = [&](const Head& head, const Sampling& sampling) {
    SequenceTable table(1);
    table[0].sampling = sampling;
    std::vector<BatchRow> batch_rows(1);
    std::vector<float> values(V, NAN);
    Scores scores;
    scores.values = as_tensor(values, V);
    scores.hidden = hidden.tensor();
    scores.heads = {&head};
    scores.edges = {nullptr};
    scores.greedy = {true};
    backend.logits(scores);
    const BatchOutput output{0, 0, -1, -1};
    return backend.sample(scores, {&output, 1}, table, batch_rows).token_ids[0];
  };
  check(choose(*exact, {}) == 0 && choose(*fast, {}) == 0, name + " int8 head scored by upper bytes keeps a row that only the lower byte shows");
  const Sampling banned{.temperature = 0, .bias = {{0, -100.0f}}};
  check(choose(*exact, banned) == 40 && choose(*fast, banned) == 40, name + " int8 head scored by upper bytes keeps a bias on the best row");
}

/// A vocabulary that divides by nothing, whose last rows no group of rows holds, and a hidden state that is not finite.
void test_head_limits(Backend& backend, const std::string& name) {
  const int64_t V = 1003, H = 640;
  const int S = 5;
  const TestMatrix rows(WeightFormat::kBF16, V, H);
  TestRows hidden(backend.act_dtype(), S, H);
  const auto set = [&](int64_t s, int64_t i, float v) {
    if (hidden.dtype == DType::kBF16) v = to_f32(hidden.b16[s * H + i] = to_bf16(v));
    hidden.values[s * H + i] = v;
  };
  for (int64_t i = 0; i < H; i++) set(1, i, 10 * rows.values[(V - 1) * H + i]);  // the last row wins
  std::vector<float> want(S * V);
  for (int64_t s = 0; s < S; s++)
    for (int64_t n = 0; n < V; n++) {
      double sum = 0;
      for (int64_t i = 0; i < H; i++) sum += double(hidden.values[s * H + i]) * rows.values[n * H + i];
      want[s * V + n] = float(sum);
    }
  SequenceTable table(S);
  std::vector<BatchRow> batch_rows(S);
  std::vector<BatchOutput> outputs(S);
  for (int s = 0; s < S; s++) batch_rows[s].slot = s, outputs[s] = {s, s, -1, -1};
  std::vector<float> values(S * V);
  const auto choose = [&](const Head& head, bool greedy) {
    std::fill(values.begin(), values.end(), NAN);
    Scores scores;
    scores.values = as_tensor(values, V);
    scores.hidden = hidden.tensor();
    scores.heads.assign(S, &head);
    scores.edges.assign(S, nullptr);
    scores.greedy.assign(S, greedy);
    backend.logits(scores);
    return backend.sample(scores, outputs, table, batch_rows).token_ids;
  };
  const auto exact = backend.make_head(rows.matrix, HeadFormat::kBF16), fast = backend.make_head(rows.matrix, HeadFormat::kInt8);
  const std::vector<int32_t> ids = choose(*exact, true);
  double off = 0;
  for (int64_t i = 0; i < S * V; i++) off = std::max(off, double(std::fabs(values[i] - want[i])));
  check(off < 1e-4 && ids[1] == V - 1, name + " head of 1,003 rows: scores are off by " + std::to_string(off));
  check(choose(*fast, true) == ids && choose(*fast, false) == ids, name + " int8 head of 1,003 rows chooses the bf16 head's tokens");
  set(2, 7, NAN);
  std::vector<int32_t> without = ids;
  without[2] = -1;
  check(choose(*exact, true) == without, name + " a NaN in a hidden state is its output's alone");
  check(choose(*fast, true) == without && choose(*fast, false) == without, name + " int8 head: a NaN in a hidden state is its output's alone");
  set(2, 7, INFINITY);
  const std::vector<int32_t> infinite = choose(*exact, true);
  check(choose(*fast, true) == infinite && choose(*fast, false) == infinite, name + " int8 head: an infinite hidden state is scored as the bf16 head does");
}

/// Draws follow the distribution: frequencies over seeds within five standard deviations.
void test_sampler(Backend& backend, const std::string& name) {
  const int64_t V = 64, H = 64;
  TestMatrix rows(WeightFormat::kBF16, V, H, 0.2f);
  const auto head = backend.make_head(rows.matrix, HeadFormat::kBF16);
  TestRows hidden(backend.act_dtype(), 1, H);
  std::vector<double> logits(V);
  for (int64_t n = 0; n < V; n++)
    for (int64_t k = 0; k < H; k++) logits[n] += double(rows.values[n * H + k]) * hidden.values[k];
  const auto expected = [&](double temperature, int top_k, double top_p, double min_p) {
    std::vector<int> order(V);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
    std::vector<double> p(V, 0);
    double total = 0, kept = 0, sum = 0;
    const int k = top_k > 0 ? top_k : int(V);
    std::vector<int> allowed;
    for (int i = 0; i < k; i++)
      if (std::exp((logits[order[i]] - logits[order[0]]) / temperature) >= min_p) allowed.push_back(order[i]);
    for (int id : allowed) total += std::exp((logits[id] - logits[order[0]]) / temperature);
    for (int id : allowed) {
      if (kept >= top_p * total) break;
      p[id] = std::exp((logits[id] - logits[order[0]]) / temperature);
      kept += p[id];
    }
    for (double v : p) sum += v;
    for (double& v : p) v /= sum;
    return p;
  };
  struct Settings { float temperature; int top_k; float top_p, min_p; };
  for (const Settings s : {Settings{1, 0, 1, 0}, Settings{0.7f, 10, 1, 0}, Settings{1.3f, 0, 0.8f, 0}, Settings{1, 0, 1, 0.2f}, Settings{1, 20, 0.5f, 0.05f}}) {
    const int n = 4000;
    std::vector<int> seen(V, 0);
    SequenceTable table(1);
    std::vector<BatchRow> batch_rows(1);
    for (int i = 0; i < n; i++) {
      table[0] = SequenceState{};
      table[0].sampling = {.temperature = s.temperature, .top_k = s.top_k, .top_p = s.top_p, .min_p = s.min_p, .seed = uint64_t(i)};
      std::vector<float> values(V);
      Scores scores;
      scores.values = as_tensor(values, V);
      scores.hidden = hidden.tensor();
      scores.heads = {head.get()};
      scores.edges = {nullptr};
      backend.logits(scores);
      const BatchOutput output{0, 0, -1, -1};
      seen[backend.sample(scores, {&output, 1}, table, batch_rows).token_ids[0]]++;
    }
    const std::vector<double> p = expected(s.temperature, s.top_k, s.top_p, s.min_p);
    bool fits = true;
    for (int64_t v = 0; v < V; v++) {
      const double deviation = std::sqrt(n * p[v] * (1 - p[v]));
      fits &= p[v] == 0 ? seen[v] == 0 : std::fabs(seen[v] - n * p[v]) <= 5 * deviation + 1;
    }
    check(fits, name + " draws with temperature " + std::to_string(s.temperature) + " top_k " + std::to_string(s.top_k) + " top_p " +
                    std::to_string(s.top_p) + " min_p " + std::to_string(s.min_p));
  }
}

}  // namespace

int main() {
  for (const std::string& isa : cpu_isas())
    for (const bool fp32 : {false, true}) {
      const auto backend = make_cpu_backend({isa, 2, fp32});
      const std::string name = isa + (fp32 ? " fp32" : " bf16");
      test_linear(*backend, name);
      test_norms(*backend, name);
      test_geglu(*backend, name);
      test_attention(*backend, name);
      test_lora(*backend, name);
      test_head(*backend, name);
      test_coarse_bound(*backend, name);
      test_head_limits(*backend, name);
      test_sampler(*backend, name);
    }
  return finish();
}
