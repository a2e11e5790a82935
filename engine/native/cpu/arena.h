// Scratch memory of training: taken in order, given back together, kept for the next call. Fresh pages cost more than most ops.
#pragma once
#include <algorithm>
#include <vector>

#include "allocate.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace lorikeet::CPU_NS {

class Arena {
 public:
  Arena() = default;
  ~Arena() {
#if defined(__SANITIZE_ADDRESS__)
    for (const Buffer& b : chunks_) ASAN_UNPOISON_MEMORY_REGION(b.data(), b.bytes());
#endif
  }
  /// Uninitialised, 64-byte aligned. Not inside a parallel region: it may throw.
  /// @throws Error OUT_OF_MEMORY
  template <class T>
  T* take(int64_t n) {
    return static_cast<T*>(take_bytes(size_t(n) * sizeof(T)));
  }

  /// What is taken while it lives goes back when it ends.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), chunk_(arena.chunk_), at_(arena.at_) {}
    ~Scope() {
      arena_.chunk_ = chunk_;
      arena_.at_ = at_;
      arena_.forbid_rest();
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    size_t chunk_, at_;
  };

 private:
  static constexpr size_t kChunkBytes = 8 << 20;

  void* take_bytes(size_t bytes) {
    const size_t whole = (bytes + 63) / 64 * 64 + kGapBytes;
    while (chunk_ < chunks_.size() && at_ + whole > chunks_[chunk_].bytes()) {
      chunk_++;
      at_ = 0;
    }
    if (chunk_ == chunks_.size()) {
      chunks_.push_back(allocate(std::max(whole, kChunkBytes)));
      forbid_rest();
    }
    char* taken = static_cast<char*>(chunks_[chunk_].data()) + at_;
    at_ += whole;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(taken, bytes);
#endif
    return taken;
  }

  /// The address sanitizer then sees whoever reads beyond what was taken.
  void forbid_rest() const {
#if defined(__SANITIZE_ADDRESS__)
    for (size_t c = chunk_; c < chunks_.size(); c++) {
      const size_t begin = c == chunk_ ? at_ : 0;
      ASAN_POISON_MEMORY_REGION(static_cast<char*>(chunks_[c].data()) + begin, chunks_[c].bytes() - begin);
    }
#endif
  }

#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kGapBytes = 64;
#else
  static constexpr size_t kGapBytes = 0;
#endif
  std::vector<Buffer> chunks_;
  size_t chunk_ = 0, at_ = 0;
};

}  // namespace lorikeet::CPU_NS
