// A product of decode: 1 to 64 tokens through NF4 weights, with everything around it in the same kernel.
// A block owns one row tile of 16 outputs (gate_up: the same tile of gate and of up) and its warps share the columns. Weights, which no
// kernel writes, are in registers before the kernel waits for the one before it. The input's norm, or the merging of attention's parts, is
// computed in every block for one or two tokens: cheaper than a kernel of its own. A norm's own factor is applied to the sums, so no block
// waits for it. Adapters: the first blocks of the grid multiply by A (the same mma, A's tiles in bf16) and count up; the others wait for
// the count after their own sums and add B's part. Blocks start in order of their index, and the first ones wait for nobody, so none waits
// for ever.
#include <algorithm>

#include "decode_lora.h"

namespace lorikeet::cuda {
namespace {

template <GemmOut OUT>
constexpr int kRowTiles = OUT == GemmOut::kGeglu ? 2 : 1;
/// gate_up of many tokens: groups of warps take a row tile each, and the input lies in shared memory where there is room.
template <GemmOut OUT, int N8>
constexpr int kGroups = OUT == GemmOut::kGeglu && N8 > 1 ? 4 : 1;
/// Few row tiles (o, down): many warps share a long K. Many row tiles: several blocks share a multiprocessor.
template <GemmIn IN, GemmOut OUT, int N8>
constexpr int kMostWarps = OUT == GemmOut::kGeglu              ? (N8 == 1 ? 9 : 16)
                           : OUT == GemmOut::kStream && N8 > 1 ? 10
                           : N8 > 1                            ? 18
                           : IN == GemmIn::kFragments          ? 28
                           : IN == GemmIn::kCombine            ? 8
                                                               : 20;
template <GemmIn IN, GemmOut OUT, int N8>
constexpr int kLeastBlocks = OUT == GemmOut::kGeglu              ? (N8 == 1 ? 2 : 1)
                             : IN == GemmIn::kCombine            ? 3
                             : OUT == GemmOut::kStream && N8 > 1 ? 2
                                                                 : 1;

/// Shared memory of a block, in order.
template <int R, int N8>
struct Layout {
  size_t table = 0, sums, rows, squares, pairs, shrunk, end;
  __host__ __device__ Layout(int n_warps, int K, int tokens_in_shared, bool lora) {
    sums = kNf4TableBytes;
    rows = sums + size_t(n_warps) * R * N8 * 4 * kWarp * 4;
    squares = rows + size_t(tokens_in_shared) * K * 2;
    pairs = (squares + size_t(n_warps) * kRowsInShared * 4 + 15) / 16 * 16;
    shrunk = pairs + (lora ? size_t(R) * N8 * 8 * sizeof(ExpandPair) : 0);
    end = shrunk + (lora ? size_t(R) * N8 * 8 * kDecodeRank * 4 : 0);
  }
};

template <GemmIn IN, GemmOut OUT, int N8, bool LORA>
__global__ void __launch_bounds__(kMostWarps<IN, OUT, N8>* kWarp, kLeastBlocks<IN, OUT, N8>)
    gemm_kernel(const __grid_constant__ GemmArgs p) {
  constexpr int R = kRowTiles<OUT>, P = kGroups<OUT, N8>, kAhead = P > 1 ? 2 : N8 == 1 ? 4 / R : 2 / R;
  extern __shared__ __align__(16) char shared[];
  const int n_warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, K = p.k_tiles * kTileCols;
  const Layout<R, N8> at(n_warps, K, IN != GemmIn::kFragments ? kRowsInShared : p.staged ? N8 * 8 : 0, LORA);
  auto* table = reinterpret_cast<uint32_t*>(shared + at.table);
  auto* sums = reinterpret_cast<float*>(shared + at.sums);
  auto* rows = reinterpret_cast<uint4*>(shared + at.rows);
  auto* squares = reinterpret_cast<float*>(shared + at.squares);
  auto* pairs = reinterpret_cast<ExpandPair*>(shared + at.pairs);
  auto* shrunk = reinterpret_cast<float*>(shared + at.shrunk);

  allow_next_kernel();
  const int n_shrink = LORA ? p.lora.blocks() : 0, row_tile = int(blockIdx.x) - n_shrink, first_token = int(blockIdx.y) * N8 * 8;
  const bool shrinks = LORA && row_tile < 0;
  const int n_slices = n_warps / P, group = warp / n_slices, slice = warp % n_slices;
  const int64_t row_stride = int64_t(p.row_tiles) * p.k_tiles;
  const auto load_first = [&](Codes<R>(&codes)[kAhead], int first_row_tile) {
    const int own = first_row_tile * P + group;
#pragma unroll
    for (int j = 0; j < kAhead; j++)
      if (slice + j * n_slices < p.k_tiles && own < p.row_tiles)
        load_codes(codes[j], p.tiles, p.scales, int64_t(own) * p.k_tiles + slice + j * n_slices, row_stride);
  };
  int module = 0;  // of this block's rows, where several share the input
  if constexpr (LORA && OUT == GemmOut::kRows)
    while (module + 1 < p.lora.n_modules && row_tile * kTileRows >= p.lora.row_begin[module + 1]) module++;

  // What no kernel writes comes before the wait.
  Codes<R> codes[kAhead];
  float4 post0{}, next0{};
  if (!shrinks) {
    load_first(codes, row_tile);
    build_nf4_table(table);
  }
  if constexpr (IN == GemmIn::kNorm) {
    if (int(threadIdx.x) * 4 < K) {
      next0 = load4(p.next_w + threadIdx.x * 4);
      if (p.y) post0 = load4(p.post_w + threadIdx.x * 4);
    }
  }
  if constexpr (LORA) {
    for (int e = threadIdx.x; !shrinks && e < R * N8 * 8; e += blockDim.x) {
      const int token = first_token + e % (N8 * 8), of = R == 2 ? e / (N8 * 8) : module;
      ExpandPair pair{};
      const int group = token < p.n_tokens ? p.lora.step->group_of[token] : -1;
      if (group >= 0) {
        const DevicePair& from = p.lora.step->groups[group].pairs[p.lora.first_module + of];
        if (from.a) pair = {from.b, from.column_scale, from.scale, from.rank_tiles * 16};
      }
      pairs[e] = pair;
    }
  }
  wait_for_last_kernel();

  if constexpr (IN == GemmIn::kNorm) norm_rows(p, rows, squares, row_tile == 0 && p.x_out, post0, next0);
  if constexpr (IN == GemmIn::kCombine) combine_rows(p, rows);
  if (IN == GemmIn::kFragments && p.staged) {
    const int n = N8 * p.k_tiles * 2 * kWarp;
    const uint4* from = p.fragments + int64_t(blockIdx.y) * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) copy_async(shared_address(rows + i), from + i);
    copy_async_commit();
    copy_async_wait<0>();
  }
  __syncthreads();
  if constexpr (LORA)
    if (shrinks) return shrink<IN, N8>(p, rows, sums, squares);

