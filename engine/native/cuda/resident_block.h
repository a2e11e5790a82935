// The block of a resident kernel: see decode_resident.cu.
#pragma once
#include "decode_tile.h"
#include "resident_plan.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

__device__ inline int lane_of_thread() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));  // kept, not read again and again
  return lane;
}

template <int T, int KT, int N, int G>
struct Block {
  using P = BlockPlan<T, KT, N, G>;
  static constexpr int D = P::kHead, kTileSums = P::kTileSums;
  // What a lane has of a tile's 64 columns of T tokens, where work is done column by column: neighbours in fragment order, of one token.
  static constexpr int kPer = 2 * T, kLanes = kWarp / T;
  const ResidentArgs& p;
  const int lane = lane_of_thread(), warp = threadIdx.x / kWarp;
  Stages<P> stages;
  float* words;  // of the layer, of this step's set
  int buffer = 0;

  template <class V>
  __device__ static V* at(int offset) {
    return reinterpret_cast<V*>(resident_memory() + offset);
  }
  __device__ static const ResidentLayer& layer_at(int i) { return at<ResidentLayer>(P::kLayers)[i]; }
  __device__ static float* squares(int of) { return at<float>(P::kSquares) + of * N * T; }  // 0, 1: of y in turn; 2: of x
  __device__ float* sums() const { return at<float>(P::kSums) + (P::kBuffers > 1 ? buffer * P::kOneBuffer : 0); }
  __device__ float* x(int kt) const { return at<float>(P::kStream) + (warp * KT + kt) * kTileCols * T; }
  __device__ static const Share& share(int kind) { return at<Share>(P::kShares)[kind]; }
  __device__ uint32_t* normed(int kt) const { return at<uint32_t>(P::kNormed) + (warp * KT + kt) * kWarp * T; }
  __device__ static void sync() { asm volatile("bar.sync 1, %0;" ::"n"(P::kThreads) : "memory"); }

  /// Column of the pair at place lane * kPer + i of a tile.
  __device__ int column_of(int i) const {
    const int place = lane % kLanes * kPer + i;
    return place % 16 / 4 * 16 + place % 4 / 2 * 8 + place / 16 * 2;
  }

  __device__ explicit Block(const ResidentArgs& args) : p(args) {
    constexpr int kAll = P::kThreads + kWarp;
    const auto* from = reinterpret_cast<const uint32_t*>(p.layers);
    for (int i = threadIdx.x; i < int(sizeof(ResidentLayer) / 4) * (p.n_layers + 1); i += kAll) at<uint32_t>(P::kLayers)[i] = from[i];
    for (int i = threadIdx.x; i < int(sizeof(typename P::Attention) / 4); i += kAll) at<uint32_t>(P::kAttention)[i] = 0;
    if (threadIdx.x == P::kThreads) Stages<P>::init();
    if (warp < 2) fill_unit(at<AttentionUnit>(P::kUnits)[warp], p, warp, T);
    if (warp >= 2 && warp < 2 + kKinds && lane == 0) at<Share>(P::kShares)[warp - 2] = share_of<P>(p, warp - 2);
    __syncthreads();
    if (warp == N) return;
    build_table();
#pragma unroll
    for (int kt = 0; kt < KT; kt++) {
      float v[kPer];
      const float* row = p.x + lane / kLanes * P::kColumns + (warp + kt * N) * kTileCols;
#pragma unroll
      for (int i = 0; i < kPer; i++) v[i] = row[column_of(i & ~1) + (i & 1)];
      store_floats(x(kt), v, lane);
    }
    sync();
  }
  __device__ static void build_table() {
    auto* table = at<uint4>(0);
    for (int i = threadIdx.x; i < 256 * kWarp / 4; i += P::kThreads) {
      const int byte = i / (kWarp / 4);
      const uint32_t word = pack_bf16(nf4_code[byte & 15], nf4_code[byte >> 4]);
      table[i] = uint4{word, word, word, word};
    }
  }

  /// Over the lanes of a token.
  __device__ static float sum_of_token(float v) {
#pragma unroll
    for (int o = 1; o < kLanes; o *= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
  }
  __device__ void put_square(float* to, float square) const {
    square = sum_of_token(square);
    if (lane % kLanes == 0) to[warp * T + lane / kLanes] = square;
  }
  /// A norm's factor, of the lane's token.
  __device__ float factor_of(const float* squares) const {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < N; w += kLanes)
      if (w + lane % kLanes < N) sum += squares[(w + lane % kLanes) * T + lane / kLanes];
    return rsqrtf(sum_of_token(sum) / float(P::kColumns) + p.eps);
  }

