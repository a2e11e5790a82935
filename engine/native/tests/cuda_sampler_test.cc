// Sampling on the device against the CPU's on the same scores, and the heads against double precision and each other.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "../core/backend.h"
#include "../core/philox.h"
#include "check.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr int kLarge = 262144, kSmall = 1000;

std::mt19937 rng(7);
int below(int n) { return int(rng() % unsigned(n)); }
template <class T>
T one_of(std::initializer_list<T> values) { return values.begin()[below(int(values.size()))]; }

/// Normal numbers, made once: a row is a stretch of them from anywhere.
const std::vector<float>& normals() {
  static const std::vector<float> pool = [] {
    std::normal_distribution<float> normal;
    std::vector<float> v(1 << 20);
    for (float& x : v) x = normal(rng);
    return v;
  }();
  return pool;
}
std::vector<float> normal_row(int n, float scale) {
  std::vector<float> row(normals().begin() + below((1 << 20) - n), normals().end());
  row.resize(size_t(n));
  for (float& v : row) v *= scale;
  return row;
}

/// Outputs over one vocabulary, each of a sequence of its own.
struct Case {
  int V;
  std::vector<float> values;  // [S, V]
  std::vector<BatchOutput> outputs;
  std::vector<BatchRow> rows;
  SequenceTable table;

  Case(int S, int V) : V(V), outputs(size_t(S)), rows(size_t(S)), table(S) {
    for (int s = 0; s < S; s++) outputs[s] = {s, s, -1, -1}, rows[s].slot = s;
  }
  int size() const { return int(outputs.size()); }
  Sampling& sampling(int s) { return table[s].sampling; }
  void add_row(const std::vector<float>& row) { values.insert(values.end(), row.begin(), row.end()); }
};

SampleResult run(Backend& backend, Case& c, bool on_device) {
  std::vector<float> host = c.values;
  Buffer memory;
  Scores scores;
  scores.values = {host.data(), DType::kF32, c.size(), c.V, c.V};
  if (on_device) {
    memory = backend.allocate(host.size() * 4);
    backend.upload(memory.data(), host.data(), host.size() * 4);
    scores.values.data = memory.data();
  }
  Head exact;
  exact.format = HeadFormat::kBF16;
  scores.heads.assign(c.outputs.size(), &exact);
  scores.edges.assign(c.outputs.size(), nullptr);
  return backend.sample(scores, c.outputs, c.table, c.rows);
}

/// Scores after everything that a request changes, as sequence_table.h orders it.
std::vector<float> changed_scores(Case& c, int s) {
  std::vector<float> v(c.values.begin() + int64_t(s) * c.V, c.values.begin() + int64_t(s + 1) * c.V);
  const SequenceState& state = c.table[s];
  const Sampling& p = state.sampling;
  for (int id = 0; id < c.V; id++) {
    const auto out = state.output_counts.find(id);
    const bool in_output = out != state.output_counts.end();
    if (p.repetition_penalty != 1 && (in_output || state.prompt_counts.contains(id)))
      v[id] = v[id] > 0 ? v[id] / p.repetition_penalty : v[id] * p.repetition_penalty;
    if (in_output) v[id] -= p.presence_penalty + p.frequency_penalty * float(out->second);
  }
  for (const auto& [id, bias] : p.bias) v[id] += bias;
  if (state.n_sampled < p.min_tokens)
    for (int id : p.suppressed) v[id] = kMinusInfinity;
  return v;
}

/// Whether `id` is the draw in double precision, but for what fp32 exponentials may move a boundary: every weight is within 2^-22,
/// the CPU leaves out a tail of 1e-6 of the mass when it looks for a nucleus, so a boundary lies within 4e-6 of the mass.
bool near_boundary(Case& c, int s, int32_t id) {
  constexpr double kShift = 4e-6;
  const Sampling& p = c.sampling(s);
  if (p.temperature <= 0 || id < 0) return false;
  const std::vector<float> v = changed_scores(c, s);
  std::vector<int> order(size_t(c.V));
  std::iota(order.begin(), order.end(), 0);
  const float top = *std::max_element(v.begin(), v.end());
  const bool sorted = p.top_k > 0 || p.top_p < 1 || p.min_p > 0;
  if (sorted) std::sort(order.begin(), order.end(), [&](int a, int b) { return v[a] > v[b] || (v[a] == v[b] && a < b); });
  if (p.top_k > 0 && p.top_k < c.V) order.resize(size_t(p.top_k));
  const auto weight = [&](int i) { return std::exp(double(v[i] - top) / p.temperature); };
  double total = 0;
  for (int i : order)
    if (weight(i) >= p.min_p * (1 - kShift)) total += weight(i);
  for (const double shift : {-kShift, 0.0, kShift}) {
    double kept = 0, begin = -1, end = -1;
    for (int i : order) {
      if (weight(i) < p.min_p * (1 + shift)) { if (sorted) break; else continue; }
      if (p.top_p < 1 && kept > 0 && kept >= (p.top_p + shift) * total) break;
      if (i == id) begin = kept;
      kept += weight(i);
      if (i == id) end = kept;
    }
    const double target = uniform(p.seed, uint64_t(c.table[s].n_sampled)) * kept;
    if (begin >= 0 && target >= begin - kShift * total && target <= end + kShift * total) return true;
  }
  return false;
}