  const int n_rows = p.row_tiles * kTileRows, n_base = int(gridDim.x) - n_shrink;
  bool counted = false;
  for (int tile_row = row_tile; tile_row * P < p.row_tiles; tile_row += n_base) {
    const int own = tile_row * P + group;
    float total[R][N8][4] = {};
    for (int base = slice; base < p.k_tiles && own < p.row_tiles; base += kAhead * n_slices) {
#pragma unroll
      for (int j = 0; j < kAhead; j++) {
        const int tile = base + j * n_slices, later = tile + kAhead * n_slices;
        if (tile < p.k_tiles) {
          uint32_t b[N8][8];
          load_b<IN, N8>(b, p, rows, tile);
          multiply_tile<R, N8>(total, codes[j], b, shared + at.table);
        }
        if (later < p.k_tiles) load_codes(codes[j], p.tiles, p.scales, int64_t(own) * p.k_tiles + later, row_stride);
      }
    }
    const bool more = (tile_row + n_base) * P < p.row_tiles;
    if (more) load_first(codes, tile_row + n_base);  // on their way while these sums are put together
    share_sums<R, N8>(sums, total);
    if constexpr (LORA) {
      if (!counted) {
        if (threadIdx.x == 0) wait_for_count(p.lora.counter + blockIdx.y, n_shrink);
        __syncthreads();
        fetch_shrunk<R, N8>(shrunk, p.lora, pairs, module, first_token);
        counted = true;
      }
    }
    __syncthreads();
    for (int e = threadIdx.x; e < P * N8 * 4 * kWarp; e += blockDim.x) {
      const int of = e / (N8 * 4 * kWarp);
      const Place place(e % (N8 * 4 * kWarp));
      const int token = first_token + place.token, row = (tile_row * P + of) * kTileRows + place.row;
      const bool inside = token < p.n_tokens && row < n_rows;
      const float factor = IN == GemmIn::kNorm && inside ? norm_factor(p, squares, place.token) : 1;
      float v[R];
#pragma unroll
      for (int r = 0; r < R; r++) {
        v[r] = inside ? sum_of<R, N8>(sums + of * n_slices * R * N8 * 4 * kWarp, place, r, n_slices) * factor : 0;
        if constexpr (LORA)
          if (inside) {
            const int at = (R == 2 ? r * N8 * 8 : 0) + place.token;
            v[r] = expanded(v[r], pairs[at], shrunk + at * kDecodeRank, row - p.lora.row_begin[R == 2 ? 0 : module]);
          }
      }
      if constexpr (OUT == GemmOut::kGeglu) {
        if (inside) p.inner[fragment_place(token, row, p.row_tiles / 4)] = __float2bfloat16(geglu(v[0], v[1]));
      } else {
        if (inside) p.out[int64_t(token) * n_rows + row] = v[0];
      }
      if constexpr (OUT == GemmOut::kStream) {
        float square = v[0] * v[0];
#pragma unroll
        for (int o = 4; o < kWarp; o *= 2) square += __shfl_xor_sync(0xffffffffu, square, o);
        if (inside && lane < 4) p.out_squares[int64_t(token) * (n_rows / 8) + tile_row * 2 + place.i / 2] = square;
      }
    }
    if (more) __syncthreads();  // the sums' memory is written again
  }
}

/// Blocks of a product that share its row tiles: all of them at once, so that none starts late, in rounds of equal length.
template <GemmIn IN, GemmOut OUT, int N8>
int base_blocks(const GemmArgs& p) {
  static const int n_multiprocessors = [] {
    int device = 0, n = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device);
    return n;
  }();
  if (OUT != GemmOut::kGeglu) return p.row_tiles;  // with adapters a block has rows of one module
  constexpr int P = kGroups<OUT, N8>;
  const int n = ceil_div(p.row_tiles, P),
            together = std::max(1, kLeastBlocks<IN, OUT, N8> * n_multiprocessors / ceil_div(p.n_tokens, N8 * 8));
  return ceil_div(n, ceil_div(n, together));
}

