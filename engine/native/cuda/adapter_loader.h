// Adapters on their way to the device, beside running steps: converted once into an image in pinned host memory, then copied by a stream of
// its own into one piece of device memory. Both kinds of memory are used again: getting and freeing them halts the device.
#pragma once
#include "../core/lora.h"
#include "adapter_layout.h"
#include "block_pool.h"
#include "device.h"

namespace lorikeet::cuda {

class AdapterLoader {
 public:
  /// steps: the stream whose work reads adapters.
  AdapterLoader(int device, cudaStream_t steps);
  ~AdapterLoader();
  AdapterLoader(const AdapterLoader&) = delete;
  AdapterLoader& operator=(const AdapterLoader&) = delete;

  /// Any thread. @throws Error ADAPTER_RANK_TOO_LARGE
  std::shared_ptr<const AdapterImage> make_image(const AdapterFile& file, const ColumnScale& column_scale);

  /// Any thread; returns once the copy has arrived, so no step ever waits for it. Memory that a released adapter has left is written once
  /// the steps queued before its release are done. out: its saved matrices are there already. An adapter that was loaded is released on the
  /// thread that queues steps. @throws Error OUT_OF_MEMORY
  void load(const AdapterImage& image, DeviceAdapter& out);

 private:
  struct Memory;
  class Arena;

  int device_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t arrived_ = nullptr;
  std::mutex mutex_;                   // one copy at a time
  std::shared_ptr<BlockPool> pinned_;  // of images, which may outlive this
  std::shared_ptr<Memory> memory_;
};

/// For tests: where an image lies on the host, and its parts.
struct ImageView {
  const AdapterLayout& layout;
  const char* data;
};
ImageView view(const AdapterImage& image);

}  // namespace lorikeet::cuda
