// Attention of one-token rows inside a resident kernel: a block takes the query heads of one kv head and one split of a token's keys; a
// warp 16 keys at a time, which are a block of the cache, by tensor cores.
#pragma once
#include "decode_exchange.h"
#include "decode_resident.h"
#include "mma_sm80.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

constexpr float kLog2e = 1.4426950408889634f;
constexpr int kKeyWarps = 6;  // that take keys; where there are twice as many, each has a partner and half of the columns

/// An 8x8 matrix of b16 whose row l / 4 lane l has two of, transposed.
__device__ inline uint32_t transposed(uint32_t v) {
  uint32_t r;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
  return r;
}

constexpr int kBlocksInShared = 40;

/// What a block has of attention in the layers of one kind, the same in all of them: one split of a token's keys, of whole blocks of the
/// cache.
struct AttentionUnit {
  int t, kv_head, split;  // t < 0: none
  int position, first_key, begin, end;
  int32_t blocks[kBlocksInShared];                                                           // from begin on
  __device__ bool own() const { return begin < end && end == position / kBlockTokens + 1; }  // the token's own key is the last
};

/// One warp.
__device__ inline void fill_unit(AttentionUnit& unit, const ResidentArgs& p, int kind, int n_tokens) {
  const ResidentAttention& a = p.attention[kind];
  const int lane = threadIdx.x % kWarp, u = gridDim.x - 1 - blockIdx.x, t = u / a.n_splits / p.n_kv_heads;
  if (lane == 0) unit.t = t < n_tokens ? t : -1;
  if (t >= n_tokens) return;
  const int split = u % a.n_splits, position = p.step->positions[t], first_key = a.window ? max(0, position - a.window + 1) : 0;
  const int first = first_key / kBlockTokens, n = position < 0 ? 0 : position / kBlockTokens + 1 - first, chunk = ceil_div(n, a.n_splits);
  const int begin = first + split * chunk, end = min(first + n, begin + chunk);
  if (lane == 0) {
    unit.kv_head = u / a.n_splits % p.n_kv_heads;
    unit.split = split;
    unit.position = position;
    unit.first_key = first_key;
    unit.begin = begin;
    unit.end = end;
  }
  const DeviceRow& row = p.step->rows[t];
  const int32_t* table = p.tables + (kind == 0 ? row.sliding_begin - row.sliding_first : row.global_begin);
  for (int i = lane; i < min(end - begin, kBlocksInShared); i += kWarp) unit.blocks[i] = table[begin + i];
}

template <int D, int G>
struct ResidentAttentionShared {
  static constexpr int kPitch = D + 32;  // rows of q, so that no two of them meet in a bank
  nv_bf16 q[8][kPitch];                  // heads beyond G are zero
  float4 scores[kKeyWarps][2][kWarp];    // of partners, over their columns
  float2 stats[kKeyWarps][G];            // highest score (of log2), sum of 2^(score - highest)
};

template <int D, int G, int THREADS>
struct SplitAttention {
  using Shared = ResidentAttentionShared<D, G>;
  static constexpr int kWarps = THREADS / kWarp, kPer = D / kWarp;
  static constexpr int kPartners = kWarps >= 2 * kKeyWarps ? 2 : 1, kColumns = D / kPartners;
  const ResidentArgs& p;
  const ResidentAttention& a;
  const ResidentLayer& l;
  const AttentionUnit& unit;
  Shared& shared;
  float (*sums)[G][D];  // [kKeyWarps]

  __device__ static void sync() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

  __device__ nv_bf16* block_at(int block) const {
    const int i = block - unit.begin;
    int32_t id;
    if (i < kBlocksInShared) {
      id = unit.blocks[i];
    } else {
      const DeviceRow& row = p.step->rows[unit.t];
      id = p.tables[(l.sliding ? row.sliding_begin - row.sliding_first : row.global_begin) + block];
    }
    return a.pool.keys(id, l.pool_layer, unit.kv_head);
  }

