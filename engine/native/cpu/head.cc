// Scores over the vocabulary: the largest matrix by far, so its bytes are the price of a token.
//
// An int8 head reads half the bytes of bf16 and still decides as bf16 does. Row n is q[n] * scale[n]; a hidden state is cut into
// two signed bytes (about 15 bits), so that the integer sum is exact. Then
//   |score - exact| <= ||x|| * error[n] + ||x - x'|| * norm_max,
// with error[n] = ||w[n] - q[n] scale[n]|| plus a bound of fp32 summation, from Cauchy-Schwarz. Whoever picks a token re-scores in
// bf16 every row that could still win within these bounds (sampler.cc). Where only the best row is wanted, the upper byte alone is
// enough for nearly all rows: half the arithmetic; the few that could win get their lower byte first.
#include <algorithm>
#include <limits>
#include <utility>

#include "../core/nf4.h"
#include "allocate.h"
#include "head.h"
#include "lora.h"
#include "ops.h"

namespace lorikeet::CPU_NS {
namespace {

constexpr int64_t kRows = kLanes;  // rows of one register
constexpr int64_t kDeep = 4;        // elements of a row in one register

/// Quantised form of one hidden state.
struct Hidden8 {
  std::vector<int8_t> high, low;  // q = high * 128 + low
  float scale = 0;
  int32_t sum = 0, high_sum = 0;  // of q, of high
  float norm = 0, error_norm = 0, coarse_error_norm = 0;

  /// Of a state that is not finite there are no bounds: its scores are the exact rows'.
  bool finite() const { return std::isfinite(norm); }
};

/// The upper byte of a hidden state has fewer bits in a wide model: below this many steps its bounds would be of little use.
constexpr float kCoarseLimit = 64 * 128;

/// Largest quantised element. The integer sum must stay within 31 bits: 127 * limit * H < 2^31.
float hidden_limit(int64_t H) { return float(std::min<int64_t>(16256, (int64_t(1) << 31) / (128 * H))); }

Hidden8 quantise_hidden(const Tensor& hidden, int64_t s) {
  const int64_t H = hidden.cols;
  Hidden8 out;
  out.high.resize(H);
  out.low.resize(H);
  const float limit = hidden_limit(H);
  std::vector<float> x(H);
  float largest = 0;
  double norm = 0, error = 0, coarse_error = 0;
  for (int64_t i = 0; i < H; i++) {
    x[i] = hidden.dtype == DType::kBF16 ? to_f32(hidden.b16(s)[i]) : hidden.f32(s)[i];
    largest = std::max(largest, std::fabs(x[i]));
    norm += double(x[i]) * x[i];
  }
  out.scale = largest > 0 && std::isfinite(largest) ? largest / limit : 1;
  for (int64_t i = 0; i < H; i++) {
    const int q = std::isfinite(x[i]) ? int(std::lrint(x[i] / out.scale)) : 0;
    const int high = (q + 64) >> 7;
    out.high[i] = int8_t(high);
    out.low[i] = int8_t(q - high * 128);
    out.sum += q;
    out.high_sum += high;
    const double off = x[i] - double(q) * out.scale, coarse_off = x[i] - double(high * 128) * out.scale;
    error += off * off;
    coarse_error += coarse_off * coarse_off;
  }
  out.norm = float(std::sqrt(norm) * 1.000001);
  out.error_norm = float(std::sqrt(error) * 1.000001);
  out.coarse_error_norm = float(std::sqrt(coarse_error) * 1.000001);
  return out;
}

void quantise_row(const float* w, int64_t H, int8_t* q, float& scale, float& error, float& norm) {
  float largest = 0;
  double squares = 0, off_squares = 0;
  for (int64_t i = 0; i < H; i++) {
    largest = std::max(largest, std::fabs(w[i]));
    squares += double(w[i]) * w[i];
  }
  scale = largest / 127;
  for (int64_t i = 0; i < H; i++) {
    q[i] = int8_t(scale > 0 ? std::lrint(w[i] / scale) : 0);
    const double off = w[i] - double(q[i]) * scale;
    off_squares += off * off;
  }
  norm = float(std::sqrt(squares) * 1.0001);
  // One chain of H/16 additions and a tree of four, products rounded once; and the rounding of the score itself.
  const double summation = (2.0 * (double(H) / kLanes + 8) + 16) * 0x1p-24;
  error = float(std::sqrt(off_squares) * 1.000001 + summation * norm);
}

void read_row(const HostMatrix& m, int64_t row, float* out) {
  for (int64_t i = 0; i < m.cols; i++)
    out[i] = m.format == WeightFormat::kF32 ? static_cast<const float*>(m.data)[row * m.cols + i]
                                            : to_f32(static_cast<const bf16*>(m.data)[row * m.cols + i]);
}

void quantise_head(HeadCpu& head, const HostMatrix& m) {
  const int64_t V = m.rows, H = m.cols;
  head.codes = allocate(size_t((V + kRows - 1) / kRows * kRows * H));
  head.scale.resize(V);
  head.error.resize(V);
  auto* codes = static_cast<uint8_t*>(head.codes.data());
  float norm_max = 0;
#pragma omp parallel reduction(max : norm_max)
  {
    std::vector<float> row(H);
    std::vector<int8_t> q(H);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < V; n++) {
      float norm;
      read_row(m, n, row.data());
      quantise_row(row.data(), H, q.data(), head.scale[n], head.error[n], norm);
      norm_max = std::max(norm_max, norm);
      uint8_t* lane = codes + n / kRows * kRows * H + n % kRows * kDeep;
      for (int64_t i = 0; i < H; i++) lane[i / kDeep * kRows * kDeep + i % kDeep] = uint8_t(q[i] + 128);
    }
  }
  head.norm_max = norm_max;
}

constexpr int kTogether = 12, kTogetherCoarse = 16;  // outputs of one tile: their accumulators fill most of the registers

/// Hidden states of one tile as the dot products read them, one stream: [H/4][M][high, low][4], or [H/4][M][high][4] when coarse.
struct HiddenTile {
  int n = 0, width = 0;        // outputs, and M >= n: spare places repeat the last output
  bool coarse = false;
  std::vector<int8_t> packed;
  const Hidden8* x = nullptr;  // [n]
  const int64_t* outputs = nullptr;
};

HiddenTile pack_tile(const Hidden8* x, const int64_t* outputs, int n, int64_t H, bool coarse) {
  HiddenTile tile{n, n <= 2 ? n : (n + 3) / 4 * 4, coarse, {}, x, outputs};
  tile.packed.resize(size_t(H) * tile.width * (coarse ? 1 : 2));
  int8_t* out = tile.packed.data();
  for (int64_t k = 0; k < H; k += kDeep)
    for (int m = 0; m < tile.width; m++) {
      std::memcpy(out, x[std::min(m, n - 1)].high.data() + k, kDeep);
      out += kDeep;
      if (coarse) continue;
      std::memcpy(out, x[std::min(m, n - 1)].low.data() + k, kDeep);
      out += kDeep;
    }
  return tile;
}

#if defined(__AVX512VNNI__)
/// acc += w * four signed bytes at x, the same for all lanes. gcc 12 makes no embedded broadcast of the intrinsic.
inline void dot_bytes(__m512i& acc, __m512i w, const int8_t* x) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*reinterpret_cast<const int32_t*>(x)));
}
#endif