int n_draws = 0, n_boundaries = 0;

bool close(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)) || std::fabs(a - b) <= 1e-4f; }

/// What differs between the device's answer and the CPU's; empty: nothing.
std::string difference(Case& c, const SampleResult& want, const SampleResult& got) {
  size_t at = 0;
  if (got.top_ids.size() != want.top_ids.size()) return "number of alternatives";
  for (int s = 0; s < c.size(); s++) {
    const std::string where = "output " + std::to_string(s) + " of " + std::to_string(c.size()) + ": ";
    const int n = std::max(0, c.outputs[s].n_logprobs);
    for (int i = 0; i < n; i++, at++)
      if (want.top_ids[at] != got.top_ids[at] || !close(want.top_logprobs[at], got.top_logprobs[at]))
        return where + "alternative " + std::to_string(i) + " is " + std::to_string(got.top_ids[at]) + " (" + std::to_string(got.top_logprobs[at]) + "), not " +
               std::to_string(want.top_ids[at]) + " (" + std::to_string(want.top_logprobs[at]) + ")";
    if (c.sampling(s).temperature > 0 && c.outputs[s].target < 0) n_draws++;
    if (want.token_ids[s] != got.token_ids[s]) {
      if (c.outputs[s].target >= 0 || !near_boundary(c, s, got.token_ids[s]))
        return where + "id " + std::to_string(got.token_ids[s]) + ", not " + std::to_string(want.token_ids[s]);
      n_boundaries++;
    } else if (!close(want.logprobs[s], got.logprobs[s])) {
      return where + "log-probability " + std::to_string(got.logprobs[s]) + ", not " + std::to_string(want.logprobs[s]);
    }
  }
  return "";
}

void compare(Backend& cpu, Backend& gpu, Case& c, const std::string& what) {
  const SampleResult want = run(cpu, c, false), got = run(gpu, c, true), again = run(gpu, c, true);
  const std::string off = difference(c, want, got);
  check(off.empty(), what + ", vocabulary of " + std::to_string(c.V) + ": " + off);
  check(got.token_ids == again.token_ids, what + ": the same twice");
}

std::vector<float> scores_row(const std::string& kind, int V) {
  std::vector<float> row = normal_row(V, kind == "flat" ? 0.01f : 3);
  if (kind == "ties")
    for (float& v : row) v = std::round(v * 2) / 2;
  if (kind == "equal") std::fill(row.begin(), row.end(), -1.5f);
  if (kind == "nan") row[size_t(below(V))] = NAN;
  if (kind == "infinite")
    for (int i = 0; i < V / 2; i++) row[size_t(below(V))] = kMinusInfinity;
  if (kind == "peaked") row[size_t(below(V))] = 40;
  if (kind == "zeros")
    for (float& v : row) v = v > 0 ? -0.0f : 0.0f;
  return row;
}

