// Draws that no list holds: a top_k of thousands, or thousands of nearly equal scores. One block walks the row some ten times and finds
// ids by weight: masses are 64-bit integers, so that atomic sums are the same in any order. For sampler_choose.cu and sampler_mass.cu.
#pragma once
#include "sampler_select.h"

#if defined(__CUDACC__)
namespace lorikeet::cuda {

constexpr float kWeightOne = 17592186044416.0f;  // 2^44, of the best score: 2^18 of them stay below 2^63
constexpr float kBinsPerNat = 64;                // 32 nats down, a weight is below one

/// What a score weighs, and how far below the best it is, in steps that no higher score exceeds.
struct MassScale {
  float top, inverse, min_p, bins_per_nat;

  __device__ u64 weight(float v) const {
    if (v == top) return u64(kWeightOne);
    const float w = expf((v - top) * inverse);
    return min_p > 0 && w < min_p ? 0 : __float2ull_rn(w * kWeightOne);
  }
  __device__ int bin(float v) const { return v == top ? 0 : int(fminf((top - v) * inverse * bins_per_nat, float(kBins - 1))); }
};

/// A 64-bit sum in shared memory, in two halves: there are no 64-bit atomic additions there.
__device__ inline void add_mass(uint32_t* low, uint32_t* high, int at, u64 mass) {
  const uint32_t small = uint32_t(mass);
  const uint32_t carry = atomicAdd(&low[at], small) > ~small;
  if (uint32_t(mass >> 32) + carry) atomicAdd(&high[at], uint32_t(mass >> 32) + carry);
}

/// A prefix of the row in order of choice: keys above `key`, and the first `ties` ids of those with it.
struct Boundary {
  uint32_t key;
  int ties;
};

class WideRow {
 public:
  __device__ WideRow(const ScoreRow& row, const SampleRow& options, float top, SelectShared& sh)
      : row_(row), p_(options), scale_{top, options.inverse, options.min_p, kBinsPerNat}, sh_(sh) {}

  __device__ int draw() {
    limit_ = p_.top_k > 0 && p_.top_k < row_.V ? kth(p_.top_k) : Boundary{0, 0};
    u64 mass = fill_masses();
    if (p_.top_p < 1) {
      const u64 wanted = u64(ceil(double(p_.top_p) * double(mass)));
      limit_ = locate(wanted < 1 ? 1 : wanted > mass ? mass : wanted, mass);
      mass = fill_masses();
    }
    const u64 target = u64(p_.u * double(mass)) + 1;
    u64 ignored;
    const Boundary drawn = locate(target > mass ? mass : target, ignored);
    return nth_of_equals(drawn.key, drawn.ties - 1);
  }

 private:
  template <class F>
  __device__ void each(F use) const {
    for (int i = threadIdx.x * 4; i < row_.V; i += kSelectThreads * 4) {
      float v[4];
      row_.load4(v, i);
      for (int j = 0; j < 4; j++)
        if (i + j < row_.V) use(v[j], order_key(v[j]));
    }
  }

  __device__ u64 weight(float v) const { return scale_.weight(v); }
  __device__ int bin(float v) const { return scale_.bin(v); }

  __device__ static void clear(uint32_t* low, uint32_t* high) {
    __syncthreads();
    for (int i = threadIdx.x; i < kBins; i += kSelectThreads) low[i] = high[i] = 0;
    __syncthreads();
  }
  /// Bin where the running sum reaches target (>= 1); sh.before: the sum before it. total: of all bins.
  __device__ int find_bin(const uint32_t* low, const uint32_t* high, u64 target, u64& total) {
    constexpr int kEach = kBins / kSelectThreads;
    u64 mass[kEach], mine = 0;
    __syncthreads();
    for (int j = 0; j < kEach; j++) {
      const int at = threadIdx.x * kEach + j;
      mass[j] = u64(high[at]) << 32 | low[at];
      mine += mass[j];
    }
    u64 before = exclusive_scan(mine, total, sh_.words);
    for (int j = 0; j < kEach; j++) {
      if (before < target && target <= before + mass[j]) sh_.pick = threadIdx.x * kEach + j, sh_.before = before;
      before += mass[j];
    }
    __syncthreads();
    return sh_.pick;
  }

