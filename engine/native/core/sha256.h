// SHA-256 (FIPS 180-4), and a content hash of files that uses every processor.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace lorikeet {

using Sha256Digest = std::array<uint8_t, 32>;

Sha256Digest sha256(std::string_view bytes);
std::string sha256_hex(std::string_view bytes);

// Hex name of large content: SHA-256 over the SHA-256 digests of its 8 MiB pieces and its length. `progress` gets bytes done.
std::string content_hash(std::string_view bytes, const std::function<void(uint64_t)>& progress = {});

// A fast 64-bit check sum against torn and rotten files; no protection against intent.
uint64_t checksum64(std::string_view bytes);

}  // namespace lorikeet
