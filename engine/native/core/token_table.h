// Compact tables of a tokenizer's 262,144 strings: from string to id, and the longest token at a place in a text.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace lorikeet {

constexpr int32_t kNone = -1;

inline uint64_t hash_bytes(std::string_view s) {
  uint64_t h = s.size() * 0x9E3779B97F4A7C15u;
  const char* p = s.data();
  size_t n = s.size();
  for (; n >= 8; n -= 8, p += 8) {
    uint64_t w;
    std::memcpy(&w, p, 8);
    h = (h ^ w) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
  }
  uint64_t w = 0;
  if (n > 0) std::memcpy(&w, p, n);
  h = (h ^ w) * 0xD6E8FEB86659FD93u;
  return h ^ (h >> 32);
}

// The token strings in one buffer, and an open-addressed table from string to id.
class Vocabulary {
 public:
  void reserve(size_t n_tokens, size_t n_bytes) {
    offsets_.reserve(n_tokens + 1);
    bytes_.reserve(n_bytes);
    size_t n_slots = 16;
    while (n_slots < 2 * n_tokens) n_slots *= 2;
    slots_.assign(n_slots, kNone);
  }
  void add(std::string_view token) {
    bytes_ += token;
    offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
    size_t slot = hash_bytes(token) & (slots_.size() - 1);
    while (slots_[slot] != kNone) {
      if ((*this)[slots_[slot]] == token) return;   // the first of two equal tokens counts
      slot = (slot + 1) & (slots_.size() - 1);
    }
    slots_[slot] = static_cast<int32_t>(size()) - 1;
  }
  int32_t find(std::string_view token) const {
    for (size_t slot = hash_bytes(token) & (slots_.size() - 1); slots_[slot] != kNone; slot = (slot + 1) & (slots_.size() - 1)) {
      if ((*this)[slots_[slot]] == token) return slots_[slot];
    }
    return kNone;
  }
  std::string_view operator[](int32_t id) const {
    const auto i = static_cast<size_t>(id);
    return std::string_view(bytes_).substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
  }
  size_t size() const { return offsets_.size() - 1; }

 private:
  std::string bytes_;
  std::vector<uint32_t> offsets_{0};
  std::vector<int32_t> slots_;
};

// Tokens that are cut out of the text before anything else, longest first. A trie whose edges share one hash table.
class Trie {
 public:
  void add(std::string_view token, int32_t id) {
    uint32_t node = 0;
    for (const char c : token) {
      uint32_t& next = edge(node, c);
      if (next == 0) {
        next = static_cast<uint32_t>(ids_.size());
        ids_.push_back(kNone);
      }
      node = next;
    }
    ids_[node] = id;
    starts_[static_cast<uint8_t>(token[0])] = true;
  }
  bool starts(char c) const { return starts_[static_cast<uint8_t>(c)]; }

  // The longest token at the start of `text` that `accept`s; its length, or 0.
  template <typename Accept>
  size_t match(std::string_view text, int32_t& id, Accept accept) const {
    size_t length = 0;
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      node = find(node, text[i]);
      if (node == 0) break;
      if (ids_[node] == kNone || !accept(ids_[node])) continue;
      id = ids_[node];
      length = i + 1;
    }
    return length;
  }

 private:
  struct Edge {
    uint32_t key = 0, next = 0;            // key = node << 8 | byte; next 0 = empty
  };
  static uint32_t key(uint32_t node, char c) { return node << 8 | static_cast<uint8_t>(c); }
  size_t slot(uint32_t k) const {
    size_t i = (k * 0x9E3779B97F4A7C15u >> 32) & (edges_.size() - 1);
    while (edges_[i].next != 0 && edges_[i].key != k) i = (i + 1) & (edges_.size() - 1);
    return i;
  }
  uint32_t find(uint32_t node, char c) const { return edges_[slot(key(node, c))].next; }
  uint32_t& edge(uint32_t node, char c) {
    if (2 * ids_.size() >= edges_.size()) grow();
    Edge& e = edges_[slot(key(node, c))];
    e.key = key(node, c);
    return e.next;
  }
  void grow() {
    std::vector<Edge> old(edges_.size() * 2);
    old.swap(edges_);
    for (const Edge& e : old) {
      if (e.next != 0) edges_[slot(e.key)] = e;
    }
  }

  std::vector<Edge> edges_ = std::vector<Edge>(1024);
  std::vector<int32_t> ids_{kNone};        // by node
  bool starts_[256] = {};
};

}  // namespace lorikeet
