// The safetensors container: a reader that trusts nothing in the file, and a writer with the reference library's layout.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "host_tensor.h"
#include "mapped_file.h"

namespace lorikeet {

struct SafetensorsLimits {
  uint64_t header_bytes = 100'000'000;     // the reference library's own limit
  uint64_t tensors = 100'000;
};
constexpr SafetensorsLimits kAdapterLimits{4u << 20, 20'000};

struct TensorInfo {
  std::string name;
  FileDtype dtype = FileDtype::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;                      // [begin, end) within the data section
  uint64_t end = 0;
};

// Refused: a header that does not start with {, is no object, not UTF-8, deeper or longer than the limits, or names a tensor
// twice; an unknown dtype; a negative, fractional or overflowing shape; bytes that differ from shape times dtype; tensors that
// overlap, leave a hole, reach past the end, or do not cover the data section to its last byte.
class Safetensors {
 public:
  Safetensors(const Safetensors&) = delete;
  Safetensors(Safetensors&&) = default;

  // Maps the file. Throws MODEL_NOT_FOUND, FILE_INVALID.
  static Safetensors map(const std::string& path, const SafetensorsLimits& limits = {});
  // Over bytes that `owner` keeps alive; `name` stands in messages.
  static Safetensors parse(const std::string& name, std::string_view bytes, std::shared_ptr<const void> owner,
                           const SafetensorsLimits& limits = {});

  // Reads and checks the header alone; tensor() works after load(), which reads the data into owned memory. For files that
  // must not be mapped, and must be judged before their size is allocated.
  static Safetensors open_owned(const std::string& path, const SafetensorsLimits& limits);
  void load();

  const std::vector<TensorInfo>& tensors() const { return tensors_; }   // in header order
  const TensorInfo* find(std::string_view name) const;
  // The tensor's bytes in place (copied where the file does not align them to their dtype).
  HostTensor tensor(const TensorInfo& info) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& name() const { return name_; }
  uint64_t data_bytes() const { return data_bytes_; }

 private:
  Safetensors() = default;
  void parse_header(std::string_view header, const SafetensorsLimits& limits);

  std::string name_;
  const char* data_ = nullptr;             // null before load()
  uint64_t data_bytes_ = 0;
  std::shared_ptr<FileReader> reader_;     // of open_owned
  std::shared_ptr<const void> owner_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string_view, size_t> index_;   // keys point into tensors_
  std::map<std::string, std::string> metadata_;
};

struct NamedTensor {
  std::string name;
  FileDtype dtype = FileDtype::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;              // not used by plan_safetensors
};

using Metadata = std::vector<std::pair<std::string, std::string>>;

// Puts `tensors` into file order (falling dtype size, then name as bytes) and returns the length field and header for them,
// metadata first, padded with spaces to 8 bytes.
std::string plan_safetensors(std::vector<NamedTensor>& tensors, const Metadata& metadata);

// Durable and atomic: the file appears whole or not at all.
void write_safetensors(const std::string& path, std::vector<NamedTensor> tensors, const Metadata& metadata = {{"format", "pt"}});

}  // namespace lorikeet