  /// Asks the cache of the device for the keys, long before they are needed.
  __device__ void prefetch() const {
    constexpr int kLine = 128, kLines = 2 * kBlockTokens * D * 2 / kLine;
#pragma unroll 1
    for (int i = threadIdx.x; i < (unit.end - unit.begin) * kLines; i += THREADS)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(reinterpret_cast<const char*>(block_at(unit.begin + i / kLines)) + i % kLines * kLine));
  }

  /// One warp: a head of q or k, rope(rmsnorm(x)), as bf16.
  __device__ void norm_rope(nv_bf16* to, const float* x, const float* w) const {
    const int lane = threadIdx.x % kWarp;
    const float* rope = a.rope + unit.t * D;
    float v[kPer], weight[kPer], turn[kPer], sum = 0;
#pragma unroll
    for (int i = 0; i < kPer; i++) weight[i] = __ldg(w + lane + i * kWarp), turn[i] = __ldg(rope + lane + i * kWarp);
    await(v, x + lane, kWarp);
#pragma unroll
    for (int i = 0; i < kPer; i++) sum += v[i] * v[i];
    const float r = rsqrtf(warp_sum(sum) / float(D) + p.eps);
#pragma unroll
    for (int i = 0; i < kPer / 2; i++) {
      const float low = v[i] * r * (1.0f + weight[i]), high = v[i + kPer / 2] * r * (1.0f + weight[i + kPer / 2]);
      const float cos = turn[i], sin = turn[i + kPer / 2];
      to[lane + i * kWarp] = __float2bfloat16(low * cos - high * sin);
      to[lane + i * kWarp + D / 2] = __float2bfloat16(high * cos + low * sin);
    }
  }

  /// Queries to shared memory; the token's own key and value, where this split has them, to the cache.
  __device__ void take_token(const float* qkv) const {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const float* x = qkv + unit.t * (p.n_heads + 2 * p.n_kv_heads) * D;
    const int n = unit.own() ? G + 2 : G, kv_head = unit.kv_head;
    for (int h = warp; h < n; h += kWarps) {
      nv_bf16* own = h < G ? nullptr : block_at(unit.end - 1) + unit.position % kBlockTokens * D;
      if (h <= G) {
        norm_rope(h < G ? shared.q[h] : own, x + (h < G ? kv_head * G + h : p.n_heads + kv_head) * D, h < G ? l.q_norm : l.k_norm);
      } else {
        float v[kPer];
        await(v, x + (p.n_heads + p.n_kv_heads + kv_head) * D + lane, kWarp);
#pragma unroll
        for (int i = 0; i < kPer; i++) own[kBlockTokens * D + lane + i * kWarp] = __float2bfloat16(v[i]);
      }
    }
  }

  /// Scores of 16 keys over kColumns columns from `column` on: [0, 1] of key g, [2, 3] of key g + 8, of heads 2 j and 2 j + 1.
  __device__ void score(float (&c)[4], const nv_bf16* keys, int column) const {
    const int g = threadIdx.x % kWarp / 4, j = threadIdx.x % 4;
    const nv_bf16 *upper = keys + g * D + column + j * 8, *lower = upper + 8 * D;
    constexpr int kAtOnce = 4;
#pragma unroll 1
    for (int base = 0; base < kColumns; base += kAtOnce * 32) {
      uint4 u[kAtOnce], v[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        u[i] = __ldcg(reinterpret_cast<const uint4*>(upper + base + i * 32));
        v[i] = __ldcg(reinterpret_cast<const uint4*>(lower + base + i * 32));
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        const uint4 q = *reinterpret_cast<const uint4*>(&shared.q[g][column + base + i * 32 + j * 8]);
        mma_m16n8k16(c, {u[i].x, v[i].x, u[i].y, v[i].y}, q.x, q.y);
        mma_m16n8k16(c, {u[i].z, v[i].z, u[i].w, v[i].w}, q.z, q.w);
      }
    }
  }
  /// With what the partner has of them.
  __device__ void add_partner(float (&c)[4], int of, int partner) const {
    const int lane = threadIdx.x % kWarp;
    shared.scores[of][partner][lane] = {c[0], c[1], c[2], c[3]};
    sync_partners(of);
    const float4 other = shared.scores[of][partner ^ 1][lane];
    c[0] += other.x, c[1] += other.y, c[2] += other.z, c[3] += other.w;
    sync_partners(of);  // before the next keys' scores
  }
  __device__ static void sync_partners(int of) { asm volatile("bar.sync %0, 64;" ::"r"(2 + of) : "memory"); }

  /// Values of keys 2 j, 2 j + 1, 2 j + 8 and 2 j + 9, those with a bit in `valid`: columns [8 g, 8 g + 8).
  __device__ void load_values(uint4 (&v)[4], const nv_bf16* values, uint32_t valid) const {
    const int g = threadIdx.x % kWarp / 4, j = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int key = j * 2 + i % 2 + i / 2 * 8;
      v[i] = valid >> key & 1 ? __ldcg(reinterpret_cast<const uint4*>(values + key * D + g * 8)) : uint4{};
    }
  }
  /// to[head] = kept * to[head] + weights x values, 64 columns.
  __device__ void add_values(float* to, float kept, uint32_t low_keys, uint32_t high_keys, const uint4 (&v)[4], bool first) const {
    const int g = threadIdx.x % kWarp / 4, j = threadIdx.x % 4;
    float out[2][8];
#pragma unroll
    for (int m = 0; m < 8; m++) {
      const auto word = [&](int i) { return reinterpret_cast<const uint32_t*>(&v[i])[m / 2]; };
      float c[4] = {};
      mma_m16n8k16(c, {low_keys, 0, high_keys, 0}, __byte_perm(word(0), word(1), m % 2 ? 0x7632 : 0x5410),
                   __byte_perm(word(2), word(3), m % 2 ? 0x7632 : 0x5410));
      out[0][m] = c[0], out[1][m] = c[1];
    }
    if (g >= G) return;
#pragma unroll
    for (int i = 0; i < 4; i++) {  // of head g: columns 16 j to 16 j + 15
      auto* at = reinterpret_cast<float4*>(to + g * D + j * 16 + i * 4);
      const float* from = &out[i / 2][i % 2 * 4];
      float4 sum{from[0], from[1], from[2], from[3]};
      if (!first) {
        const float4 old = *at;
        sum.x += kept * old.x, sum.y += kept * old.y, sum.z += kept * old.z, sum.w += kept * old.w;
      }
      *at = sum;
    }
  }

  /// A warp's blocks of keys, with a running softmax; sums and statistics to shared memory.
  __device__ void take_keys() const {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, j = lane % 4;
    const int of = warp % kKeyWarps, partner = warp / kKeyWarps;
    if (partner >= kPartners) return;
    float top[2] = {-INFINITY, -INFINITY}, total[2] = {};
    for (int block = unit.begin + of; block < unit.end; block += kKeyWarps) {
      const nv_bf16* at = block_at(block);
      const int low = unit.first_key - block * kBlockTokens, high = unit.position - block * kBlockTokens;  // keys low to high count
      uint32_t valid = 0xffffu;
      if (low > 0) valid &= 0xffffu << low;
      if (high < 15) valid &= 0xffffu >> (15 - high);
      float c[4] = {}, kept[2];
      score(c, at, partner * kColumns);
      const nv_bf16* values = at + kBlockTokens * D + partner * kColumns;
      uint4 v[4];
      load_values(v, values, valid);  // while the scores become weights
      if (kPartners == 2) add_partner(c, of, partner);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float by = p.scale * kLog2e;
        c[h] = valid >> g & 1 ? c[h] * by : -INFINITY;
        c[h + 2] = valid >> (g + 8) & 1 ? c[h + 2] * by : -INFINITY;
        float best = fmaxf(c[h], c[h + 2]);
#pragma unroll
        for (int o = 4; o < kWarp; o *= 2) best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, o));
        best = fmaxf(best, top[h]);
        kept[h] = exp2_approx(top[h] - best);  // of -infinity: 0
        top[h] = best;
        c[h] = exp2_approx(c[h] - best), c[h + 2] = exp2_approx(c[h + 2] - best);
        total[h] = total[h] * kept[h] + c[h] + c[h + 2];  // of this lane's keys: put together below
      }
      const uint32_t low_keys = transposed(pack_bf16(c[0], c[1])), high_keys = transposed(pack_bf16(c[2], c[3]));
      // What is kept of head g, which lanes with 2 j or 2 j + 1 = g know.
      const float kept0 = __shfl_sync(0xffffffffu, kept[0], g / 2), kept1 = __shfl_sync(0xffffffffu, kept[1], g / 2);