/// Every option alone.
void test_options(Backend& cpu, Backend& gpu) {
  struct Option { const char* name; Sampling sampling; int target = -1, n_logprobs = -1; };
  std::vector<std::pair<int32_t, float>> bias;
  for (int i = 0; i < 300; i++) bias.push_back({i * 3, i % 2 ? -100.0f : 2.5f});
  const std::vector<Option> options = {
      {"greedy", {}}, {"temperature", {.temperature = 0.8f}}, {"temperature 2", {.temperature = 2}}, {"top_k 1", {.temperature = 1, .top_k = 1}},
      {"top_k 64", {.temperature = 1, .top_k = 64}}, {"top_k 1000", {.temperature = 1, .top_k = 1000}}, {"top_k 20000", {.temperature = 1.5f, .top_k = 20000}},
      {"top_p 0.5", {.temperature = 0.7f, .top_p = 0.5f}}, {"top_p 0.95", {.temperature = 1, .top_p = 0.95f}},
      {"top_p 0.99, hot", {.temperature = 3, .top_p = 0.99f}}, {"min_p", {.temperature = 1, .min_p = 0.02f}}, {"low min_p", {.temperature = 3, .min_p = 1e-3f}},
      {"Gemma's defaults", {.temperature = 1, .top_k = 64, .top_p = 0.95f}}, {"repetition", {.repetition_penalty = 1.7f}},
      {"presence", {.presence_penalty = 1.5f}}, {"frequency", {.frequency_penalty = 0.75f}}, {"bias", {.bias = bias}},
      {"suppressed ids", {.min_tokens = 1000, .suppressed = {1, 5, 17, 106}}}, {"a target", {}, 17}, {"a target's log-probability", {}, 17, 0},
      {"log-probability", {}, -1, 0}, {"alternatives", {.temperature = 1, .top_k = 64}, -1, 20}};
  for (const int V : {kSmall, 1003, kLarge})
    for (const char* kind : {"normal", "ties", "equal", "flat", "nan", "infinite", "peaked", "zeros"}) {
      Case c(int(options.size()), V);
      for (int s = 0; s < c.size(); s++) {
        c.sampling(s) = options[s].sampling;
        c.sampling(s).seed = rng();
        c.outputs[s].target = options[s].target;
        c.outputs[s].n_logprobs = options[s].n_logprobs;
        const std::vector<float> row = scores_row(kind, V);
        // The best rows are among those that penalties count.
        const int best = int(std::max_element(row.begin(), row.end()) - row.begin());
        for (int i = 0; i < 20; i++) c.table[s].prompt_counts[below(V)]++;
        c.table[s].prompt_counts[best]++;
        for (int i = 0; i < 9; i++) c.table[s].push(i < 3 ? best : below(V));
        c.add_row(row);
      }
      compare(cpu, gpu, c, std::string("options alone, ") + kind + " scores");
    }
}

void test_all_minus_infinity(Backend& cpu, Backend& gpu) {
  Case c(1, kSmall);
  c.add_row(std::vector<float>(kSmall, kMinusInfinity));
  compare(cpu, gpu, c, "greedy over nothing but -inf");
}

/// The best score lies in the last 64 KiB of a megabyte, and the choice follows the upload at once.
void test_uploads_are_whole(Backend& gpu) {
  constexpr int kUploads = 500, kEnd = 16384;
  Case c(1, kLarge);
  std::vector<float> row(kLarge, 0.0f);
  const Buffer memory = gpu.allocate(row.size() * 4);
  Head exact;
  exact.format = HeadFormat::kBF16;
  Scores scores;
  scores.values = {memory.data(), DType::kF32, 1, kLarge, kLarge};
  scores.heads.assign(1, &exact);
  scores.edges.assign(1, nullptr);
  int n_right = 0;
  for (int i = 0; i < kUploads; i++) {
    const int best = kLarge - 1 - i * 31 % kEnd;
    row[size_t(best)] = 1;
    gpu.upload(memory.data(), row.data(), row.size() * 4);
    n_right += gpu.sample(scores, c.outputs, c.table, c.rows).token_ids[0] == best;
    row[size_t(best)] = 0;
  }
  check(n_right == kUploads, std::to_string(n_right) + " of " + std::to_string(kUploads) + " choices are of the scores just uploaded");
}

void randomise(Case& c, int s) {
  Sampling& p = c.sampling(s);
  p.temperature = one_of({0.0f, 0.3f, 1.0f, 1.0f, 1.7f});
  p.top_k = one_of({0, 0, 1, 5, 64, 64, 1000, 5000});
  p.top_p = one_of({1.0f, 1.0f, 0.95f, 0.5f});
  p.min_p = one_of({0.0f, 0.0f, 0.05f});
  p.repetition_penalty = one_of({1.0f, 1.0f, 1.3f});
  p.presence_penalty = one_of({0.0f, 0.0f, 0.5f});
  p.frequency_penalty = one_of({0.0f, 0.0f, 0.25f});
  p.seed = uint64_t(rng()) << 32 | rng();
  if (below(4) == 0)
    for (int i = 0; i < 50; i++) p.bias.push_back({i * 7 + below(7), one_of({-100.0f, 0.5f, 4.0f})});
  p.min_tokens = one_of({0, 0, 5, 50});
  if (below(2)) p.suppressed = {1, 106, below(c.V)};
  for (int i = below(200); i > 0; i--) c.table[s].prompt_counts[below(c.V)]++;
  for (int i = below(30); i > 0; i--) c.table[s].push(below(c.V));
  c.outputs[s].n_logprobs = one_of({-1, -1, 0, 5, 20});
  if (below(8) == 0) c.outputs[s].target = below(c.V);
}

