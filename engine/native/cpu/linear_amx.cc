// out = x @ W^T on AMX tiles. Weights are the first operand as they lie (16 rows by 32 elements), tokens the second, sixteen to a
// tile; a token's sums are its column's alone, so a row is the same bytes in any batch. Every product goes this way on a machine
// that has AMX, one token's too: there memory is the limit, and the unused columns are free.
// Source of the tile layout: Intel 64 and IA-32 Architectures Software Developer's Manual, TDPBF16PS.
#include <algorithm>

#include "linear.h"
#include "lora.h"

#if !defined(LORIKEET_EMULATE_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lorikeet::CPU_NS {
namespace {

constexpr int64_t kTile = 16;       // rows of a tile, and tokens
constexpr int64_t kTileDeep = 32;   // bf16 elements of a tile's row
constexpr int64_t kPanelRows = 64;  // rows expanded at a time

#if defined(LORIKEET_EMULATE_AMX)
/// The same arithmetic in plain code, so that the layout is tested where there is no AMX. acc[n][m] += a[n][k] b[k/2][m][k%2].
struct Tiles {
  float acc[2][2][kTile][kTile] = {};
  const bf16* a[2];
  int64_t a_stride[2];
  const bf16* b[2];
  void load_a(int i, const bf16* from, int64_t stride) { a[i] = from; a_stride[i] = stride; }
  void load_b(int j, const bf16* from) { b[j] = from; }
  void multiply(int i, int j) {
    for (int64_t k = 0; k < kTileDeep; k++)
      for (int64_t n = 0; n < kTile; n++)
        for (int64_t m = 0; m < kTile; m++) acc[i][j][n][m] += to_f32(a[i][n * a_stride[i] + k]) * to_f32(b[j][(k / 2 * kTile + m) * 2 + k % 2]);
  }
  void read(int i, int j, float* to) { std::memcpy(to, acc[i][j], sizeof acc[i][j]); }
  void clear() { std::memset(acc, 0, sizeof acc); }
};
#else
/// Accumulators are tiles 0 to 3, weights 4 and 5, tokens 6 and 7.
struct Tiles {
  struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  };
  Tiles() {
    Config config;
    for (int t = 0; t < 8; t++) {
      config.bytes[t] = 64;
      config.rows[t] = kTile;
    }
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  void clear() { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }
  void load_a(int i, const bf16* from, int64_t stride) {
    if (i == 0) _tile_loadd(4, from, stride * 2);
    else _tile_loadd(5, from, stride * 2);
  }
  void load_b(int j, const bf16* from) {
    if (j == 0) _tile_loadd(6, from, 64);
    else _tile_loadd(7, from, 64);
  }
  void multiply(int i, int j) {
    if (i == 0 && j == 0) _tile_dpbf16ps(0, 4, 6);
    else if (i == 0) _tile_dpbf16ps(1, 4, 7);
    else if (j == 0) _tile_dpbf16ps(2, 5, 6);
    else _tile_dpbf16ps(3, 5, 7);
  }
  void read(int i, int j, float* to) {
    if (i == 0 && j == 0) _tile_stored(0, to, 64);
    else if (i == 0) _tile_stored(1, to, 64);
    else if (j == 0) _tile_stored(2, to, 64);
    else _tile_stored(3, to, 64);
  }
};
#endif

/// Tokens as second operands: [T/16][K/32][16 pairs][16 tokens][2], absent tokens zero.
std::vector<bf16> pack_tokens(Tensor x) {
  const int64_t K = x.cols, n_groups = (x.rows + kTile - 1) / kTile;
  std::vector<bf16> out(size_t(n_groups * K * kTile));
#pragma omp parallel for if (n_groups > 1)
  for (int64_t g = 0; g < n_groups; g++)
    for (int64_t m = 0; m < std::min(kTile, x.rows - g * kTile); m++) {
      const bf16* from = x.b16(g * kTile + m);
      bf16* to = out.data() + g * K * kTile + m * 2;
      for (int64_t k = 0; k < K; k += 2) std::memcpy(to + k * kTile, from + k, 4);
    }
  return out;
}

/// tile [16 rows][16 tokens] to out[token][row].
void write_transposed(const float* tile, Tensor out, int64_t row, int64_t n_rows, int64_t token, int64_t n_tokens) {
  for (int64_t m = 0; m < n_tokens; m++) {
    float* to = out.f32(token + m) + row;
    for (int64_t n = 0; n < n_rows; n++) to[n] = tile[n * kTile + m];
  }
}

/// Rows [begin, begin + 16 * n_a) of a panel times token groups [g, g + n_b).
void block(Tiles& tiles, const bf16* rows, int64_t K, int n_a, const bf16* tokens, int n_b, Tensor out, int64_t row, int64_t n_rows, int64_t group) {
  tiles.clear();
  for (int64_t k = 0; k < K; k += kTileDeep) {
    for (int i = 0; i < n_a; i++) tiles.load_a(i, rows + i * kTile * K + k, K);
    for (int j = 0; j < n_b; j++) tiles.load_b(j, tokens + j * K * kTile + k * kTile);
    for (int i = 0; i < n_a; i++)
      for (int j = 0; j < n_b; j++) tiles.multiply(i, j);
  }
  alignas(64) float tile[kTile * kTile];
  for (int i = 0; i < n_a; i++)
    for (int j = 0; j < n_b; j++) {
      tiles.read(i, j, tile);
      const int64_t token = (group + j) * kTile;
      write_transposed(tile, out, row + i * kTile, std::min(kTile, n_rows - i * kTile), token, std::min(kTile, out.rows - token));
    }
}

}  // namespace

/// Whether the kernel lets this process use tile registers.
bool amx_allowed() {
#if defined(LORIKEET_EMULATE_AMX)
  return true;
#else
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#endif
}

void linear_amx(Tensor out, Tensor x, const LinearCpu& w, std::span<const LoraPart> adapters) {
  const int64_t K = w.cols, n_groups = (x.rows + kTile - 1) / kTile, n_panels = (w.rows + kPanelRows - 1) / kPanelRows;
  const std::vector<bf16> tokens = pack_tokens(x);
#pragma omp parallel
  {
    Tiles tiles;
    thread_local std::vector<bf16> scratch, padded;
#pragma omp for schedule(dynamic, 1)
    for (int64_t p = 0; p < n_panels; p++) {
      const int64_t begin = p * kPanelRows, n_rows = std::min(kPanelRows, w.rows - begin);
      const bf16* rows = rows_bf16(w, begin, begin + n_rows, scratch);
      if (n_rows % kTile) {  // a tile reads sixteen rows: those past the end are zero
        padded.assign(size_t((n_rows + kTile - 1) / kTile * kTile * K), 0);
        std::memcpy(padded.data(), rows, size_t(n_rows * K) * 2);
        rows = padded.data();
      }
      for (int64_t g = 0; g < n_groups; g += 2)
        for (int64_t r = 0; r < n_rows; r += 2 * kTile)
          block(tiles, rows + r * K, K, n_rows - r > kTile ? 2 : 1, tokens.data() + g * K * kTile, n_groups - g > 1 ? 2 : 1, out, begin + r, n_rows - r, g);
    }
  }
  if (!adapters.empty()) lora_add_cpu(LoraWork(out, x, adapters), w.rows);
}

}  // namespace lorikeet::CPU_NS