template <GemmIn IN, GemmOut OUT, int N8, bool LORA>
void launch(GemmArgs p, bool overlaps, cudaStream_t stream) {
  constexpr int R = kRowTiles<OUT>;
  const int n_warps = kGroups<OUT, N8> > 1
                          ? kMostWarps<IN, OUT, N8>
                          : std::min(kMostWarps<IN, OUT, N8>, std::max(4, p.k_tiles > 20 ? ceil_div(p.k_tiles, 4) : p.k_tiles));
  const auto bytes_of = [&](int tokens_in_shared) { return Layout<R, N8>(n_warps, p.k_tiles * kTileCols, tokens_in_shared, LORA).end; };
  p.staged = kGroups<OUT, N8> > 1 && bytes_of(N8 * 8) <= size_t(most_shared());
  const size_t bytes = bytes_of(IN != GemmIn::kFragments ? kRowsInShared : p.staged ? N8 * 8 : 0);
  allow_shared<gemm_kernel<IN, OUT, N8, LORA>>(N8 > 1);
  const dim3 grid(unsigned(base_blocks<IN, OUT, N8>(p) + (LORA ? p.lora.blocks() : 0)), unsigned(ceil_div(p.n_tokens, N8 * 8)));
  launch_overlapped(overlaps, gemm_kernel<IN, OUT, N8, LORA>, grid, unsigned(n_warps * kWarp), bytes, stream, p);
}

template <GemmIn IN, GemmOut OUT, int N8>
void with_lora(const GemmArgs& p, bool overlaps, cudaStream_t stream) {
  if (p.lora.n_groups > 0)
    launch<IN, OUT, N8, true>(p, overlaps, stream);
  else
    launch<IN, OUT, N8, false>(p, overlaps, stream);
}

template <GemmOut OUT>
void of_fragments(const GemmArgs& p, bool overlaps, cudaStream_t stream) {
  if (p.n_tokens <= 8)
    with_lora<GemmIn::kFragments, OUT, 1>(p, overlaps, stream);
  else if (p.n_tokens <= 16)
    with_lora<GemmIn::kFragments, OUT, 2>(p, overlaps, stream);
  else
    with_lora<GemmIn::kFragments, OUT, 4>(p, overlaps, stream);
}

}  // namespace

void decode_gemm(GemmIn in, GemmOut out, const GemmArgs& p, bool overlaps, cudaStream_t stream) {
  if (in == GemmIn::kFragments && out == GemmOut::kRows) return of_fragments<GemmOut::kRows>(p, overlaps, stream);
  if (in == GemmIn::kFragments && out == GemmOut::kStream) return of_fragments<GemmOut::kStream>(p, overlaps, stream);
  if (in == GemmIn::kFragments && out == GemmOut::kGeglu) return of_fragments<GemmOut::kGeglu>(p, overlaps, stream);
  if (in == GemmIn::kNorm && out == GemmOut::kRows) return with_lora<GemmIn::kNorm, GemmOut::kRows, 1>(p, overlaps, stream);
  if (in == GemmIn::kNorm && out == GemmOut::kGeglu) return with_lora<GemmIn::kNorm, GemmOut::kGeglu, 1>(p, overlaps, stream);
  if (in == GemmIn::kCombine && out == GemmOut::kStream) return with_lora<GemmIn::kCombine, GemmOut::kStream, 1>(p, overlaps, stream);
  throw Error("INTERNAL", "no such product of decode");
}

}  // namespace lorikeet::cuda