void test_combinations(Backend& cpu, Backend& gpu) {
  for (int i = 0; i < 300; i++) {
    const int V = i % 3 == 0 ? kLarge : kSmall, S = V == kSmall ? one_of({1, 3, 64}) : i % 30 == 0 ? 64 : one_of({1, 3});
    Case c(S, V);
    for (int s = 0; s < S; s++) {
      randomise(c, s);
      c.add_row(scores_row(one_of({"normal", "normal", "normal", "ties", "flat", "nan", "infinite", "peaked", "zeros"}), V));
    }
    compare(cpu, gpu, c, "combination " + std::to_string(i));
  }
  std::printf("%d draws, %d of them on a boundary between two tokens\n", n_draws, n_boundaries);
  // Flat scores: 262,144 tokens of 4e-6 of the mass each, so that most boundaries are within rounding. They are a ninth of all.
  check(n_boundaries <= n_draws / 10, "draws on a boundary are few");
}

// --- heads ---

/// Rows of a head in bf16: normal, or pairs of which the second differs from the first by one element's last bit.
std::vector<bf16> head_rows(int64_t V, int64_t H, bool pairs) {
  std::vector<bf16> rows(size_t(V * H));
  for (int64_t n = 0; n < V; n++) {
    if (pairs && n % 2) {
      std::copy_n(&rows[size_t((n - 1) * H)], H, &rows[size_t(n * H)]);
      rows[size_t(n * H + n % H)] ^= 1;
      continue;
    }
    const float* from = normals().data() + below((1 << 20) - int(H));
    for (int64_t i = 0; i < H; i++) rows[size_t(n * H + i)] = to_bf16(0.03f * from[i] + 0.003f * normals()[size_t((n * 7919 + i) & 0xfffff)]);
  }
  return rows;
}

struct Heads {
  int64_t V, H;
  std::vector<bf16> rows;
  std::unique_ptr<Head> exact, fast;
  Buffer values, hidden;
  Backend& gpu;

  Heads(Backend& gpu, int64_t V, int64_t H, std::vector<bf16> r) : V(V), H(H), rows(std::move(r)), gpu(gpu) {
    const HostMatrix matrix{WeightFormat::kBF16, V, H, rows.data(), nullptr, nullptr};
    exact = gpu.make_head(matrix, HeadFormat::kBF16);
    fast = gpu.make_head(matrix, HeadFormat::kInt8);
    values = gpu.allocate(size_t(64 * V) * 4);
    hidden = gpu.allocate(size_t(64 * H) * 2);
  }
  Scores scores(const Head& head, int n, bool greedy) {
    Scores s;
    s.values = {values.data(), DType::kF32, n, V, V};
    s.hidden = {hidden.data(), DType::kBF16, n, H, H};
    s.heads.assign(size_t(n), &head);
    s.edges.assign(size_t(n), nullptr);
    s.greedy.assign(size_t(n), greedy);
    return s;
  }
  std::vector<float> all_scores(const Head& head, const std::vector<bf16>& x, int n) {
    gpu.upload(hidden.data(), x.data(), x.size() * 2);
    Scores s = scores(head, n, false);
    gpu.logits(s);
    std::vector<float> out(size_t(n * V));
    gpu.download(out.data(), values.data(), out.size() * 4);
    return out;
  }
  std::vector<int32_t> choose(const Head& head, const std::vector<bf16>& x, int n, Case* options = nullptr) {
    gpu.upload(hidden.data(), x.data(), x.size() * 2);
    Case plain(n, int(V));
    Case& c = options ? *options : plain;
    Scores s = scores(head, n, true);
    if (options)
      for (int i = 0; i < n; i++) s.greedy[size_t(i)] = c.sampling(i).temperature <= 0 && c.outputs[size_t(i)].n_logprobs < 0;
    gpu.logits(s);
    return gpu.sample(s, c.outputs, c.table, c.rows).token_ids;
  }
};