/// sums[m][lane] = sum over H of q[m] * code[row of lane], codes being unsigned: 128 * sum(q) too large, taken off by the caller.
/// Coarse: of high[m]. Integers: exact modulo 2^32, in any order.
template <bool coarse, size_t... I>
inline void int8_tile_of(const uint8_t* codes, const int8_t* x, int64_t H, i32x16* sums, std::index_sequence<I...>) {
  constexpr int M = int(sizeof...(I)), kBytes = coarse ? kDeep : 2 * kDeep;  // of one output in a step
#if defined(__AVX512VNNI__)
  // Indices are constants, so that every accumulator is a register: gcc keeps the arrays of a loop with asm in memory.
  __m512i high[M], low[M];
  ((high[I] = low[I] = _mm512_setzero_si512()), ...);
  for (int64_t k = 0; k < H; k += kDeep, codes += kRows * kDeep, x += M * kBytes) {
    _mm_prefetch((const char*)codes + 4096, _MM_HINT_T0);
    const __m512i w = _mm512_loadu_si512(codes);
    if constexpr (coarse) (dot_bytes(high[I], w, x + I * kBytes), ...);
    else ((dot_bytes(high[I], w, x + I * kBytes), dot_bytes(low[I], w, x + I * kBytes + kDeep)), ...);
  }
  if constexpr (coarse) ((sums[I] = (i32x16)high[I]), ...);
  else ((sums[I] = (i32x16)_mm512_add_epi32(_mm512_slli_epi32(high[I], 7), low[I])), ...);
#else
  for (int m = 0; m < M; m++) {
    u32x16 high{}, low{};
    for (int64_t k = 0; k < H; k += kDeep) {
      const int8_t* bytes = x + (k / kDeep * M + m) * kBytes;
      for (int lane = 0; lane < kLanes; lane++)
        for (int i = 0; i < kDeep; i++) {
          const int32_t w = codes[k * kRows + lane * kDeep + i];
          high[lane] += uint32_t(w * bytes[i]);
          if (!coarse) low[lane] += uint32_t(w * bytes[kDeep + i]);
        }
    }
    sums[m] = (i32x16)(coarse ? high : (high << 7) + low);
  }
#endif
}