  /// A lane's columns of a tile, awaited.
  __device__ void await_columns(float (&y)[kPer], const float* from) const {
    uint32_t v[kPer];
    look_until_full([&] {
      bool empty = false;
      look_at(v, from, lane);
#pragma unroll
      for (int i = 0; i < kPer; i++) empty |= is_empty(v[i]);
      return empty;
    });
#pragma unroll
    for (int i = 0; i < kPer; i++) y[i] = __uint_as_float(v[i]);
  }

  /// Until one value of each of the tile's four row tiles is there: many lanes that look at many values would be in the writers' way.
  __device__ void await_rows(const float* tile) const {
    const float* one = tile + float_place<T>(T - 1, fragment_offset(lane % 4 * kTileRows + 15));
    look_until_full([&] { return lane < 4 && is_empty(look(one)); });
  }

  /// x += rmsnorm(y), y awaited if there is one; normed = x * (1 + the next norm's weights), less that norm's factor.
  __device__ void next_input(const float* from, int turn) {
    float y[KT][kPer] = {}, square = 0;
    if (from) {
#pragma unroll
      for (int kt = 0; kt < KT; kt++) {
        const float* mine = from + (warp + kt * N) * kTileCols * T;
        if (T >= 4) await_rows(mine);
        await_columns(y[kt], mine);
      }
    }
    __syncwarp();
#pragma unroll
    for (int kt = 0; kt < KT; kt++)
#pragma unroll
      for (int i = 0; i < kPer; i++) square += y[kt][i] * y[kt][i];
    put_square(squares(turn), square);
    sync();
    const float factor = factor_of(squares(turn));
    square = 0;
#pragma unroll
    for (int kt = 0; kt < KT; kt++) {
      const float* post = reinterpret_cast<const float*>(stages.acquire()) + warp * kTileCols;
      const float* next = post + P::kNormBytes / 4;
      float v[kPer];
      uint32_t packed[T];
      load_floats(v, x(kt), lane);
#pragma unroll
      for (int i = 0; i < kPer; i += 2) {
        const float2 after = *reinterpret_cast<const float2*>(next + column_of(i));
        if (from) {
          const float2 by = *reinterpret_cast<const float2*>(post + column_of(i));
          v[i] += y[kt][i] * factor * (1.0f + by.x);
          v[i + 1] += y[kt][i + 1] * factor * (1.0f + by.y);
        }
        square += v[i] * v[i] + v[i + 1] * v[i + 1];
        packed[i / 2] = pack_bf16(v[i] * (1.0f + after.x), v[i + 1] * (1.0f + after.y));
      }
      auto* to = normed(kt) + word_place<T>(lane / kLanes, lane % kLanes * T);
      if constexpr (T == 1)
        *to = packed[0];
      else if constexpr (T == 2)
        *reinterpret_cast<uint2*>(to) = {packed[0], packed[1]};
      else
#pragma unroll
        for (int i = 0; i < T; i += 4) *reinterpret_cast<uint4*>(to + i * T * 4) = {packed[i], packed[i + 1], packed[i + 2], packed[i + 3]};
      store_floats(x(kt), v, lane);
      stages.release(lane);
    }
    put_square(squares(2), square);
    __syncwarp();
  }

  /// Sums of row tile i of this warp: [row][T].
  __device__ void put(int i, const float (&total)[4]) const {
    float* to = sums() + (warp * P::kAtOnce + i) * kTileSums;
    const int row = lane / 4, j = lane % 4;
    if constexpr (T == 1) {
      if (j == 0) to[row] = total[0], to[row + 8] = total[2];
    } else if (j * 2 < T) {
      *reinterpret_cast<float2*>(to + row * T + j * 2) = {total[0], total[1]};
      *reinterpret_cast<float2*>(to + (row + 8) * T + j * 2) = {total[2], total[3]};
    }
  }

