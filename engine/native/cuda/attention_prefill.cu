// Attention of rows of several tokens, after FlashAttention-2. One block a (tile of queries, kv head): the query heads of the group lie
// side by side in the tile's 64 or 128 rows, so keys and values are read once for all of them. A warp owns 16 rows (x kMTiles) and keeps
// their output in registers; 64 keys at a time pass through shared memory, the next keys on their way while this tile's values are used.
// Works against shared memory's bandwidth: with 16 rows a warp, ldmatrix allows about 420 TFLOP/s of an H100's 990 at D = 256.
//
// Shared memory: queries [rows][D], keys [64][D], values [64][D] bf16, the 16-byte pieces of a row permuted by its low three bits. Key
// tiles begin at multiples of 64 whatever the row, so a token's result depends neither on other rows nor on how its prompt was cut into
// steps.
#include <climits>

#include "kv_pool.h"
#include "mma_sm80.h"
#include "ops.h"

namespace lorikeet::cuda {
namespace {

constexpr int kKeys = 64;  // of a tile

struct PrefillArgs {
  nv_bf16* out;
  const nv_bf16* q;
  int64_t out_stride, q_stride;
  KvView pool;
  const DeviceRow* rows;
  const QueryTile* tiles;
  const int32_t* table;
  int n_units, pack_shift, group_shift;  // a unit: the 2^pack_shift query heads of one tile; 2^group_shift share a kv head
  int window;                            // INT_MAX: all keys
  float scale_log2;                      // scores in units of log2
  bool sliding;
};

template <int D_, int kMTiles_, int kWarps_>
struct Shape {
  static constexpr int D = D_, kMTiles = kMTiles_, kWarps = kWarps_, kThreads = kWarps * kWarp, kWarpRows = 16 * kMTiles,
                       kRows = kWarps * kWarpRows;
  static constexpr int kPitch = D * 2;               // bytes of a row
  static constexpr int kPieces = D / 8;              // of 16 bytes, in a row
  static constexpr int kCopyRows = kWarp / kPieces;  // that a warp copies at once
  static constexpr int kWarpKeys = kKeys / kWarps;   // that a warp copies: all in one block of the pool
  static constexpr int kSharedBytes = (kRows + 2 * kKeys) * kPitch;
  static constexpr int kBlocksPerSm = kWarps == 8 ? 1 : 2;
  static_assert(kCopyRows >= 1 && kBlockTokens % kWarpKeys == 0);
};

template <class S>
__device__ uint32_t piece_offset(int row, int piece) {
  return uint32_t(row * S::kPitch + ((piece ^ (row & 7)) << 4));
}

/// Where a lane's ldmatrix finds pieces 2 i and 2 i + 1 of its row; piece 2 (i + 4) lies 128 bytes further.
template <class S>
struct LaneAddresses {
  uint32_t at[4];
  __device__ LaneAddresses(uint32_t base, int row, int odd) {
#pragma unroll
    for (int i = 0; i < 4; i++) at[i] = base + uint32_t(row * S::kPitch + (((2 * i) ^ odd ^ (row & 7)) << 4));
  }
  __device__ uint32_t operator()(int i, int rows_on) const { return at[i & 3] + uint32_t((i >> 2) * 128 + rows_on * S::kPitch); }
};

/// The keys that a tile of queries reads, and how a warp fetches its share of 64 of them.
template <class S>
class KeyLoader {
 public:
  __device__ KeyLoader(const PrefillArgs& a, const DeviceRow& row, int kv_head, int first_key, int last_key)
      : a_(a), row_(row), kv_head_(kv_head), first_(first_key), last_(last_key), own_(int(threadIdx.x) / kWarp * S::kWarpKeys) {
    const int lane = threadIdx.x % kWarp;
    lane_row_ = lane / S::kPieces;
    piece_ = lane % S::kPieces;
  }

  /// Looks up the block of tile j, so that its number has arrived when the copies begin.
  __device__ void look_up(int j) {
    const int p = min(max(j * kKeys + own_, first_), last_);
    next_block_ = block_of(row_, a_.table, a_.sliding, p);
  }
  /// From here on copies are of the tile that was looked up last.
  __device__ void advance(int j) {
    p_ = j * kKeys + own_;
    from_ = a_.pool.keys(next_block_, kv_head_) + (p_ % kBlockTokens + lane_row_) * S::D + piece_ * 8;
  }
  __device__ void copy_keys(uint32_t to) const { copy(to, from_); }
  __device__ void copy_values(uint32_t to) const { copy(to, from_ + kBlockTokens * S::D); }