template <bool coarse, int M>
inline void int8_tile(const uint8_t* codes, const int8_t* x, int64_t H, i32x16* sums) {
  int8_tile_of<coarse>(codes, x, H, sums, std::make_index_sequence<M>());
}

void tile_sums(const uint8_t* codes, const HiddenTile& tile, int64_t H, i32x16* sums) {
  const int8_t* x = tile.packed.data();
  switch (tile.width + (tile.coarse ? 100 : 0)) {
    case 1: return int8_tile<false, 1>(codes, x, H, sums);
    case 2: return int8_tile<false, 2>(codes, x, H, sums);
    case 4: return int8_tile<false, 4>(codes, x, H, sums);
    case 8: return int8_tile<false, 8>(codes, x, H, sums);
    case 12: return int8_tile<false, 12>(codes, x, H, sums);
    case 101: return int8_tile<true, 1>(codes, x, H, sums);
    case 102: return int8_tile<true, 2>(codes, x, H, sums);
    case 104: return int8_tile<true, 4>(codes, x, H, sums);
    case 108: return int8_tile<true, 8>(codes, x, H, sums);
    case 112: return int8_tile<true, 12>(codes, x, H, sums);
    default: return int8_tile<true, 16>(codes, x, H, sums);
  }
}

/// Scores of the sixteen rows of group g from their integer sums.
f32x16 rows_score(const HeadCpu& head, int64_t g, i32x16 sums, const Hidden8& x, bool coarse) {
  const u32x16 offset = u32x16{} + uint32_t(coarse ? x.high_sum : x.sum) * 128u;
  const f32x16 sum = __builtin_convertvector((i32x16)((u32x16)sums - offset), f32x16);
  const int64_t row = g * kRows;
  f32x16 scale{};
  if (row + kRows <= head.rows) scale = load(head.scale.data() + row);
  else for (int64_t i = 0; row + i < head.rows; i++) scale[i] = head.scale[row + i];
  return sum * (scale * (coarse ? x.scale * 128 : x.scale));
}

void score_rows(const HeadCpu& head, int64_t g, const HiddenTile& tile, Tensor values) {
  i32x16 sums[kTogetherCoarse];
  tile_sums(static_cast<const uint8_t*>(head.codes.data()) + g * kRows * head.cols, tile, head.cols, sums);
  const int64_t row = g * kRows;
  for (int m = 0; m < tile.n; m++) {
    float* out = values.f32(tile.outputs[m]) + row;
    const f32x16 score = rows_score(head, g, sums[m], tile.x[m], tile.coarse);
    if (row + kRows <= head.rows) store(out, score);
    else for (int64_t i = 0; row + i < head.rows; i++) out[i] = score[i];
  }
}

/// Outputs of one precision.
struct Int8Outputs {
  std::vector<Hidden8> hidden;
  std::vector<int64_t> outputs;
};

void add_tiles(std::vector<HiddenTile>& tiles, const Int8Outputs& of, int64_t H, bool coarse) {
  for (size_t o = 0; o < of.outputs.size();) {
    // 16 outputs as 8 + 8, not 12 + 4: every tile reads the codes once.
    const size_t together = coarse ? kTogetherCoarse : kTogether, left = of.outputs.size() - o;
    const size_t n_tiles = (left + together - 1) / together, n = (left + n_tiles - 1) / n_tiles;
    tiles.push_back(pack_tile(of.hidden.data() + o, of.outputs.data() + o, int(n), H, coarse));
    o += n;
  }
}

void score_int8(const HeadCpu& head, const Int8Outputs& fine, const Int8Outputs& coarse, Tensor values) {
  std::vector<HiddenTile> tiles;
  add_tiles(tiles, fine, head.cols, false);
  add_tiles(tiles, coarse, head.cols, true);
#pragma omp parallel for schedule(dynamic, 32)
  for (int64_t g = 0; g < (head.rows + kRows - 1) / kRows; g++)
    for (const HiddenTile& tile : tiles) score_rows(head, g, tile, values);
}

const HeadCpu& head_of(const Scores& scores, int64_t s) { return static_cast<const HeadCpu&>(*scores.heads[s]); }

