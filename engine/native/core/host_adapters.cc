#include "host_adapters.h"

namespace lorikeet {

AdapterStamp adapter_stamp(const std::string& dir) {
  AdapterStamp stamp;
  const char* const names[] = {"/adapter_config.json", "/adapter_model.safetensors"};
  for (size_t i = 0; i < stamp.size(); i++)
    if (is_file(dir + names[i])) stamp[i] = file_stamp(dir + names[i]);
  return stamp;
}

std::shared_ptr<const HostAdapter> HostAdapters::find(const std::string& dir) {
  if (!has(dir)) return nullptr;
  const AdapterStamp stamp = adapter_stamp(dir);
  const std::lock_guard lock(mutex_);
  const auto found = by_dir_.find(dir);
  if (found == by_dir_.end()) return nullptr;
  if (found->second->stamp != stamp) {
    remove(found->second);
    return nullptr;
  }
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->adapter;
}

bool HostAdapters::has(const std::string& dir) const {
  const std::lock_guard lock(mutex_);
  return by_dir_.count(dir) > 0;
}

void HostAdapters::add(const std::string& dir, const AdapterStamp& stamp, std::shared_ptr<const HostAdapter> adapter) {
  const uint64_t bytes = adapter->image->bytes;
  if (bytes > max_bytes_) return;
  const std::lock_guard lock(mutex_);
  if (const auto old = by_dir_.find(dir); old != by_dir_.end()) remove(old->second);
  while (bytes_ + bytes > max_bytes_) remove(std::prev(entries_.end()));
  entries_.push_front({dir, stamp, std::move(adapter)});
  by_dir_[dir] = entries_.begin();
  bytes_ += bytes;
}

uint64_t HostAdapters::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

void HostAdapters::remove(std::list<Entry>::iterator entry) {
  bytes_ -= entry->adapter->image->bytes;
  by_dir_.erase(entry->dir);
  entries_.erase(entry);
}

}  // namespace lorikeet