#pragma unroll 1
      for (int column = 0; column < kColumns; column += 64) {
        if (column) load_values(v, values + column, valid);
        add_values(&sums[of][0][partner * kColumns + column], g % 2 ? kept1 : kept0, low_keys, high_keys, v, block == unit.begin + of);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
      for (int o = 4; o < kWarp; o *= 2) total[h] += __shfl_xor_sync(0xffffffffu, total[h], o);
      if (partner == 0 && g == 0 && j * 2 + h < G) shared.stats[of][j * 2 + h] = {top[h], total[h]};
    }
  }

  /// The block's part. qkv: awaited; to(column): where two columns of the token and split go; stats: [n_heads].
  template <class To>
  __device__ void run(const float* qkv, To to, float2* stats) const {
    const int n = min(kKeyWarps, unit.end - unit.begin);  // warps that have keys
    sync();                                               // what these places held before has been read
    if (n > 0) {
      take_token(qkv);
      sync();
      take_keys();
      sync();
    }
    for (int i = threadIdx.x * 2; i < G * D; i += THREADS * 2) {
      const int head = i / D;
      float top = -INFINITY, total = 0;
      float2 sum{};
      for (int w = 0; w < n; w++) top = fmaxf(top, shared.stats[w][head].x);
      for (int w = 0; w < n; w++) {
        const float by = exp2_approx(shared.stats[w][head].x - top);
        const float2 part = *reinterpret_cast<const float2*>(&sums[w][head][i % D]);
        total += by * shared.stats[w][head].y;
        sum.x += by * part.x, sum.y += by * part.y;
      }
      publish(to(unit.kv_head * G * D + i), sum);
      if (i % D == 0) publish(stats + unit.kv_head * G + head, float2{top, total});
    }
    sync();  // the sums are the products' now
  }
};

}  // namespace lorikeet::cuda
#endif
