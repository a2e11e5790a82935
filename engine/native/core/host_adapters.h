// Adapters kept in host memory as images: what left its slot comes back by one copy. Within a budget of bytes; the least recently used
// leave first. Which files an image was made of is told by their size, inode and time.
#pragma once
#include <array>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "lora.h"
#include "mapped_file.h"

namespace lorikeet {

/// Of adapter_config.json and adapter_model.safetensors.
using AdapterStamp = std::array<FileStamp, 2>;
/// Zeros for files that are not there: reading them says so.
AdapterStamp adapter_stamp(const std::string& dir);

/// Thread-safe.
class HostAdapters {
 public:
  explicit HostAdapters(uint64_t max_bytes) : max_bytes_(max_bytes) {}

  /// Null where the folder is not here, or its files are others by now.
  std::shared_ptr<const HostAdapter> find(const std::string& dir);
  /// The same without a look at the files: find() may still say no.
  bool has(const std::string& dir) const;
  /// stamp: of before the files were read. An adapter larger than the budget is not kept.
  void add(const std::string& dir, const AdapterStamp& stamp, std::shared_ptr<const HostAdapter> adapter);
  uint64_t bytes() const;

 private:
  struct Entry {
    std::string dir;
    AdapterStamp stamp;
    std::shared_ptr<const HostAdapter> adapter;
  };
  void remove(std::list<Entry>::iterator entry);

  const uint64_t max_bytes_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // the most recently used first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_dir_;
  uint64_t bytes_ = 0;
};

}  // namespace lorikeet
