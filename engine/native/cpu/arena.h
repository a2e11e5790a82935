// Scratch memory of training: taken in order, given back together, kept for the next call. Fresh pages cost more than most ops.
#pragma once
#include <vector>

#include "allocate.h"

namespace lorikeet::CPU_NS {

class Arena {
 public:
  /// Uninitialised, 64-byte aligned. Not inside a parallel region: it may throw.
  /// @throws Error OUT_OF_MEMORY
  template <class T>
  T* take(int64_t n) {
    return static_cast<T*>(take_bytes((size_t(n) * sizeof(T) + 63) / 64 * 64));
  }

  /// What is taken while it lives goes back when it ends.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), chunk_(arena.chunk_), at_(arena.at_) {}
    ~Scope() { arena_.chunk_ = chunk_; arena_.at_ = at_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    size_t chunk_, at_;
  };

 private:
  static constexpr size_t kChunkBytes = 8 << 20;

  void* take_bytes(size_t bytes) {
    while (chunk_ < chunks_.size() && at_ + bytes > chunks_[chunk_].bytes()) {
      chunk_++;
      at_ = 0;
    }
    if (chunk_ == chunks_.size()) chunks_.push_back(allocate(bytes > kChunkBytes ? bytes : kChunkBytes));
    void* taken = static_cast<char*>(chunks_[chunk_].data()) + at_;
    at_ += bytes;
    return taken;
  }

  std::vector<Buffer> chunks_;
  size_t chunk_ = 0, at_ = 0;
};

}  // namespace lorikeet::CPU_NS
