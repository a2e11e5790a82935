// The block of a resident kernel: see decode_resident.cu. Its parts are in resident_{norm,product,lora,merge}.h.
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

template <class P>
struct Block {
  static constexpr int T = P::T, KT = P::KT, N = P::N, G = P::G, D = P::kHead, kTileSums = P::kTileSums;
  // What a lane has of a tile's 64 columns of T tokens, where work is done column by column: neighbours in fragment order, of one token.
  static constexpr int kPer = 2 * T, kLanes = kWarp / T;
  static constexpr int kShare = T <= 2 ? 4 : 2;  // neighbouring lanes that share an output
  static constexpr int kRanks = 16 / kShare;     // that one of them has of 16
  struct alignas(kRanks * 2) RowOfB {
    uint32_t words[kRanks / 2];
  };
  using Split = SplitAttention<D, G, P::kThreads>;
  const ResidentArgs& p;
  const int lane = lane_of_thread(), warp = threadIdx.x / kWarp;
  Stages<P> stages;
  float* words;  // of the layer, of this step's set
  int layer = 0, buffer = 0;

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
  __device__ static AdapterState& adapters() { return *at<AdapterState>(P::kAdapters); }
  __device__ static ResidentPair* pairs(int layer) { return at<ResidentPair>(P::kPairs) + layer % kPairLayers * kModules * T; }
  /// A x of a module of a product: [rounds][T][kDecodeRank].
  __device__ float* shrunk(int kind, int module) const {
    return words + p.places.shrunk[kind] + module * ceil_div(share(kind).k_tiles, N) * T * kDecodeRank;
  }
  /// The same in shared memory, its rounds summed, of a token.
  __device__ float* shrunk_here(int module, int t) const {
    return at<float>(P::kShrunk) + (((P::kBuffers > 1 ? buffer : 0) * 3 + module) * T + t) * kDecodeRank;
  }
  __device__ static bool reads_stream(int kind) { return kind == kQkv || kind == kGateUp; }
  /// Fragments of o's or down's input.
  __device__ const uint4* fragments(int kind) const {
    return reinterpret_cast<const uint4*>(words + (kind == kDown ? p.places.inner : p.places.attended)) + lane;
  }

  /// Column of the pair at place lane * kPer + i of a tile.
  __device__ int column_of(int i) const {
    const int place = lane % kLanes * kPer + i;
    return place % 16 / 4 * 16 + place % 4 / 2 * 8 + place / 16 * 2;
  }

  __device__ explicit Block(const ResidentArgs& args) : p(args) {
    const auto* from = reinterpret_cast<const uint32_t*>(p.layers);
    for (int i = threadIdx.x; i < int(sizeof(ResidentLayer) / 4) * (p.n_layers + 1); i += P::kAllThreads)
      at<uint32_t>(P::kLayers)[i] = from[i];
    for (int i = threadIdx.x; i < int(sizeof(typename P::Attention) / 4); i += P::kAllThreads) at<uint32_t>(P::kAttention)[i] = 0;
    if (threadIdx.x == P::kThreads) Stages<P>::init();
    if (warp < 2) fill_unit(at<AttentionUnit>(P::kUnits)[warp], p, warp, T);
    if (warp >= 2 && warp < 2 + kKinds && lane == 0) at<Share>(P::kShares)[warp - 2] = share_of<P>(p, warp - 2);
    if (P::kLora && threadIdx.x == P::kThreads + kWarp) fill_adapters(adapters(), *p.step, T);
    __syncthreads();
    if (warp >= N) return;
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
  /// Over the lanes that share an output.
  __device__ static float sum_of_share(float v) {
#pragma unroll
    for (int o = 1; o < kShare; o *= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
  }
  /// Over the warps that have put theirs.
  __device__ float sum_of_warps(const float* from) const {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < N; w += kShare)
      if (w + lane % kShare < N) sum += from[(w + lane % kShare) * P::kAtOnce * kTileSums];
    return sum_of_share(sum);
  }

  // resident_norm.h
  __device__ void await_columns(float (&y)[kPer], const float* from) const;
  __device__ void await_rows(const float* tile) const;
  __device__ void next_input(const float* from, int turn);
  __device__ void write_hidden() const;

  // resident_product.h
  __device__ void put(int i, const float (&total)[4]) const;
  __device__ void multiply(float (&total)[4], uint4 words, float2 scale, const uint4 (&b)[2]) const;
  __device__ void await_fragments(uint4 (&b)[2], const uint4* from, bool mine) const;
  __device__ void product(int kind);
  __device__ void publish_rows(int kind, int first, const Share& s, int n) const;

  // resident_lora.h
  __device__ void fetch_pairs() const;
  __device__ void prefetch_b(const ResidentPair* pairs) const;
  __device__ void shrink(int kind);
  __device__ void publish_shrunk(int kind, const ShrinkUnit& unit) const;
  __device__ void await_shrunk(int kind) const;
  __device__ RowOfB load_b(const ModuleRow& at, int t, int base) const;
  __device__ float expanded(float v, int kind, const ModuleRow& at, int t, RowOfB b) const;

  // resident_merge.h
  __device__ static Split split_of(const ResidentArgs& p, int layer);
  __device__ static void attend(const ResidentArgs& p, float* words, int layer);
  __device__ uint32_t merge(int t, int tile, int n_splits) const;
  __device__ void merge_splits(int n_splits) const;
  __device__ void empty_other(int layer) const;

  /// One loop over all products, not one body a layer: its instructions must stay in their cache.
  __device__ void run() {
    if (warp == N) {
      if (lane == 0) stages.ask_all(p, &layer_at(0), &share(0));
      return;
    }
    if (P::kLora && warp > N) return fetch_pairs();
    const float* y = nullptr;
#pragma unroll 1
    for (int phase = 0;; phase++) {
      const int kind = phase % kKinds;
      layer = phase / kKinds;
      if (kind == kQkv) {
        if (layer == p.n_layers && blockIdx.x > 0) return;
        if (P::kLora && threadIdx.x == 0) release_shared(&adapters().current, layer);
        if (layer < p.n_layers)
          if (const Split split = split_of(p, layer); split.unit.t >= 0) split.prefetch();
      }
      if (kind == kGateUp) y = words + p.places.mid;
      if (reads_stream(kind)) next_input(y, kind == kQkv);
      if (layer == p.n_layers) return write_hidden();
      if (kind == kQkv) words = p.exchange + (int64_t(p.step->set) * p.n_layers + layer) * p.places.end;
      if (kind == kO) {
        empty_other(layer);
        attend(p, words, layer);
        merge_splits(p.attention[!layer_at(layer).sliding].n_splits);
      }
      if constexpr (P::kLora) shrink(kind);
      product(kind);
      if (kind == kDown) y = words + p.places.out;
    }
  }
};

}  // namespace lorikeet::cuda
#endif