  /// Masses by distance from the best score, within the limit; returns their sum.
  __device__ u64 fill_masses() {
    clear(sh_.low, sh_.high);
    each([&](float v, uint32_t key) {
      if (key <= limit_.key) return;
      const u64 w = weight(v);
      if (w) add_mass(sh_.low, sh_.high, bin(v), w);
    });
    const float tied = key_score(limit_.key);
    if (threadIdx.x == 0 && limit_.key && weight(tied)) add_mass(sh_.low, sh_.high, bin(tied), weight(tied) * u64(limit_.ties));
    u64 total;
    find_bin(sh_.low, sh_.high, 1, total);
    return total;
  }

  /// Digits of the keys of `wanted` scores, largest first: 11, 11 and 10 bits. `amount` is what a score adds, `tied` what the limit adds.
  template <class Wanted, class Amount>
  __device__ uint32_t descend(u64& target, Wanted wanted, Amount amount, u64 tied) {
    auto* low = reinterpret_cast<uint32_t*>(sh_.list);  // the list is not in use
    uint32_t* high = low + kBins;
    uint32_t prefix = 0, mask = 0;
    for (int shift : {21, 10, 0}) {
      const uint32_t digits = shift ? 0x7ff : 0x3ff;
      clear(low, high);
      each([&](float v, uint32_t key) {
        if ((key & mask) == prefix && key > limit_.key && wanted(v)) add_mass(low, high, int(digits - (key >> shift & digits)), amount(v));
      });
      if (threadIdx.x == 0 && tied && (limit_.key & mask) == prefix)
        add_mass(low, high, int(digits - (limit_.key >> shift & digits)), tied);
      u64 total;
      const int at = find_bin(low, high, target, total);
      target -= sh_.before;
      prefix |= (digits - uint32_t(at)) << shift;
      mask |= digits << shift;
    }
    return prefix;
  }

  /// Where the k best end.
  __device__ Boundary kth(int k) {
    limit_ = {0, 0};
    u64 left = u64(k);
    const uint32_t key = descend(left, [](float) { return true; }, [](float) { return u64(1); }, 0);
    return {key, int(left)};
  }

  /// The shortest prefix whose mass reaches target, of the masses last filled; mass: what it weighs.
  __device__ Boundary locate(u64 target, u64& mass) {
    u64 total, left = target;
    const int chosen = find_bin(sh_.low, sh_.high, target, total);
    left -= sh_.before;
    const float limit_score = key_score(limit_.key);
    const u64 tied = limit_.key && bin(limit_score) == chosen ? weight(limit_score) * u64(limit_.ties) : 0;
    const uint32_t key = descend(left, [&](float v) { return bin(v) == chosen; }, [&](float v) { return weight(v); }, tied);
    const u64 each_weighs = weight(key_score(key));
    const u64 ties = (left + each_weighs - 1) / each_weighs;
    mass = target - left + ties * each_weighs;
    return {key, int(ties)};
  }

  /// Id of the n-th (from 0) of the scores with this key: warps count a stretch each, then one walks its own again.
  __device__ int nth_of_equals(uint32_t key, int n) {
    const int stretch = (row_.V + kSelectWarps * kWarp - 1) / (kSelectWarps * kWarp) * kWarp, begin = warp_id() * stretch;
    const int end = min(row_.V, begin + stretch);
    const auto equals = [&](int i) {
      return __ballot_sync(kAllLanes, i + lane_id() < end && order_key(row_.values[i + lane_id()]) == key);
    };
    int found = 0;
    for (int i = begin; i < end; i += kWarp) found += __popc(equals(i));
    __syncthreads();
    if (lane_id() == 0) sh_.words[warp_id()] = u64(found);
    __syncthreads();
    int before = 0;
    for (int w = 0; w < warp_id(); w++) before += int(sh_.words[w]);
    if (n >= before && n < before + found)
      for (int i = begin; i < end; i += kWarp) {
        const unsigned mask = equals(i);
        if (n < before + __popc(mask)) {
          if (lane_id() == 0) sh_.pick = i + int(__fns(mask, 0, n - before + 1));
          break;
        }
        before += __popc(mask);
      }
    __syncthreads();
    return sh_.pick;
  }

  const ScoreRow& row_;
  const SampleRow& p_;
  MassScale scale_;
  SelectShared& sh_;
  Boundary limit_{0, 0};
};

}  // namespace lorikeet::cuda
#endif