 private:
  __device__ void copy(uint32_t to, const nv_bf16* from) const {
    if (p_ >= first_ && p_ + S::kWarpKeys - 1 <= last_) {
#pragma unroll
      for (int i = 0; i < S::kWarpKeys; i += S::kCopyRows) copy_async(to + piece_offset<S>(own_ + i + lane_row_, piece_), from + i * S::D);
    } else {
      copy_edge(to, from);
    }
  }
  /// Zeros stand for keys outside [first, last]: what lies there may be another row's, or not finite.
  __device__ void copy_edge(uint32_t to, const nv_bf16* from) const {
#pragma unroll 1
    for (int i = 0; i < S::kWarpKeys; i += S::kCopyRows) {
      const int r = i + lane_row_;
      copy_async_or_zero(to + piece_offset<S>(own_ + r, piece_), from + i * S::D, p_ + r >= first_ && p_ + r <= last_);
    }
  }

  const PrefillArgs& a_;
  const DeviceRow& row_;
  const nv_bf16* from_ = nullptr;
  int kv_head_, first_, last_, own_, lane_row_, piece_, next_block_ = 0, p_ = 0;
};

/// A warp's rows: scores, running softmax and output, in the layout of mma's accumulators. Lane l holds of each 16x8 tile the rows l / 4
/// (half 0) and l / 4 + 8 (half 1), columns 2 (l % 4) and the next.
template <class S>
struct WarpRows {
  float scores[S::kMTiles][kKeys / 8][4];
  float out[S::kMTiles][S::D / 8][4];
  float top[S::kMTiles][2], sum[S::kMTiles][2];
  int position[S::kMTiles][2];

  __device__ void clear() {
#pragma unroll
    for (int m = 0; m < S::kMTiles; m++) {
      top[m][0] = top[m][1] = -INFINITY;
      sum[m][0] = sum[m][1] = 0;
#pragma unroll
      for (int n = 0; n < S::D / 8; n++) out[m][n][0] = out[m][n][1] = out[m][n][2] = out[m][n][3] = 0;
    }
  }

  __device__ void multiply_keys(const LaneAddresses<S>& queries, const LaneAddresses<S>& keys) {
#pragma unroll
    for (int m = 0; m < S::kMTiles; m++)
#pragma unroll
      for (int n = 0; n < kKeys / 8; n++) scores[m][n][0] = scores[m][n][1] = scores[m][n][2] = scores[m][n][3] = 0;
#pragma unroll
    for (int k = 0; k < S::D / 16; k++) {
      uint32_t q[S::kMTiles][4];
#pragma unroll
      for (int m = 0; m < S::kMTiles; m++) ldmatrix_x4(q[m], queries(k, m * 16));
#pragma unroll
      for (int n = 0; n < kKeys / 16; n++) {
        uint32_t b[4];
        ldmatrix_x4(b, keys(k, n * 16));
#pragma unroll
        for (int m = 0; m < S::kMTiles; m++) {
          mma_m16n8k16(scores[m][2 * n], q[m], b[0], b[1]);
          mma_m16n8k16(scores[m][2 * n + 1], q[m], b[2], b[3]);
        }
      }
    }
  }

  /// first: position of the tile's first key.
  __device__ void mask(int first, int window) {
    const int column = first + threadIdx.x % 4 * 2;
#pragma unroll
    for (int m = 0; m < S::kMTiles; m++)
#pragma unroll
      for (int n = 0; n < kKeys / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int p = column + n * 8 + i % 2, at = position[m][i / 2];
          if (p > at || p <= at - window) scores[m][n][i] = -INFINITY;
        }
  }

  /// Scores become weights against the greatest score so far; output and sum shrink to the new scale.
  __device__ void softmax(float scale_log2) {
    float shrink[S::kMTiles][2];
    bool changed = false;
#pragma unroll
    for (int m = 0; m < S::kMTiles; m++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float high = top[m][h];
#pragma unroll
        for (int n = 0; n < kKeys / 8; n++) high = fmaxf(high, fmaxf(scores[m][n][2 * h], scores[m][n][2 * h + 1]));
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
        const float base = high == -INFINITY ? 0 : high * scale_log2;  // no key yet: every weight is 0
        shrink[m][h] = exp2_approx(top[m][h] * scale_log2 - base);
        changed |= shrink[m][h] != 1;
        top[m][h] = high;
        float total = 0;
#pragma unroll
        for (int n = 0; n < kKeys / 8; n++)
#pragma unroll
          for (int i = 2 * h; i < 2 * h + 2; i++) total += scores[m][n][i] = exp2_approx(scores[m][n][i] * scale_log2 - base);
        sum[m][h] = sum[m][h] * shrink[m][h] + total;
      }
    if (!__any_sync(0xffffffffu, changed)) return;
#pragma unroll
    for (int m = 0; m < S::kMTiles; m++)
#pragma unroll
      for (int n = 0; n < S::D / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) out[m][n][i] *= shrink[m][i / 2];
  }