const LoraWeights* lora_of(const Scores& scores, int64_t s) { return scores.edges[s] ? scores.edges[s]->head_lora : nullptr; }

/// Of an int8 head without LoRA.
bool scored_coarsely(const Scores& scores, int64_t s) {
  return !scores.greedy.empty() && scores.greedy[s] && hidden_limit(scores.hidden.cols) >= kCoarseLimit;
}

/// Row n of an int8 head's exact rows, summed as in a whole pass.
float dot_exact(const LinearCpu& w, int64_t n, const Tensor& hidden, int64_t s) {
  if (hidden.dtype == DType::kBF16) {
    std::vector<bf16> scratch;
    return dot_row_alone<DotBf16>(rows_bf16(w, n, n + 1, scratch), hidden.b16(s), w.cols);
  }
  std::vector<float> scratch;
  return dot_row_alone<DotF32>(rows_f32(w, n, n + 1, scratch), hidden.f32(s), w.cols);
}

float dot_row(const void* row, const Tensor& hidden, int64_t s) {
  f32x16 acc{};
  if (hidden.dtype == DType::kBF16) {
    for (int64_t k = 0; k < hidden.cols; k += 32) acc = dot_bf16(acc, static_cast<const bf16*>(row) + k, hidden.b16(s) + k);
  } else {
    for (int64_t k = 0; k < hidden.cols; k += 16) acc = DotF32::step(acc, static_cast<const float*>(row) + k, hidden.f32(s) + k);
  }
  return reduce_add(acc);
}

/// Index of `id` among the adapter's replaced rows, or -1.
int64_t replaced_row(const Scores& scores, int64_t s, int32_t id) {
  const TokenRowsDevice* rows = scores.edges[s] ? scores.edges[s]->token_rows : nullptr;
  if (!rows) return -1;
  for (size_t i = 0; i < rows->token_ids.size(); i++)
    if (rows->token_ids[i] == id) return int64_t(i);
  return -1;
}

float replaced_score(const Scores& scores, int64_t s, int64_t index) {
  const auto* data = static_cast<const char*>(scores.edges[s]->token_rows->rows.data());
  return dot_row(data + index * scores.hidden.cols * int64_t(size_of(scores.hidden.dtype)), scores.hidden, s);
}

/// Outputs that share a head are scored together; an output with a LoRA on its head needs exact base scores.
void score_group(Scores& scores, const HeadCpu& head, const std::vector<int64_t>& outputs) {
  Int8Outputs fine, coarse;
  for (int64_t s : outputs) {
    Hidden8 x;
    const bool approximate = head.format == HeadFormat::kInt8 && !lora_of(scores, s) && (x = quantise_hidden(scores.hidden, s)).finite();
    if (approximate) {
      Int8Outputs& to = scored_coarsely(scores, s) ? coarse : fine;
      to.outputs.push_back(s);
      to.hidden.push_back(std::move(x));
    } else if (outputs.size() == 1 || head.format == HeadFormat::kInt8) {
      linear_cpu(scores.values.row_range(s, s + 1), scores.hidden.row_range(s, s + 1), head.exact);
    }
  }
  if (!fine.outputs.empty() || !coarse.outputs.empty()) score_int8(head, fine, coarse, scores.values);
  if (outputs.size() == 1 || head.format == HeadFormat::kInt8) return;
  // Consecutive outputs in one pass each: as a rule they all are.
  for (size_t i = 0; i < outputs.size();) {
    size_t end = i + 1;
    while (end < outputs.size() && outputs[end] == outputs[end - 1] + 1) end++;
    linear_cpu(scores.values.row_range(outputs[i], outputs[end - 1] + 1), scores.hidden.row_range(outputs[i], outputs[end - 1] + 1), head.exact);
    i = end;
  }
}

}  // namespace

std::unique_ptr<Head> make_head_cpu(const HostMatrix& matrix, HeadFormat format, bool fp32) {
  auto head = std::make_unique<HeadCpu>();
  head->rows = matrix.rows;
  head->cols = matrix.cols;
  head->format = format;
  LinearCpu& exact = head->exact;
  exact.rows = matrix.rows;
  exact.cols = matrix.cols;
  if (format == HeadFormat::kNF4) {
    const int64_t n = matrix.rows * matrix.cols;
    std::vector<uint8_t> packed(n / 2);
    std::vector<float> absmax(n / kBlock), row(matrix.cols);
    for (int64_t r = 0; r < matrix.rows; r++) {
      read_row(matrix, r, row.data());
      nf4_quantize(row.data(), matrix.cols, packed.data() + r * matrix.cols / 2, absmax.data() + r * matrix.cols / kBlock);
    }
    const HostMatrix nf4{WeightFormat::kNF4, matrix.rows, matrix.cols, packed.data(), absmax.data(), nullptr};
    std::unique_ptr<Linear> packed_linear = make_linear_cpu({&nf4, 1}, fp32);
    exact = std::move(static_cast<LinearCpu&>(*packed_linear));
    head->bytes = exact.bytes;
    return head;
  }
  exact.format = matrix.format;
  exact.data = matrix.data;
  exact.mapped = matrix.owner;
  head->bytes = size_t(matrix.rows * matrix.cols) * (matrix.format == WeightFormat::kF32 ? 4 : 2);
  if (format == HeadFormat::kInt8) {
    quantise_head(*head, matrix);
    head->bytes = head->codes.bytes() + head->scale.size() * 8;  // the exact rows are the embedding's as a rule
  }
  return head;
}

