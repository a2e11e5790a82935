#include "sha256.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "parallel.h"

namespace lorikeet {
namespace {

constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

using State = std::array<uint32_t, 8>;

uint32_t load_big_endian(const uint8_t* p) {
  return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | uint32_t{p[3]};
}

void compress_scalar(State& state, const uint8_t* data, uint64_t n_blocks) {
  for (; n_blocks > 0; --n_blocks, data += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) w[i] = load_big_endian(data + 4 * i);
    for (int i = 16; i < 64; ++i) {
      const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
      const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (int i = 0; i < 64; ++i) {
      const uint32_t t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
      const uint32_t t2 = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const State round{a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < 8; ++i) state[i] += round[i];
  }
}

#if defined(__x86_64__)
// Four rounds a step with the SHA extensions; the processor keeps the state as {ABEF, CDGH}.
__attribute__((target("sha,sse4.1,ssse3")))
void compress_sha_ni(State& state, const uint8_t* data, uint64_t n_blocks) {
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
  const auto lane = [](uint32_t x) { return static_cast<int>(x); };
  __m128i abef = _mm_set_epi32(lane(state[0]), lane(state[1]), lane(state[4]), lane(state[5]));
  __m128i cdgh = _mm_set_epi32(lane(state[2]), lane(state[3]), lane(state[6]), lane(state[7]));
  for (; n_blocks > 0; --n_blocks, data += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];
    for (int i = 0; i < 4; ++i) w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data) + i), big_endian);
    for (int step = 0; step < 16; ++step) {
      const __m128i w0 = w[step % 4], w1 = w[(step + 1) % 4], w2 = w[(step + 2) % 4], w3 = w[(step + 3) % 4];
      const __m128i keyed = _mm_add_epi32(w0, _mm_loadu_si128(reinterpret_cast<const __m128i*>(kRound) + step));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, keyed);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(keyed, 0x0E));
      w[step % 4] = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8(w3, w2, 4)), w3);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  alignas(16) uint32_t out[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(out), abef);
  _mm_store_si128(reinterpret_cast<__m128i*>(out) + 1, cdgh);
  state = {out[3], out[2], out[7], out[6], out[1], out[0], out[5], out[4]};
}

bool has_sha_ni() {
  unsigned a = 7, b = 0, c = 0, d = 0;
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (b >> 29 & 1) != 0 && __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("ssse3");
}
#endif

void compress(State& state, const uint8_t* data, uint64_t n_blocks) {
#if defined(__x86_64__)
  static const bool fast = has_sha_ni();
  if (fast) return compress_sha_ni(state, data, n_blocks);
#endif
  compress_scalar(state, data, n_blocks);
}

std::string hex(const uint8_t* bytes, size_t n) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < n; ++i) {
    out += kDigits[bytes[i] >> 4];
    out += kDigits[bytes[i] & 15];
  }
  return out;
}

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F, kPrime3 = 0x165667B19E3779F9;

uint64_t mix(uint64_t lane, uint64_t word) { return std::rotl(lane + word * kPrime2, 31) * kPrime1; }

}  // namespace

Sha256Digest sha256(std::string_view bytes) {
  State state{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  const uint64_t n_whole = bytes.size() / 64, rest = bytes.size() % 64;
  compress(state, data, n_whole);
  uint8_t tail[128] = {};
  if (rest > 0) std::memcpy(tail, data + n_whole * 64, rest);
  tail[rest] = 0x80;
  const uint64_t n_tail = rest < 56 ? 1 : 2, bits = uint64_t{bytes.size()} * 8;
  for (int i = 0; i < 8; ++i) tail[n_tail * 64 - 1 - static_cast<uint64_t>(i)] = static_cast<uint8_t>(bits >> (8 * i));
  compress(state, tail, n_tail);
  Sha256Digest digest;
  for (size_t i = 0; i < 32; ++i) digest[i] = static_cast<uint8_t>(state[i / 4] >> (24 - 8 * (i % 4)));
  return digest;
}

std::string sha256_hex(std::string_view bytes) { return hex(sha256(bytes).data(), 32); }

std::string content_hash(std::string_view bytes, const std::function<void(uint64_t)>& progress) {
  constexpr uint64_t kPiece = 8u << 20;
  const uint64_t n_pieces = (bytes.size() + kPiece - 1) / kPiece;
  std::vector<Sha256Digest> digests(n_pieces);
  std::mutex mutex;
  uint64_t done = 0;
  parallel_for(static_cast<int64_t>(n_pieces), [&](int64_t i) {
    const std::string_view piece = bytes.substr(static_cast<uint64_t>(i) * kPiece, kPiece);
    digests[static_cast<size_t>(i)] = sha256(piece);
    const std::lock_guard lock(mutex);
    done += piece.size();
    if (progress) progress(done);
  });
  std::string list = std::to_string(bytes.size()) + ':';
  for (const Sha256Digest& d : digests) list.append(reinterpret_cast<const char*>(d.data()), d.size());
  return sha256_hex(list);
}

uint64_t checksum64(std::string_view bytes) {
  uint64_t lanes[4] = {kPrime1, kPrime2, kPrime3, ~kPrime1};
  const char* p = bytes.data();
  uint64_t n = bytes.size();
  for (; n >= 32; n -= 32, p += 32) {
    uint64_t words[4];
    std::memcpy(words, p, 32);
    for (int i = 0; i < 4; ++i) lanes[i] = mix(lanes[i], words[i]);
  }
  uint64_t tail[4] = {};
  if (n > 0) std::memcpy(tail, p, n);
  for (int i = 0; i < 4; ++i) lanes[i] = mix(lanes[i], tail[i]);
  uint64_t sum = bytes.size() * kPrime3;
  for (const uint64_t lane : lanes) sum = mix(sum, lane ^ (lane >> 33));
  return sum ^ (sum >> 29);
}

}  // namespace lorikeet