/// A hidden state like those of a final norm: normal, an outlier, and some way along one row, so that it and its pair nearly tie.
void add_hidden(std::vector<bf16>& x, const Heads& h, float along) {
  const float* noise = normals().data() + below((1 << 20) - int(h.H));
  const int64_t row = below(int(h.V));
  for (int64_t i = 0; i < h.H; i++) x.push_back(to_bf16(noise[i] + along * to_f32(h.rows[size_t(row * h.H + i)]) + (i == 5 ? 60 : 0)));
}

void test_bf16_head(Backend& gpu, int64_t V, int64_t H) {
  Heads h(gpu, V, H, head_rows(V, H, false));
  std::vector<bf16> x;
  for (int s = 0; s < 40; s++) add_hidden(x, h, 20);
  const std::string name = "bf16 head [" + std::to_string(V) + ", " + std::to_string(H) + "]";
  std::vector<float> alone;
  for (const int n : {1, 3, 8, 9, 16, 17, 32, 33, 40}) {
    const std::vector<bf16> some(x.begin(), x.begin() + n * H);
    const std::vector<float> got = h.all_scores(*h.exact, some, n);
    double off = 0;
    std::vector<int32_t> best;
    for (int s = 0; s < n; s++) {
      best.push_back(int32_t(std::max_element(&got[size_t(s * V)], &got[size_t(s * V)] + V) - &got[size_t(s * V)]));
      for (int64_t r = s; r < V; r += 97) {
        double want = 0, norm_w = 0, norm_x = 0;
        for (int64_t i = 0; i < H; i++) {
          const double w = to_f32(h.rows[size_t(r * H + i)]), v = to_f32(x[size_t(s * H + i)]);
          want += w * v, norm_w += w * w, norm_x += v * v;
        }
        const double scale = std::sqrt(norm_w * norm_x), error = std::fabs(got[size_t(s * V + r)] - want) / scale;
        off = std::max(off, std::isfinite(error) ? error : 1e30);
      }
    }
    check(off < 1e-5, name + ", " + std::to_string(n) + " outputs: off by " + std::to_string(off * 1e6) + "e-6 of ||w|| ||x||");
    check(h.choose(*h.exact, some, n) == best, name + ", " + std::to_string(n) + " outputs: the choice is the best of the scores");
    if (n == 1) alone = got;
    else if (n <= 32) check(std::memcmp(alone.data(), got.data(), size_t(V) * 4) == 0, name + ": an output is the same alone and among " + std::to_string(n));
  }
}

void test_int8_choices(Backend& gpu, int64_t V, int64_t H, int n_batches, bool pairs) {
  Heads h(gpu, V, H, head_rows(V, H, pairs));
  const std::string name = "int8 head [" + std::to_string(V) + ", " + std::to_string(H) + "]" + (pairs ? " of near pairs" : "");
  int equal = 0, all = 0;
  for (int batch = 0; batch < n_batches; batch++) {
    const int n = one_of({1, 2, 8, 8, 13, 32});
    std::vector<bf16> x;
    for (int s = 0; s < n; s++) add_hidden(x, h, one_of({0.0f, 3.0f, 20.0f, 100.0f}));
    const std::vector<int32_t> want = h.choose(*h.exact, x, n), got = h.choose(*h.fast, x, n);
    for (int s = 0; s < n; s++) equal += want[size_t(s)] == got[size_t(s)];
    all += n;
  }
  check(equal == all, name + ": " + std::to_string(equal) + " of " + std::to_string(all) + " greedy choices are the bf16 head's");
}

void test_int8_mixed(Backend& gpu) {
  Heads h(gpu, 20000, 640, head_rows(20000, 640, true));
  std::vector<bf16> x;
  for (int s = 0; s < 6; s++) add_hidden(x, h, 20);
  const std::vector<int32_t> plain = h.choose(*h.exact, x, 6);
  Case greedy(6, 20000), mixed(6, 20000);
  greedy.sampling(1).bias = {{plain[1], -50.0f}};
  greedy.sampling(2).repetition_penalty = 2;
  greedy.table[2].push(plain[2]);
  greedy.sampling(4).min_tokens = 9;
  greedy.sampling(4).suppressed = {plain[4]};
  mixed.sampling(0) = {.temperature = 1, .top_k = 64, .top_p = 0.95f, .seed = 5};
  mixed.sampling(3) = {.temperature = 1, .seed = 6};
  mixed.outputs[5].n_logprobs = 4;
  const std::vector<int32_t> changed = h.choose(*h.fast, x, 6, &greedy);
  check(changed == h.choose(*h.exact, x, 6, &greedy), "int8 head: greedy choices with penalties, bias and suppressed ids are the bf16 head's");
  check(changed[1] != plain[1] && changed[4] != plain[4] && changed[0] == plain[0], "int8 head: a bias on the best row moves the choice");
  check(h.choose(*h.fast, x, 6, &mixed) == h.choose(*h.exact, x, 6, &mixed), "int8 head: drawn and greedy outputs of one step are the bf16 head's");
}