  __device__ void add_values(const LaneAddresses<S>& values) {
#pragma unroll
    for (int k = 0; k < kKeys / 16; k++) {
      uint32_t weights[S::kMTiles][4];
#pragma unroll
      for (int m = 0; m < S::kMTiles; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float* pair = scores[m][2 * k + i / 2] + i % 2 * 2;
          weights[m][i] = pack_bf16(pair[0], pair[1]);
        }
#pragma unroll
      for (int n = 0; n < S::D / 16; n++) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, values(n, k * 16));
#pragma unroll
        for (int m = 0; m < S::kMTiles; m++) {
          mma_m16n8k16(out[m][2 * n], weights[m], b[0], b[1]);
          mma_m16n8k16(out[m][2 * n + 1], weights[m], b[2], b[3]);
        }
      }
    }
  }

  /// Output to the warp's rows of the tile of queries, which nobody reads any more.
  __device__ void stage(uint32_t tile, int first_row) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int m = 0; m < S::kMTiles; m++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float total = sum[m][h];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        const float by = 1.0f / total;
#pragma unroll
        for (int n = 0; n < S::D / 8; n++)
          store_shared(tile + piece_offset<S>(first_row + m * 16 + h * 8 + lane / 4, n) + lane % 4 * 4,
                       pack_bf16(out[m][n][2 * h] * by, out[m][n][2 * h + 1] * by));
      }
  }
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm) prefill_kernel(const __grid_constant__ PrefillArgs a) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t queries = shared_address(shared), keys = queries + S::kRows * S::kPitch, values = keys + kKeys * S::kPitch;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warp_row = warp * S::kWarpRows;
  const int first_head = int(blockIdx.x) % a.n_units << a.pack_shift;
  const QueryTile tile = a.tiles[int(blockIdx.x) / a.n_units];
  const DeviceRow row = a.rows[tile.row];
  const int n_queries = min(S::kRows >> a.pack_shift, row.end - row.begin - tile.first);
  const int first_position = row.position + tile.first, last_position = first_position + n_queries - 1;
  const int first_key = max(0, first_position - a.window + 1), first_tile = first_key / kKeys, last_tile = last_position / kKeys;

  KeyLoader<S> loader(a, row, first_head >> a.group_shift, first_key, last_position);
  loader.look_up(first_tile);
  // Row r of the tile: query r >> pack_shift of it, head r % 2^pack_shift of the unit.
  const int copy_row = warp_row + lane / S::kPieces, copy_piece = lane % S::kPieces;
  const auto offset = [&](int r, int64_t stride) {
    return (row.begin + tile.first + (r >> a.pack_shift)) * stride + (first_head + (r & ((1 << a.pack_shift) - 1))) * S::D + copy_piece * 8;
  };
#pragma unroll
  for (int i = 0; i < S::kWarpRows; i += S::kCopyRows) {
    const bool valid = (copy_row + i) >> a.pack_shift < n_queries;
    copy_async_or_zero(queries + piece_offset<S>(copy_row + i, copy_piece), valid ? a.q + offset(copy_row + i, a.q_stride) : a.q, valid);
  }
  loader.advance(first_tile);
  loader.copy_keys(keys);
  copy_async_commit();

  WarpRows<S> rows;
  rows.clear();
#pragma unroll
  for (int m = 0; m < S::kMTiles; m++)
#pragma unroll
    for (int h = 0; h < 2; h++)
      rows.position[m][h] = first_position + min((warp_row + m * 16 + h * 8 + lane / 4) >> a.pack_shift, n_queries - 1);
  const LaneAddresses<S> query_lane(queries, warp_row + lane % 16, lane / 16), value_lane(values, lane % 16, lane / 16);
  const LaneAddresses<S> key_lane(keys, lane / 16 * 8 + lane % 8, lane / 8 % 2);

  for (int j = first_tile; j <= last_tile; j++) {
    copy_async_wait<0>();
    __syncthreads();  // these keys are there, the last values read
    loader.copy_values(values);
    copy_async_commit();
    if (j < last_tile) loader.look_up(j + 1);
    rows.multiply_keys(query_lane, key_lane);
    copy_async_wait<0>();
    __syncthreads();  // the values are there, these keys read
    if (j < last_tile) {
      loader.advance(j + 1);
      loader.copy_keys(keys);
      copy_async_commit();
    }
    const int key = j * kKeys;
    if (key + kKeys - 1 > first_position || key <= last_position - a.window) rows.mask(key, a.window);
    rows.softmax(a.scale_log2);
    rows.add_values(value_lane);
  }

  rows.stage(queries, warp_row);
  __syncwarp();
