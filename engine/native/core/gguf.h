// The GGUF container, versions 2 and 3: key-values and a tensor table over a mapped file, every count and offset checked
// before it is used. Strings and arrays stay in the file.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ggml_types.h"
#include "mapped_file.h"

namespace lorikeet {

enum class GgufType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

struct GgufValue {
  GgufType type = GgufType::kU8;
  GgufType item = GgufType::kU8;           // of an array
  uint64_t count = 0;                      // items of an array
  std::string_view bytes;                  // a string's text; otherwise the little-endian bytes of the value or the items
};

struct GgufTensor {
  std::string name;
  std::vector<int64_t> shape;              // rows first: the file's dimensions reversed
  const GgmlTypeInfo* type = nullptr;
  const uint8_t* data = nullptr;
  int64_t numel = 0;
};

class Gguf {
 public:
  // Throws MODEL_NOT_FOUND, FILE_INVALID, UNSUPPORTED (version, big-endian, a tensor type that is not read).
  static Gguf open(const std::string& path);

  const std::shared_ptr<MappedFile>& file() const { return file_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* tensor(std::string_view name) const;
  const GgufValue* find(std::string_view key) const;

  // Each throws FILE_INVALID when the key holds another type; nullopt when it is absent.
  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<std::string> string(std::string_view key) const;

 private:
  friend class GgufParser;
  std::shared_ptr<MappedFile> file_;
  std::vector<std::pair<std::string_view, GgufValue>> values_;   // sorted by key
  std::vector<GgufTensor> tensors_;                              // sorted by name
};

// Walks the strings of an array value: each item in turn, checked when the file was opened.
class GgufStrings {
 public:
  explicit GgufStrings(const GgufValue& array) : rest_(array.bytes) {}
  std::string_view next();

 private:
  std::string_view rest_;
};

}  // namespace lorikeet