void logits_cpu(Scores& scores) {
  const int64_t S = scores.values.rows;
  std::vector<const Head*> distinct;
  for (const Head* h : scores.heads)
    if (std::find(distinct.begin(), distinct.end(), h) == distinct.end()) distinct.push_back(h);
  for (const Head* h : distinct) {
    std::vector<int64_t> outputs;
    for (int64_t s = 0; s < S; s++)
      if (scores.heads[s] == h) outputs.push_back(s);
    score_group(scores, static_cast<const HeadCpu&>(*h), outputs);
  }
  for (int64_t s = 0; s < S; s++) {
    const EdgeSegment* edge = scores.edges[s];
    if (edge && edge->token_rows)
      for (size_t i = 0; i < edge->token_rows->token_ids.size(); i++)
        scores.values.f32(s)[edge->token_rows->token_ids[i]] = replaced_score(scores, s, int64_t(i));
    if (const LoraWeights* lora = lora_of(scores, s)) {
      const LoraPart part{0, {{0, 1, lora}}};
      lora_add_cpu(LoraWork(scores.values.row_range(s, s + 1), scores.hidden.row_range(s, s + 1), {&part, 1}), scores.values.cols);
    }
  }
}

bool scores_exact(const Scores& scores, int64_t s) { return head_of(scores, s).format != HeadFormat::kInt8 || lora_of(scores, s); }

float exact_score(const Scores& scores, int64_t s, int32_t id) {
  if (scores_exact(scores, s)) return scores.values.f32(s)[id];
  const int64_t replaced = replaced_row(scores, s, id);
  return replaced >= 0 ? replaced_score(scores, s, replaced) : dot_exact(head_of(scores, s).exact, id, scores.hidden, s);
}

struct ScoreBounds::Refiner {
  const Scores& scores;
  int64_t s;
  const HeadCpu& head;
  Hidden8 x;
  HiddenTile tile;
  float constant;  // what the hidden state's own rounding may cost
};

ScoreBounds::ScoreBounds(const Scores& scores, int64_t s, std::vector<float>& bounds) : bounds_(bounds) {
  const HeadCpu& head = head_of(scores, s);
  Hidden8 x = quantise_hidden(scores.hidden, s);
  bounds_.assign(size_t(head.rows), 0);
  if (!x.finite()) return;
  const bool coarse = scored_coarsely(scores, s);
  const float constant = (coarse ? x.coarse_error_norm : x.error_norm) * head.norm_max * 1.01f;
  for (int64_t n = 0; n < head.rows; n++) bounds_[n] = x.norm * head.error[n] + constant;
  if (!coarse) return;
  const float fine = x.error_norm * head.norm_max * 1.01f;
  refiner_ = std::make_unique<Refiner>(Refiner{scores, s, head, std::move(x), {}, fine});
  refiner_->tile = pack_tile(&refiner_->x, nullptr, 1, head.cols, false);
}

ScoreBounds::~ScoreBounds() = default;

void ScoreBounds::refine(int64_t row, float* values) {
  const Refiner& r = *refiner_;
  i32x16 sums;
  tile_sums(static_cast<const uint8_t*>(r.head.codes.data()) + row * r.head.cols, r.tile, r.head.cols, &sums);
  const f32x16 scores = rows_score(r.head, row / kRows, sums, r.x, false);
  for (int64_t i = 0; i < kRows && row + i < r.head.rows; i++) {
    const bool removed = values[row + i] == -std::numeric_limits<float>::infinity();
    if (removed || replaced_row(r.scores, r.s, int32_t(row + i)) >= 0) continue;
    values[row + i] = scores[i];
    bounds_[row + i] = r.x.norm * r.head.error[row + i] + r.constant;
  }
}

}  // namespace lorikeet::CPU_NS
