// Queries and keys of decode's attention, by warps whose lanes hold D / 32 neighbouring elements each.
#pragma once
#include "decode_attention.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

constexpr float kLog2e = 1.4426950408889634f;

template <int N>
struct Vector {  // N bf16
  uint32_t words[N / 2];
};

template <int N>
__device__ inline Vector<N> load_vector(const nv_bf16* p) {
  Vector<N> v;
  if constexpr (N == 8)
    *reinterpret_cast<uint4*>(v.words) = *reinterpret_cast<const uint4*>(p);
  else if constexpr (N == 4)
    *reinterpret_cast<uint2*>(v.words) = *reinterpret_cast<const uint2*>(p);
  else
    v.words[0] = *reinterpret_cast<const uint32_t*>(p);
  return v;
}

template <int N>
__device__ inline float element(const Vector<N>& v, int j) {
  const uint32_t word = v.words[j / 2];
  return __uint_as_float(j % 2 ? word & 0xffff0000u : word << 16);
}

__device__ inline float rounded(float v) { return __bfloat162float(__float2bfloat16(v)); }

/// One warp: rope(rmsnorm(x, w)), rounded to bf16 as the cache has it, times `by`. A lane has D / 64 elements of each half.
template <int D>
__device__ void norm_rope(float* out, const float* x, const float* w, const float* rope, float eps, float by) {
  constexpr int kHalf = D / 2, kPer = kHalf / kWarp;
  const int lane = threadIdx.x % kWarp;
  float a[kPer], b[kPer], sum = 0;
#pragma unroll
  for (int j = 0; j < kPer; j++) {
    a[j] = __ldcg(x + lane + j * kWarp);
    b[j] = __ldcg(x + kHalf + lane + j * kWarp);
    sum += a[j] * a[j] + b[j] * b[j];
  }
  const float r = rsqrtf(warp_sum(sum) / float(D) + eps);
#pragma unroll
  for (int j = 0; j < kPer; j++) {
    const int i = lane + j * kWarp;
    const float p = a[j] * r * (1.0f + w[i]), q = b[j] * r * (1.0f + w[kHalf + i]), cos = rope[i], sin = rope[kHalf + i];
    out[i] = rounded(p * cos - q * sin) * by;
    out[kHalf + i] = rounded(q * cos + p * sin) * by;
  }
}

/// Softmax over what a warp has seen.
template <int G, int PER>
struct Running {
  float top[G], total[G], sum[G][PER];
};

/// N keys at once; a key that is not `valid` counts nothing.
template <int G, int PER, int N>
__device__ inline void take_keys(Running<G, PER>& run, const float (&q)[G][PER], const Vector<PER> (&keys)[N],
                                 const Vector<PER> (&values)[N], int n_valid) {
#pragma unroll
  for (int g = 0; g < G; g++) {
    float score[N], high = run.top[g];
#pragma unroll
    for (int n = 0; n < N; n++) {
      float dot = 0;
#pragma unroll
      for (int j = 0; j < PER; j++) dot += q[g][j] * element(keys[n], j);
      score[n] = n < n_valid ? warp_sum(dot) : -INFINITY;
      high = fmaxf(high, score[n]);
    }
    const float shrink = exp2f(run.top[g] - high);  // the first time 2^-inf = 0
    run.top[g] = high;
    run.total[g] *= shrink;
#pragma unroll
    for (int j = 0; j < PER; j++) run.sum[g][j] *= shrink;
#pragma unroll
    for (int n = 0; n < N; n++) {
      const float weight = exp2f(score[n] - high);
      run.total[g] += weight;
#pragma unroll
      for (int j = 0; j < PER; j++) run.sum[g][j] += n < n_valid ? weight * element(values[n], j) : 0.0f;
    }
  }
}

template <int D, int G, int W>
struct AttentionShared {
  float q[G][D];
  float key[D], value[D];  // the token's own
  float sums[W][G][D];
  float2 stats[W][G];
};