  /// total += scale * (codes x fragments): multiply_tile of decode_tile.h, for one tile.
  __device__ void multiply(float (&total)[4], uint4 words, float2 scale, const uint4 (&b)[2]) const {
    float part[4] = {};
#pragma unroll
    for (int s = 0; s < 4; s++) {
      const uint32_t word = reinterpret_cast<const uint32_t*>(&words)[s];
      uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const uint32_t at = ((i == 0 ? word << 7 : word >> (8 * i - 7)) & 0x7f80) | uint32_t(lane * 4);
        a[i] = *reinterpret_cast<const uint32_t*>(resident_memory() + at);
      }
      mma_m16n8k16(part, a, reinterpret_cast<const uint32_t*>(&b[s / 2])[s % 2 * 2],
                   reinterpret_cast<const uint32_t*>(&b[s / 2])[s % 2 * 2 + 1]);
    }
    total[0] += scale.x * part[0];
    total[1] += scale.x * part[1];
    total[2] += scale.y * part[2];
    total[3] += scale.y * part[3];
  }
  /// Fragments of a column tile that other blocks made; lanes beyond the tokens, or all where there is no such tile, keep zeros.
  __device__ void await_fragments(uint4 (&b)[2], const uint4* from, bool mine) const {
    look_until_full([&] {
      if (mine) b[0] = look4(from), b[1] = look4(from + T * 4);
      return is_empty(b[0]) || is_empty(b[1]);
    });
  }

  __device__ void product(int kind) {
    const Share& s = share(kind);
    const bool of_stream = kind == kQkv || kind == kGateUp, pairs = kind == kGateUp, mine = lane < T * 4;
    const int rows_at_once = pairs ? P::kAtOnce / 2 : P::kAtOnce, step = pairs ? N : 2 * N;
    const auto* shared = at<uint4>(P::kNormed + warp * KT * T * kWarp * 4) + lane;
    const auto* from = reinterpret_cast<const uint4*>(words + (kind == kDown ? p.places.inner : p.places.attended)) + lane;
#pragma unroll 1
    for (int first = 0; first < s.n; first += rows_at_once) {
      const int n = min(rows_at_once, s.n - first);
      if (P::kBuffers > 1)
        buffer ^= 1;
      else if (!of_stream || first)
        sync();  // the sums before these have been read
#pragma unroll 1
      for (int i = 0; i < n; i++) {
        float total[2][4] = {};
        uint4 b[2][2] = {};
#pragma unroll 1
        for (int base = 0, kt = 0; base < s.k_tiles; base += step, kt++) {
          const bool second = !pairs && base + N < s.k_tiles;  // whether the stage has tiles of N columns more
          if (of_stream) {
            const uint4* at = shared + (pairs ? kt : kt * 2) * T * 8;
            if (mine) b[0][0] = at[0], b[0][1] = at[T * 4];
            at += T * 8;
            if (second && mine) b[1][0] = at[0], b[1][1] = at[T * 4];
          } else {
            await_fragments(b[0], from + (base + warp) * T * 8, mine && base + warp < s.k_tiles);
            if (second) await_fragments(b[1], from + (base + N + warp) * T * 8, mine && base + N + warp < s.k_tiles);
          }
          if (pairs) b[1][0] = b[0][0], b[1][1] = b[0][1];
          __syncwarp();
          const char* stage = stages.acquire();
          const uint4* codes = reinterpret_cast<const uint4*>(stage) + warp * kWarp + lane;
          const float2* scales = reinterpret_cast<const float2*>(stage + P::kScales) + warp * (kTileRows / 2) + lane / 4;
          const uint4 low = codes[0], high = codes[N * kWarp];  // of the second tile, or nothing of meaning
          const float2 low_scale = scales[0], high_scale = scales[N * (kTileRows / 2)];
          stages.release(lane);
          if (base + warp < s.k_tiles) multiply(total[0], low, low_scale, b[0]);
          if (pairs || (second && base + N + warp < s.k_tiles)) multiply(total[1], high, high_scale, b[1]);
        }
        if (pairs) {
          put(i * 2, total[0]);
          put(i * 2 + 1, total[1]);
        } else {
#pragma unroll
          for (int e = 0; e < 4; e++) total[0][e] += total[1][e];
          put(i, total[0]);
        }
      }
      sync();
      publish_rows(kind, s.first + first * s.step, s, n);
    }
  }

  /// The sums of n row tiles (of gate_up: n pairs) to where the next part of the layer finds them. Neighbouring lanes share an output.
  __device__ void publish_rows(int kind, int first, const Share& s, int n) const {
    constexpr int kShare = T <= 2 ? 4 : 2, kStride = P::kAtOnce * kTileSums;
    const auto sum_of = [&](const float* from) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < N; w += kShare)
        if (w + lane % kShare < N) sum += from[(w + lane % kShare) * kStride];
