#include "block_pool.h"

#include <algorithm>

namespace lorikeet::cuda {
namespace {

constexpr size_t kGranularity = 2 << 20;  // sizes that differ by less share a block

}  // namespace

Buffer BlockPool::take(size_t bytes) {
  const size_t rounded = std::max<size_t>(1, (bytes + kGranularity - 1) / kGranularity) * kGranularity;
  std::vector<Buffer> too_small;  // freed after the lock
  {
    const std::lock_guard lock(mutex_);
    const auto best = std::min_element(idle_.begin(), idle_.end(), [&](const Buffer& a, const Buffer& b) {
      return (a.bytes() < bytes ? SIZE_MAX : a.bytes()) < (b.bytes() < bytes ? SIZE_MAX : b.bytes());
    });
    if (best != idle_.end() && best->bytes() >= bytes) {
      Buffer found = std::move(*best);
      idle_.erase(best);
      return found;
    }
    too_small = std::move(idle_);
    idle_.clear();
  }
  too_small.clear();
  return allocate_(rounded);
}

void BlockPool::give_back(Buffer block) {
  if (!block.data()) return;
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(block));
}

size_t BlockPool::idle_bytes() const {
  const std::lock_guard lock(mutex_);
  size_t bytes = 0;
  for (const Buffer& block : idle_) bytes += block.bytes();
  return bytes;
}

}  // namespace lorikeet::cuda
