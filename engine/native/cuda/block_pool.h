// Blocks of memory that are slow to get and to give back (pinned or on a device): one that is returned is handed out again. Owns no use of
// them: whoever takes a block waits for those that still read it.
#pragma once
#include <cstddef>
#include <functional>
#include <mutex>
#include <vector>

#include "../core/tensor.h"

namespace lorikeet::cuda {

/// Thread-safe. When no idle block suffices, all of them are given back to the system first, so what is held stays near what is in use.
class BlockPool {
 public:
  using Allocate = std::function<Buffer(size_t bytes)>;
  explicit BlockPool(Allocate allocate) : allocate_(std::move(allocate)) {}

  /// The smallest idle block of at least `bytes`, else a new one. @throws Error OUT_OF_MEMORY
  Buffer take(size_t bytes);
  void give_back(Buffer block);
  size_t idle_bytes() const;

 private:
  Allocate allocate_;
  mutable std::mutex mutex_;
  std::vector<Buffer> idle_;
};

}  // namespace lorikeet::cuda
