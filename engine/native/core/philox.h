// Philox4x32-10 (Salmon et al., 2011): random numbers as a function of (seed, counter), the same on every device and in any batch.
#pragma once
#include <array>
#include <cstdint>

namespace lorikeet {

inline std::array<uint32_t, 4> philox(uint64_t seed, uint64_t counter, uint64_t stream = 0) {
  std::array<uint32_t, 4> c = {uint32_t(counter), uint32_t(counter >> 32), uint32_t(stream), uint32_t(stream >> 32)};
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c[0], p1 = uint64_t(0xCD9E8D57u) * c[2];
    c = {uint32_t(p1 >> 32) ^ c[1] ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ k1, uint32_t(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

/// In [0, 1), 53 bits.
inline double uniform(uint64_t seed, uint64_t counter) {
  const auto r = philox(seed, counter);
  return double((uint64_t(r[0]) << 21) ^ (r[1] >> 11)) * 0x1p-53;
}

}  // namespace lorikeet