#pragma unroll
      for (int o = 1; o < kShare; o *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
      return sum;
    };
#pragma unroll 1
    for (int base = warp * (kWarp / kShare); base < n * kTileSums; base += N * (kWarp / kShare)) {
      const int e = min(base + lane / kShare, n * kTileSums - 1), i = e / kTileSums, row = e / T % kTileRows, t = e % T;
      const int r = first + i * s.step;
      const float* from = sums() + (kind == kGateUp ? i * 2 : i) * kTileSums + e % kTileSums;
      float v = sum_of(from);
      if (kind == kQkv || kind == kGateUp) {
        const float factor = __shfl_sync(0xffffffffu, factor_of(squares(2)), t * kLanes);
        v *= factor;
        if (kind == kGateUp) v = geglu(v, sum_of(from + kTileSums) * factor);
      }
      const float after = __shfl_down_sync(0xffffffffu, v, T * kShare);  // of the next row
      if (lane % kShare != 0 || base + lane / kShare >= n * kTileSums) continue;
      if (kind == kGateUp) {
        if (row % 2 == 0)
          publish(reinterpret_cast<uint32_t*>(words + p.places.inner) + r / 4 * T * kWarp +
                      word_place<T>(t, row % 8 / 2 * 8 + r % 4 * 2 + row / 8),
                  pack_bf16(v, after));
      } else if (kind == kQkv) {
        publish(words + p.places.qkv + t * (p.n_heads + 2 * p.n_kv_heads) * D + r * kTileRows + row, v);
      } else {
        const int column = r * kTileRows + row;
        publish(words + (kind == kDown ? p.places.out : p.places.mid) + column / kTileCols * T * kTileCols +
                    float_place<T>(t, fragment_offset(column % kTileCols)),
                v);
      }
    }
  }

  using Split = SplitAttention<D, G, P::kThreads>;
  __device__ static Split split_of(const ResidentArgs& p, int layer) {
    const ResidentLayer& l = layer_at(layer);
    return {p,
            p.attention[!l.sliding],
            l,
            at<AttentionUnit>(P::kUnits)[!l.sliding],
            *at<typename P::Attention>(P::kAttention),
            at<float[G][D]>(P::kSums)};
  }
  __device__ static void attend(const ResidentArgs& p, float* words, int layer) {
    const Split split = split_of(p, layer);
    if (split.unit.t < 0) return;
    float* to = words + p.places.sums + (split.unit.split * p.q_tiles * T + split.unit.t) * kTileCols;
    split.run(
        words + p.places.qkv, [&](int column) { return to + column / kTileCols * T * kTileCols + fragment_offset(column % kTileCols); },
        reinterpret_cast<float2*>(words + p.places.stats) + (split.unit.t * split.a.n_splits + split.unit.split) * p.n_heads);
  }

  /// Attention's output of token t, two columns of a tile a lane, awaited and merged from its splits, eight at a time.
  __device__ uint32_t merge(int t, int tile, int n_splits) const {
    const float* sums = words + p.places.sums + (tile * T + t) * kTileCols + lane * 2;
    const float* stats = words + p.places.stats + (t * n_splits * p.n_heads + tile * kTileCols / D) * 2;
    const int stride = p.q_tiles * T * kTileCols;
    float top = -INFINITY, total = 0;
    float2 v{};
#pragma unroll 1
    for (int base = 0; base < n_splits; base += 8) {  // lanes 0 to 7, and their like, know a split's statistics each
      float2 stat{-INFINITY, 0}, part[8];
      const bool known = base + lane % 8 < n_splits;
      look_until_full([&] {
        if (known) stat = look2(stats + (base + lane % 8) * p.n_heads * 2);
        bool empty = is_empty(stat);
#pragma unroll
        for (int i = 0; i < 8; i++) {
          part[i] = base + i < n_splits ? look2(sums + (base + i) * stride) : float2{};
          empty |= is_empty(part[i]);
        }
        return empty;
      });
      float high = stat.x;
#pragma unroll
      for (int o = 1; o < 8; o *= 2) high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, o));
      high = fmaxf(high, top);
      const float by = stat.y > 0 ? exp2_approx(stat.x - high) : 0, kept = top > -INFINITY ? exp2_approx(top - high) : 0;
      float sum = by * stat.y;