/// One block's part of attention: token t, the G query heads of a kv head, one split of the keys. The queries are normed and rotated here;
/// the block whose keys reach up to the token's own also writes that key and value to the cache, and takes them from shared memory. W warps
/// take two or four keys at a time, with a running softmax in registers, and are merged in shared memory. wait(): until qkv is there.
template <int D, int G, int W, class Wait>
__device__ inline void attend(AttentionShared<D, G, W>& shared, const DecodeAttentionArgs& p, int split, int kv_head, int t, Wait wait) {
  constexpr int PER = D / kWarp, kKeysAtOnce = G * PER >= 32 ? 2 : 4;  // as many as registers hold
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int position = p.step->positions[t];
  const DeviceRow row = p.step->rows[t];
  const int first = p.window ? max(0, position - p.window + 1) : 0, n_keys = position + 1 - first;
  const int chunk = ceil_div(max(n_keys, 1), p.n_splits), begin = first + split * chunk, end = min(position + 1, begin + chunk);
  float2* stats = p.part_stats + (t * p.n_splits + split) * p.n_heads + kv_head * G;
  if (position < 0 || begin >= end) {  // padding, or fewer keys than splits
    wait();
    if (threadIdx.x < G) stats[threadIdx.x] = {-INFINITY, 0};
    return;
  }
  const bool own = end == position + 1;
  const int cached_end = own ? position : end;
  Vector<PER> keys[kKeysAtOnce], values[kKeysAtOnce];
  const auto load_keys = [&](int base) {
    int n_valid = 0;
#pragma unroll
    for (int n = 0; n < kKeysAtOnce; n++) {
      const int key = base + n * W;
      if (key >= cached_end) continue;
      const nv_bf16* at = p.pool.keys(block_of(row, p.tables, p.sliding, key), kv_head) + key % kBlockTokens * D + lane * PER;
      keys[n] = load_vector<PER>(at);
      values[n] = load_vector<PER>(at + kBlockTokens * D);
      n_valid = n + 1;
    }
    return n_valid;
  };
  int n_valid = warp < W ? load_keys(begin + warp) : 0;  // cached by earlier steps: no need to wait
  wait();

  const float* qkv = p.qkv + int64_t(t) * (p.n_heads + 2 * p.n_kv_heads) * D;
  const float* rope = p.rope + int64_t(t) * D;
  for (int h = warp; h < G + (own ? 2 : 0); h += blockDim.x / kWarp) {
    if (h < G)
      norm_rope<D>(shared.q[h], qkv + (kv_head * G + h) * D, p.q_norm, rope, p.eps, p.scale * kLog2e);
    else if (h == G)
      norm_rope<D>(shared.key, qkv + (p.n_heads + kv_head) * D, p.k_norm, rope, p.eps, 1.0f);
    else
      for (int i = lane; i < D; i += kWarp) shared.value[i] = rounded(__ldcg(qkv + (p.n_heads + p.n_kv_heads + kv_head) * D + i));
  }
  __syncthreads();

  float q[G][PER];
  Running<G, PER> run;
#pragma unroll
  for (int g = 0; g < G; g++) {
    run.top[g] = -INFINITY;
    run.total[g] = 0;
#pragma unroll
    for (int j = 0; j < PER; j++) {
      q[g][j] = shared.q[g][lane * PER + j];
      run.sum[g][j] = 0;
    }
  }
  for (int base = begin + warp; n_valid > 0;) {
    take_keys<G, PER, kKeysAtOnce>(run, q, keys, values, n_valid);
    n_valid = load_keys(base += W * kKeysAtOnce);
  }
  if (own && warp == W - 1) {
    Vector<PER> key[1], value[1];
    nv_bf16* to = p.pool.keys(block_of(row, p.tables, p.sliding, position), kv_head) + position % kBlockTokens * D + lane * PER;
#pragma unroll
    for (int j = 0; j < PER / 2; j++) {
      key[0].words[j] = pack_bf16(shared.key[lane * PER + j * 2], shared.key[lane * PER + j * 2 + 1]);
      value[0].words[j] = pack_bf16(shared.value[lane * PER + j * 2], shared.value[lane * PER + j * 2 + 1]);
      reinterpret_cast<uint32_t*>(to)[j] = key[0].words[j];
      reinterpret_cast<uint32_t*>(to + kBlockTokens * D)[j] = value[0].words[j];
    }
    take_keys<G, PER, 1>(run, q, key, value, 1);
  }

  if (warp < W) {
#pragma unroll
    for (int g = 0; g < G; g++) {
#pragma unroll
      for (int j = 0; j < PER; j++) shared.sums[warp][g][lane * PER + j] = run.sum[g][j];
      if (lane == 0) shared.stats[warp][g] = {run.top[g], run.total[g]};
    }
  }
  __syncthreads();
  for (int i = threadIdx.x * 4; i < G * D; i += blockDim.x * 4) {
    const int g = i / D;
    float top = -INFINITY, total = 0;
    for (int w = 0; w < W; w++) top = fmaxf(top, shared.stats[w][g].x);
    float4 v{};
    for (int w = 0; w < W; w++) {
      const float by = exp2f(shared.stats[w][g].x - top);  // a warp without keys: 0
      const float4 part = *reinterpret_cast<const float4*>(&shared.sums[w][g][i % D]);
      total += by * shared.stats[w][g].y;
      v.x += by * part.x, v.y += by * part.y, v.z += by * part.z, v.w += by * part.w;
    }
    *reinterpret_cast<float4*>(p.part_sums + (int64_t(t) * p.n_splits + split) * p.n_heads * D + kv_head * G * D + i) = v;
    if (i % D == 0) stats[g] = {top, total};
  }
}

}  // namespace lorikeet::cuda
#endif