#pragma unroll 4
  for (int i = 0; i < S::kWarpRows; i += S::kCopyRows) {
    const int r = copy_row + i;
    if (r >> a.pack_shift < n_queries)
      *reinterpret_cast<uint4*>(a.out + offset(r, a.out_stride)) = load_shared_16(queries + piece_offset<S>(r, copy_piece));
  }
}

// ---- launch ----

int log2_of(int n) {
  int shift = 0;
  while (1 << shift < n) shift++;
  if (1 << shift != n) throw Error("UNSUPPORTED", std::to_string(n) + " query heads to a key-value head on CUDA: a power of two is built");
  return shift;
}

struct Limits {
  int shared_per_sm, n_sms;
};

const Limits& limits() {
  static const Limits of_device = [] {
    int device = 0;
    Limits l;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&l.shared_per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device), "device attribute");
    check(cudaDeviceGetAttribute(&l.n_sms, cudaDevAttrMultiProcessorCount, device), "device attribute");
    return l;
  }();
  return of_device;
}

/// The list of tiles whose queries, times the heads packed, fill kRows; and the arguments that go with it.
template <class S>
int choose_tiles(PrefillArgs& args, const Backend::AttentionArgs& a, const StepData& step) {
  args.pack_shift = std::min(args.group_shift, log2_of(S::kRows / query_tile_size(0)));
  args.n_units = a.n_heads >> args.pack_shift;
  const int list = log2_of((S::kRows >> args.pack_shift) / query_tile_size(0));
  args.tiles = step.query_tiles[list];
  return step.n_query_tiles[list] * args.n_units;
}

template <class S>
void launch(PrefillArgs args, const Backend::AttentionArgs& a, const StepData& step, cudaStream_t stream) {
  static const cudaError_t raised = cudaFuncSetAttribute(prefill_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  check(raised, "shared memory of prefill attention");
  const int n_blocks = choose_tiles<S>(args, a, step);
  prefill_kernel<S><<<unsigned(n_blocks), S::kThreads, S::kSharedBytes, stream>>>(args);
}

/// Rows at work on a multiprocessor at a time; a block takes 1 KiB of shared memory for itself.
template <class S>
int resident_rows() {
  return S::kRows * std::min(S::kBlocksPerSm, limits().shared_per_sm / (S::kSharedBytes + 1024));
}

/// Tiles of 128 rows read keys and values half as often. They are faster where more rows are at work with them (an H100: head_dim 128) and
/// there are enough of them to fill the GPU.
template <class Narrow, class Wide>
void launch_best(const PrefillArgs& args, const Backend::AttentionArgs& a, const StepData& step, cudaStream_t stream) {
  PrefillArgs wide = args;
  const bool better = resident_rows<Wide>() > resident_rows<Narrow>() && choose_tiles<Wide>(wide, a, step) >= limits().n_sms;
  if (better)
    launch<Wide>(args, a, step, stream);
  else
    launch<Narrow>(args, a, step, stream);
}

}  // namespace

void attention_prefill_cuda(Tensor out, Tensor q, const Backend::AttentionArgs& a, const StepData& step, cudaStream_t stream) {
  PrefillArgs args{};
  args.out = nv(out.b16());
  args.q = nv(q.b16());
  args.out_stride = out.stride;
  args.q_stride = q.stride;
  args.pool = view(*a.pool, a.layer);
  args.rows = step.rows;
  args.table = a.sliding ? step.sliding_table : step.global_table;
  args.group_shift = log2_of(a.n_heads / a.n_kv_heads);
  args.window = a.window ? a.window : INT_MAX;
  args.scale_log2 = a.scale * 1.4426950408889634f;
  args.sliding = a.sliding;
  switch (a.head_dim) {
    case 64:
      launch<Shape<64, 1, 4>>(args, a, step, stream);
      break;
    case 128:
      launch_best<Shape<128, 1, 4>, Shape<128, 2, 4>>(args, a, step, stream);
      break;
    case 256:
      launch_best<Shape<256, 1, 4>, Shape<256, 1, 8>>(args, a, step, stream);
      break;
    default:
      throw Error("UNSUPPORTED", "head_dim " + std::to_string(a.head_dim) + " on CUDA: 64, 128 and 256 are built");
  }
  check_launch("prefill attention");
}

}  // namespace lorikeet::cuda