#pragma unroll
      for (int o = 1; o < 8; o *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
      top = high;
      total = total * kept + sum;
      v.x *= kept, v.y *= kept;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float weight = __shfl_sync(0xffffffffu, by, i);
        v.x += weight * part[i].x, v.y += weight * part[i].y;
      }
    }
    const float inverse = total > 0 ? 1.0f / total : 0;
    return pack_bf16(v.x * inverse, v.y * inverse);
  }
  __device__ void merge_splits(int n_splits) const {
#pragma unroll 1
    for (int u = blockIdx.x + warp * gridDim.x; u < T * p.q_tiles; u += gridDim.x * N)
      publish(reinterpret_cast<uint32_t*>(words + p.places.attended) + u / T * T * kWarp + word_place<T>(u % T, lane),
              merge(u % T, u / T, n_splits));
  }

  /// The other set's words of a layer, as far as they were used.
  __device__ void empty_other(int layer) const {
    const DecodeStep& step = *p.step;
    const int n = p.places.sums + step.used_splits[!layer_at(layer).sliding] * T * p.q_tiles * kTileCols;
    auto* other = reinterpret_cast<uint4*>(p.exchange + (int64_t(step.set ^ 1) * p.n_layers + layer) * p.places.end);
    constexpr uint4 kEmpty{kEmptyWord, kEmptyWord, kEmptyWord, kEmptyWord};
#pragma unroll 1
    for (int i = blockIdx.x * P::kThreads + threadIdx.x; i < n / 4; i += gridDim.x * P::kThreads) other[i] = kEmpty;
  }

  /// The last norm's rows, of the tokens that have an output.
  __device__ void write_hidden() const {
    sync();  // x's squares
    const float factor = factor_of(squares(2));
    const float* weights = layer_at(p.n_layers).norms[1];
#pragma unroll 1
    for (int s = 0; s < p.n_outputs; s++) {
      if (p.step->out_tokens[s] != lane / kLanes) continue;
#pragma unroll 1
      for (int i = 0; i < KT * kPer; i += 2) {
        const int column = (warp + i / kPer * N) * kTileCols + column_of(i % kPer);
        const int f = i % kPer;
        const float* v = x(i / kPer) + (T == 1 ? lane * 2 : f / 4 * kWarp * 4 + lane * 4 + f % 4);
        *reinterpret_cast<uint32_t*>(p.hidden + int64_t(s) * P::kColumns + column) =
            pack_bf16(v[0] * factor * (1.0f + weights[column]), v[1] * factor * (1.0f + weights[column + 1]));
      }
    }
  }

  /// One loop over all products, not one body a layer: its instructions must stay in their cache.
  __device__ void run() {
    if (warp == N) {
      if (lane == 0) stages.ask_all(&layer_at(0), p.n_layers, &share(0));
      return;
    }
    const float* y = nullptr;
#pragma unroll 1
    for (int phase = 0;; phase++) {
      const int layer = phase / kKinds, kind = phase % kKinds;
      if (kind == kQkv) {
        if (layer == p.n_layers && blockIdx.x > 0) return;
        if (layer < p.n_layers)
          if (const Split split = split_of(p, layer); split.unit.t >= 0) split.prefetch();
      }
      if (kind == kGateUp) y = words + p.places.mid;
      if (kind == kQkv || kind == kGateUp) next_input(y, kind == kQkv);
      if (layer == p.n_layers) return write_hidden();
      if (kind == kQkv) words = p.exchange + (int64_t(p.step->set) * p.n_layers + layer) * p.places.end;
      if (kind == kO) {
        empty_other(layer);
        attend(p, words, layer);
        merge_splits(p.attention[!layer_at(layer).sliding].n_splits);
      }
      product(kind);
      if (kind == kDown) y = words + p.places.out;
    }
  }
};

}  // namespace lorikeet::cuda
#endif