void test_int8_limits(Backend& gpu) {
  const int64_t V = 8192, H = 640;
  std::vector<bf16> rows = head_rows(V, H, false);
  for (int64_t n = 1; n < V; n++) std::copy_n(rows.begin(), H, rows.begin() + n * H);
  for (int64_t n = 0; n < V; n++) rows[size_t(n * H + n % H)] = to_bf16(to_f32(rows[size_t(n * H + n % H)]) * 1.02f);
  Heads h(gpu, V, H, std::move(rows));
  std::vector<bf16> x;
  for (int s = 0; s < 4; s++) add_hidden(x, h, 20);
  check(h.choose(*h.fast, x, 4) == h.choose(*h.exact, x, 4), "int8 head: more near ties than the list of candidates holds");
  x[3] = to_bf16(NAN);
  x[size_t(2 * H)] = to_bf16(INFINITY);
  check(h.choose(*h.fast, x, 4) == h.choose(*h.exact, x, 4) && h.choose(*h.fast, x, 4)[0] == -1, "int8 head: hidden states that are not finite");
}

/// Rows of a table are read by the ids of the call, whether a step brought them or not.
void test_embedding_outside_a_step(Backend& gpu) {
  const int64_t V = 1003, H = 640;
  const std::vector<bf16> rows = head_rows(V, H, false);
  const auto table = gpu.make_embedding({WeightFormat::kBF16, V, H, rows.data(), nullptr, nullptr});
  const Buffer x = gpu.allocate(size_t(3 * H) * 4);
  Batch batch;
  batch.token_ids = {5, 6, 7};
  batch.positions = {0, 1, 2};
  const int32_t blocks[] = {0};
  batch.rows = {{0, 3, 0, 0, -1, blocks, blocks, 0, 1, 1}};
  gpu.begin_step(batch);
  for (const std::vector<int32_t>& ids : {std::vector<int32_t>{5, 6, 7}, {1, 1002, 0}, {5, 6}}) {
    std::vector<float> got(ids.size() * size_t(H));
    gpu.embed({x.data(), DType::kF32, int64_t(ids.size()), H, H}, ids, *table, 2, {});
    gpu.download(got.data(), x.data(), got.size() * 4);
    bool right = true;
    for (size_t i = 0; i < got.size(); i++) right &= got[i] == 2 * to_f32(rows[size_t(ids[i / size_t(H)]) * size_t(H) + i % size_t(H)]);
    check(right, "embedding of " + std::to_string(ids.size()) + " ids from " + std::to_string(ids[0]));
  }
}

}  // namespace

int main() {
  try {
    if (cuda_devices().empty()) {
      std::printf("%d passed, %d failed; skipped: %s\n", n_passed, n_failed, cuda_built() ? "no GPU here" : "built without CUDA");
      return 0;
    }
    const auto cpu = make_cpu_backend({}), gpu = make_cuda_backend(0);
    test_options(*cpu, *gpu);
    test_all_minus_infinity(*cpu, *gpu);
    test_uploads_are_whole(*gpu);
    test_combinations(*cpu, *gpu);
    std::printf("sampling: %d passed, %d failed\n", n_passed, n_failed);
    test_bf16_head(*gpu, 5000, 640);
    test_bf16_head(*gpu, 4100, 1152);
    test_bf16_head(*gpu, 1003, 2560);
    test_bf16_head(*gpu, 1003, 3840);
    test_int8_choices(*gpu, 65536, 1152, 120, true);
    test_int8_choices(*gpu, 65536, 640, 120, true);
    test_int8_choices(*gpu, 65536, 1152, 60, false);
    test_int8_choices(*gpu, 5003, 2560, 40, true);
    test_int8_choices(*gpu, 5003, 3840, 40, true);
    test_embedding_outside_a_step(*gpu);
    test_int8_mixed(*gpu);
    test_int8_limits(*gpu);
  } catch (const Error& e) {
    check(false, std::string(e.code()) + ": " + e.what());
  }
  return finish();
}
